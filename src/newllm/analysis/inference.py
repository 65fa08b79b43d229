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
    """The mean of some values minus that of others, tested against a value.

    Attributes:
        difference: with its 95 % interval, of this comparison alone.
        expected: what the difference is tested against; 0 unless said otherwise.
        adjusted_p: Holm's adjusted p-value within the family; None for one seed.
    """

    difference: Estimate
    expected: float
    adjusted_p: float | None

    @property
    def above(self) -> bool:
        """Whether the difference is shown to be more than expected."""
        return self._shown and self.difference.mean > self.expected

    @property
    def below(self) -> bool:
        """Whether the difference is shown to be less than expected."""
        return self._shown and self.difference.mean < self.expected

    @property
    def _shown(self) -> bool:
        return self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation s; None for one value."""
    return None if len(values) == 1 else float(np.std(values, ddof=1))


def prediction_interval(values: Sequence[float]) -> Estimate:
    """The mean, and how far from it one more value falls in 95 % of cases: t(0.975, n - 1) · s · √(1 + 1/n)."""
    spread = deviation(values)
    if spread is None:
        return Estimate(values[0], None)
    return Estimate(float(np.mean(values)), quantile(len(values) - 1) * spread * math.sqrt(1 + 1 / len(values)))


def family(samples: Sequence[Samples], expected: float = 0.0, paired: Sequence[bool] = ()) -> list[Difference]:
    """A family of tests, one for each pair of samples, the second subtracted; corrected for their number.

    Welch's test, two-sided, with Welch's interval; Student's of the differences seed by seed where `paired` says so.
    Samples of one value have neither, and one of them leaves the whole family without p-values.
    """
    how = paired or [False] * len(samples)
    found = [_compared(*pair, expected, is_paired) for pair, is_paired in zip(samples, how, strict=True)]
    p_values = [p for _, p in found if p is not None]
    adjusted: Sequence[float | None] = holm(p_values) if len(p_values) == len(found) else [None] * len(found)
    return [Difference(one, expected, p) for (one, _), p in zip(found, adjusted, strict=True)]


def mean_tests(values: Sequence[Sequence[float]], expected: Sequence[float]) -> list[Difference]:
    """A family of Student's tests, one for each sample: whether its mean equals what is expected of it.

    The difference is the mean itself with its interval.
    """
    nothing = [[number] * len(sample) for sample, number in zip(values, expected, strict=True)]
    tests = family(list(zip(values, nothing, strict=True)), paired=[True] * len(nothing))
    return [
        Difference(mean_interval(sample), number, test.adjusted_p)
        for sample, number, test in zip(values, expected, tests, strict=True)
    ]


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


def permutation_p_values(samples: Sequence[Samples], expected: float = 0.0) -> list[float]:
    """A family of exact two-sided permutation tests that the difference of means equals `expected`; by Holm's method.

    The p of one is the share of all partitions of its values whose difference is at least as large as that found; with
    ten against ten there are 184,756. It assumes nothing of the distribution.
    """
    return holm([_permutations(values, [other + expected for other in others]) for values, others in samples])


def _permutations(values: Sequence[float], others: Sequence[float]) -> float:
    both = np.array([*values, *others])
    sums = both[_partitions(len(both), len(values))].sum(axis=1)
    differences = sums / len(values) - (both.sum() - sums) / len(others)
    found = abs(np.mean(values) - np.mean(others))
    return float(np.mean(np.abs(differences) >= found - ROUNDED_AWAY))


@cache
def _partitions(total: int, chosen: int) -> Any:
    """Every choice of so many of the indices [partitions, chosen]."""
    return np.array(list(combinations(range(total), chosen)))


def _compared(
    values: Sequence[float], others: Sequence[float], expected: float, paired: bool
) -> tuple[Estimate, float | None]:
    """The difference of means with its interval, and the p-value of the test that it equals `expected`."""
    changes = [value - other for value, other in zip(values, others, strict=True)] if paired else []
    mean = mean_interval(changes).mean if paired else float(np.mean(values) - np.mean(others))
    if min(len(values), len(others)) == 1:
        return Estimate(mean, None), None
    error = squared_error(changes) if paired else squared_error(values) + squared_error(others)
    if error == 0:  # no spread at all, of which the library makes no number
        return Estimate(mean, 0.0), 1.0 if math.isclose(mean, expected, abs_tol=ROUNDED_AWAY) else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of precision, where a sample has next to no spread
        shifted = np.array(others) + expected
        test: Any = stats.ttest_rel(values, shifted) if paired else stats.ttest_ind(values, shifted, equal_var=False)
    return Estimate(mean, quantile(float(test.df)) * math.sqrt(error)), float(test.pvalue)
