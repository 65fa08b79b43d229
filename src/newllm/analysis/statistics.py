"""Means over seeds with 95 % intervals, and differences between depths."""

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
    return Estimate(float(np.mean(values)), _quantile(len(values) - 1) * math.sqrt(_squared_error(values)))


def difference_interval(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The difference mean(values) - mean(baseline) with Welch's interval for unequal variances.

    Degrees of freedom by Welch and Satterthwaite. The samples count as independent: a seed number that two depths
    share draws weights of different shapes. No interval if a sample has one value.
    """
    difference = float(np.mean(values) - np.mean(baseline))
    if min(len(values), len(baseline)) == 1:
        return Estimate(difference, None)
    errors = [_squared_error(values), _squared_error(baseline)]
    total = sum(errors)
    if total == 0:
        return Estimate(difference, 0.0)
    shares = [error / total for error in errors]
    inverse = shares[0] ** 2 / (len(values) - 1) + shares[1] ** 2 / (len(baseline) - 1)
    return Estimate(difference, _quantile(1 / inverse) * math.sqrt(total))


def _squared_error(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)


def _quantile(degrees_of_freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))
