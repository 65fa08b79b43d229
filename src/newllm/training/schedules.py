"""Learning rate and gradient clipping by the study's rules, and the warm-up that the study does without."""

import math
from collections.abc import Sequence

from torch import Tensor


def scaled_learning_rate(base_rate: float, batch_size: int, base_batch_size: int) -> float:
    """The square-root rule: the base rate times the square root of the relative batch size."""
    return base_rate * math.sqrt(batch_size / base_batch_size)


def max_gradient_norm(schedule: Sequence[Sequence[float]], epoch: int) -> float:
    """The clipping threshold of an epoch (counted from 1) from entries [from epoch, largest norm] in their order."""
    return [norm for start, norm in schedule if start <= epoch][-1]


def warm_up(step: Tensor, warmup_steps: int) -> Tensor:
    """The factor of the learning rate in a training step (counted from 0): it grows linearly to 1 over the warm-up."""
    return ((step + 1) / max(warmup_steps, 1)).clamp(max=1)
