"""What the steps of an epoch add up to."""

import torch
from torch import Tensor


class EpochTotals:
    """Sums over the steps of an epoch, for each seed, on the device."""

    def __init__(self, num_seeds: int, device: torch.device) -> None:
        self._sums = torch.zeros(6, num_seeds, dtype=torch.float64, device=device)
        self.loss, self.targets, self.norm, self.applied, self.steps, self.failed_step = self._sums

    def clear(self) -> None:
        """Starts an epoch."""
        self._sums.zero_()
        self.failed_step.fill_(-1)

    def add(self, losses: Tensor, counts: Tensor, norm: Tensor, failed: Tensor) -> None:
        """Adds a step: sums of losses, numbers of targets, gradient norms, and whether it failed beyond cure [S]."""
        finite = norm.isfinite()
        self.loss += losses
        self.targets += counts
        self.norm += norm.masked_fill(~finite, 0)
        self.applied += finite
        self.failed_step.copy_(torch.where(failed & (self.failed_step < 0), self.steps, self.failed_step))
        self.steps += 1

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token-weighted mean loss, mean gradient norm over steps that were not skipped, first failed step or -1."""
        return self.loss / self.targets, self.norm / self.applied.clamp(min=1), self.failed_step
