"""Differences between depths with 95 % intervals, and tests of them."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from newllm.measurement.intervals import Estimate, quantile, squared_error

SIGNIFICANCE = 0.05
"""A p-value below it, after correction for the number of tests, counts as shown."""


def prediction_interval(values: Sequence[float]) -> Estimate:
    """The mean, and how far from it one more value falls in 95 % of cases: t(0.975, n - 1) · s · √(1 + 1/n)."""
    spread = deviation(values)
    if spread is None:
        return Estimate(values[0], None)
    return Estimate(float(np.mean(values)), quantile(len(values) - 1) * spread * math.sqrt(1 + 1 / len(values)))


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation s; None for one value."""
    return None if len(values) == 1 else float(np.std(values, ddof=1))


def difference_interval(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The difference mean(values) - mean(baseline) with Welch's interval for unequal variances.

    Degrees of freedom by Welch and Satterthwaite. The samples count as independent: a seed number that two depths
    share draws weights of different shapes. No interval if a sample has one value.
    """
    difference = float(np.mean(values) - np.mean(baseline))
    if min(len(values), len(baseline)) == 1:
        return Estimate(difference, None)
    error, degrees_of_freedom = _welch(values, baseline)
    return Estimate(difference, quantile(degrees_of_freedom) * error)


def difference_p_value(values: Sequence[float], baseline: Sequence[float], expected: float = 0.0) -> float | None:
    """Welch's two-sided test that mean(values) - mean(baseline) equals `expected`, of the same model as the interval.

    The p-value of scipy.stats.ttest_ind(values, baseline + expected, equal_var=False); None if a sample has one value.
    Two samples without any spread give 1 if the difference is the expected one, else 0.
    """
    if min(len(values), len(baseline)) == 1:
        return None
    distance = float(np.mean(values) - np.mean(baseline)) - expected
    return _two_sided(distance, *_welch(values, baseline))


def mean_p_value(values: Sequence[float], expected: float) -> float | None:
    """Student's two-sided test that the mean equals `expected`; None for one value, 0 or 1 without any spread."""
    if len(values) == 1:
        return None
    return _two_sided(float(np.mean(values)) - expected, math.sqrt(squared_error(values)), len(values) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of any false finding in the family stays below alpha.

    Sorted upwards, the i-th of m (from 0) is multiplied by m - i; none falls below the one before it, none exceeds 1.
    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _welch(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Standard error of the difference of means, and its degrees of freedom (those of the smaller without spread)."""
    errors = [squared_error(values), squared_error(baseline)]
    total = sum(errors)
    if total == 0:
        return 0.0, min(len(values), len(baseline)) - 1
    shares = [error / total for error in errors]
    inverse = shares[0] ** 2 / (len(values) - 1) + shares[1] ** 2 / (len(baseline) - 1)
    return math.sqrt(total), 1 / inverse


def _two_sided(distance: float, error: float, degrees_of_freedom: float) -> float:
    if error == 0:
        return 1.0 if math.isclose(distance, 0, abs_tol=1e-9) else 0.0  # 1e-9: what subtraction rounds away
    return 2 * float(stats.t.sf(abs(distance) / error, degrees_of_freedom))
