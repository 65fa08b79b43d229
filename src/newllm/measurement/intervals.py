"""Means with 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean (or a difference of means) and the half-width of its 95 % interval; None where it cannot be known."""

    mean: float
    half_width: float | None

    @property
    def low(self) -> float | None:
        """Lower bound of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper bound of the interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; false without one."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval: t(0.975, n - 1) · s / √n, s the sample standard deviation.

    One value has no interval; ValueError for none.
    """
    if not values:
        raise ValueError("the mean of no values")
    if len(values) == 1:
        return Estimate(values[0], None)
    return Estimate(float(np.mean(values)), quantile(len(values) - 1) * math.sqrt(squared_error(values)))


def squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean."""
    if min(values) == max(values):
        return 0.0  # whatever the mean of equal values rounds to
    return float(np.var(values, ddof=1)) / len(values)


def quantile(degrees_of_freedom: float) -> float:
    """Of Student's distribution, for a two-sided interval."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))
