"""Learning rate and gradient clipping by the study's rules."""

import math
from collections.abc import Sequence


def scaled_learning_rate(base_rate: float, batch_size: int, base_batch_size: int) -> float:
    """The square-root rule: the base rate times the square root of the relative batch size."""
    return base_rate * math.sqrt(batch_size / base_batch_size)


def max_gradient_norm(schedule: Sequence[Sequence[float]], epoch: int) -> float:
    """The clipping threshold of an epoch (counted from 1) from entries [from epoch, largest norm] in their order."""
    return [norm for start, norm in schedule if start <= epoch][-1]
