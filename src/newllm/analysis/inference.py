"""Differences between groups of seeds with 95 % intervals, and tests of them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from newllm.measurement.intervals import Estimate, mean_interval, quantile, squared_error

SIGNIFICANCE = 0.05
"""A p-value below it, after correction for the number of tests, counts as shown."""
ROUNDED_AWAY = 1e-9
"""What subtraction leaves of equal means."""

Samples = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """The mean of some values minus that of others, tested against what is expected of it.

    The 95 % interval is of this comparison alone, the p-value adjusted by Holm's method within a family of tests; None
    for one seed.
    """

    difference: Estimate
    expected: float
    adjusted_p: float | None

    @property
    def above(self) -> bool:
        """Whether the difference is shown to be more than expected."""
        return self._shown(self.difference.mean - self.expected)

    @property
    def below(self) -> bool:
        """Whether the difference is shown to be less than expected."""
        return self._shown(self.expected - self.difference.mean)

    def _shown(self, excess: float) -> bool:
        return excess > 0 and self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation s; None for one value."""
    return None if len(values) == 1 else float(np.std(values, ddof=1))


def prediction_interval(values: Sequence[float]) -> Estimate:
    """The mean, and how far from it one more value falls in 95 % of cases: t(0.975, n - 1) · s · √(1 + 1/n)."""
    spread, count = deviation(values), len(values)
    half_width = None if spread is None else quantile(count - 1) * spread * math.sqrt(1 + 1 / count)
    return Estimate(float(np.mean(values)), half_width)


def family(
    samples: Sequence[Samples], expected: float | Sequence[float] = 0.0, paired: Sequence[bool] = ()
) -> list[Difference]:
    """A family of tests, one for each pair of samples, the second subtracted; corrected for their number.

    Welch's test, two-sided, with Welch's interval; Student's of the differences seed by seed where `paired` says so.
    Samples of one value have neither, and one of them leaves the whole family without p-values.
    """
    targets = [float(target) for target in np.broadcast_to(expected, len(samples))]
    how = zip(samples, targets, paired or [False] * len(samples), strict=True)
    found = [_compared(*pair, target, seed_by_seed) for pair, target, seed_by_seed in how]
    known = holm([p for _, p in found if p is not None])
    adjusted = known if len(known) == len(found) else [None] * len(found)
    return [Difference(one, target, p) for (one, _), target, p in zip(found, targets, adjusted, strict=True)]


def mean_tests(values: Sequence[Sequence[float]], expected: Sequence[float]) -> list[Difference]:
    """A family of Student's tests, one for each sample: whether its mean, the difference, equals what is expected."""
    return family([(sample, [0.0] * len(sample)) for sample in values], expected, [True] * len(values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the chance of any false finding in the family stays below alpha.

    Sorted upwards, the i-th of m (from 0) is multiplied by m - i; none falls below the one before it, none exceeds 1.
    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(corrected))
    return [float(p) for p in adjusted]


def permutation_p_values(samples: Sequence[Samples], expected: float | Sequence[float] = 0.0) -> list[float]:
    """A family of exact two-sided permutation tests that differences of means equal what is expected; by Holm's method.

    The p of one is the share of all partitions of its values whose difference is at least as large as that found; with
    ten against ten there are 184,756. It assumes nothing of the distribution.
    """
    p_values = []
    for (values, others), target in zip(samples, np.broadcast_to(expected, len(samples)), strict=True):
        both = np.array([*values, *(other + float(target) for other in others)])
        sums = both[_partitions(len(both), len(values))].sum(axis=1)  # the first is that of the values themselves
        differences = np.abs(sums / len(values) - (both.sum() - sums) / len(others))
        p_values.append(float(np.mean(differences >= differences[0] - ROUNDED_AWAY)))
    return holm(p_values)


@cache
def _partitions(total: int, chosen: int) -> Any:
    """Every choice of so many of the indices [partitions, chosen]."""
    return np.array(list(combinations(range(total), chosen)))


def _compared(
    values: Sequence[float], others: Sequence[float], expected: float, paired: bool
) -> tuple[Estimate, float | None]:
    """The difference of means with its interval, and the p-value of the test that it equals `expected`."""
    if paired:  # Student's test of differences is Welch's with zeros
        values, others = [value - other for value, other in zip(values, others, strict=True)], [0.0] * len(others)
    mean = mean_interval(values).mean - mean_interval(others).mean
    if min(len(values), len(others)) == 1:
        return Estimate(mean, None), None
    error = squared_error(values) + squared_error(others)
    if error == 0:  # no spread at all, of which the library makes no number
        return Estimate(mean, 0.0), 1.0 if math.isclose(mean, expected, abs_tol=ROUNDED_AWAY) else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of precision, where a sample has next to no spread
        test: Any = stats.ttest_ind(values, np.array(others) + expected, equal_var=False)
    return Estimate(mean, quantile(float(test.df)) * math.sqrt(error)), float(test.pvalue)
