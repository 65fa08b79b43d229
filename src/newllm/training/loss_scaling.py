"""Dynamic loss scaling, one scale a seed, entirely on the device (the host never waits to learn of an overflow).

FP16 gradients of a mean loss underflow; multiplying the loss keeps them in range (Micikevicius et al., 2018). The
constants are those of torch.amp.GradScaler.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000  # steps without overflow after which the scale doubles
SMALLEST_SCALE = 2.0**-14  # an overflow that even this scale does not cure is no matter of range


class LossScaler:
    """Loss scales [S] that halve at an overflow and double after a long run without one; fixed at 1 if not enabled."""

    def __init__(self, num_seeds: int, device: torch.device, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = torch.full((num_seeds,), INITIAL_SCALE if enabled else 1.0, device=device)
        self.streak = torch.zeros(num_seeds, device=device)

    def update(self, finite: Tensor) -> Tensor:
        """Adapts the scales to whether each seed's gradients were finite [S]; returns where no scale can help [S]."""
        if not self.enabled:
            return ~finite
        incurable = ~finite & (self.scale <= SMALLEST_SCALE)
        self.streak.add_(1).masked_fill_(~finite, 0)
        grows = self.streak >= GROWTH_INTERVAL
        self.streak.masked_fill_(grows, 0)
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5))
        return incurable

    def select(self, rows: Sequence[int]) -> None:
        """Keeps only some seeds."""
        self.scale, self.streak = self.scale[list(rows)], self.streak[list(rows)]
