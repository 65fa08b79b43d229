"""Differences between groups of seeds with 95 % intervals, tests of them, and what they say of which depth is best.

The rule is in docs/rules.md, which was written before part 2 was run.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from newllm.analysis.records import Group
from newllm.measurement.intervals import Estimate, mean_interval, quantile, squared_error

SIGNIFICANCE = 0.05
"""A p-value below it, after correction for the number of tests, counts as shown."""
MATTERS = 0.05
"""Perplexity: a difference that is not shown to be larger does not matter to a user."""
ROUNDED_AWAY = 1e-9
"""What subtraction leaves of equal means."""

Samples = tuple[Sequence[float], Sequence[float]]
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Difference(Estimate):
    """The mean of some values minus that of others, tested against what is expected of it.

    The 95 % interval is of this comparison alone; p-values are adjusted by Holm's method within a family of tests, and
    None for one seed. Where an exact permutation test was made too, only what both tests show is shown.
    """

    expected: float
    adjusted_p: float | None
    exact_p: float | None = None

    @property
    def above(self) -> bool:
        """Whether the difference is shown to be more than expected."""
        return self.mean > self.expected and self._significant and not self.disputed

    @property
    def below(self) -> bool:
        """Whether the difference is shown to be less than expected."""
        return self.mean < self.expected and self._significant and not self.disputed

    @property
    def disputed(self) -> bool:
        """Whether one of two tests shows a difference and the other does not."""
        found = self._significant and self.mean != self.expected
        return self.exact_p is not None and found != (self.exact_p < SIGNIFICANCE)

    @property
    def _significant(self) -> bool:
        return self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation s; None for one value."""
    return None if len(values) == 1 else float(np.std(values, ddof=1))


def prediction_interval(values: Sequence[float]) -> Estimate:
    """The mean, and how far from it one more value falls in 95 % of cases: t(0.975, n - 1) · s · √(1 + 1/n)."""
    spread, count = deviation(values), len(values)
    half_width = None if spread is None else quantile(count - 1) * spread * math.sqrt(1 + 1 / count)
    return Estimate(float(np.mean(values)), half_width)


def family(
    samples: Mapping[_Key, Samples],
    expected: float | Sequence[float] = 0.0,
    paired: Sequence[bool] = (),
    exact: bool = False,
) -> dict[_Key, Difference]:
    """A family of tests, one for each pair of samples, the second subtracted; corrected for their number.

    Welch's test, two-sided, with Welch's interval; Student's of the differences seed by seed where `paired` says so.
    Samples of one value have neither, and one of them leaves the whole family without p-values. `exact`: permutation
    tests too, a family of their own.
    """
    targets = [float(target) for target in np.broadcast_to(expected, len(samples))]
    how = zip(samples.values(), targets, paired or [False] * len(samples), strict=True)
    found = [_compared(*pair, target, seed_by_seed) for pair, target, seed_by_seed in how]
    permuted = [
        permutation_p(*pair, target) if exact else None for pair, target in zip(samples.values(), targets, strict=True)
    ]
    rows = zip(samples, found, targets, holm([p for *_, p in found]), holm(permuted), strict=True)
    return {key: Difference(mean, half, target, p, exact_p) for key, (mean, half, _), target, p, exact_p in rows}


def mean_tests(
    values: Mapping[_Key, Sequence[float]], expected: float | Sequence[float] = 0.0
) -> dict[_Key, Difference]:
    """A family of Student's tests, one for each sample: whether its mean, the difference, equals what is expected."""
    return family({key: (one, [0.0] * len(one)) for key, one in values.items()}, expected, [True] * len(values))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, in the order given: the chance of any false finding in the family stays below alpha.

    Sorted upwards, the i-th of m (from 0) is multiplied by m - i; none falls below the one before it, none exceeds 1.
    One that is None leaves all of them None.
    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.
    """
    if None in p_values:
        return [None] * len(p_values)
    raw = np.array(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty(len(raw))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return [float(p) for p in adjusted]


def permutation_p(values: Sequence[float], others: Sequence[float], expected: float = 0.0) -> float:
    """Of the exact two-sided permutation test that the difference of means is what is expected; uncorrected.

    The share of all partitions of the values whose difference is at least as large as that found; with ten against ten
    there are 184,756. It assumes nothing of the distribution.
    """
    both = np.array([*values, *(other + expected for other in others)])
    sums = both[_partitions(len(both), len(values))].sum(axis=1)  # the first is that of the values themselves
    differences = np.abs(sums / len(values) - (both.sum() - sums) / len(others))
    return float(np.mean(differences >= differences[0] - ROUNDED_AWAY))


@cache
def _partitions(total: int, chosen: int) -> Any:
    """Every choice of so many of the indices [partitions, chosen]."""
    return np.array(list(combinations(range(total), chosen)))


def _compared(
    values: Sequence[float], others: Sequence[float], expected: float, paired: bool
) -> tuple[float, float | None, float | None]:
    """The difference of means, half of its interval, and the p-value of the test that it equals `expected`."""
    if paired:  # Student's test of differences is Welch's with zeros
        values, others = [value - other for value, other in zip(values, others, strict=True)], [0.0] * len(others)
    mean = mean_interval(values).mean - mean_interval(others).mean
    if min(len(values), len(others)) == 1:
        return mean, None, None
    error = squared_error(values) + squared_error(others)
    if error == 0:  # no spread at all, of which the library makes no number
        return mean, 0.0, 1.0 if math.isclose(mean, expected, abs_tol=ROUNDED_AWAY) else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of precision, where a sample has next to no spread
        test: Any = stats.ttest_ind(values, np.array(others) + expected, equal_var=False)
    return mean, quantile(float(test.df)) * math.sqrt(error), float(test.pvalue)


def compare(pairs: Mapping[_Key, tuple[Group, Group]], figure: str = "val_ppl", **how: Any) -> dict[_Key, Difference]:
    """A figure of the first of each pair minus that of the second: one family; `how` as for `inference.family`."""
    return family({key: (one.values(figure), other.values(figure)) for key, (one, other) in pairs.items()}, **how)


def best_of(groups: Mapping[int, Group], name: str = "val_ppl") -> Group:
    """The lowest mean of a figure; the first of equals."""
    return min(groups.values(), key=lambda group: group.mean(name))


def against(groups: Mapping[int, Group], reference: Group, name: str = "val_ppl") -> dict[int, Difference]:
    """A figure of every other group minus that of one: one family, by the groups' keys."""
    return compare({key: (group, reference) for key, group in groups.items() if group is not reference}, name)


@dataclass(frozen=True)
class Comparison:
    """Differences of validation perplexity, by key: whether there are any, and whether they matter."""

    zero: Mapping[int, Difference]  # against no difference
    matters: Mapping[int, Difference]  # against MATTERS

    def shown(self, key: int) -> str:
        """What is shown of one difference, in words."""
        test, more = self.zero[key], self.matters[key]
        if not (test.above or test.below):
            return "nothing"
        larger = f" by more than {MATTERS}" if (more.above, more.below) == (test.above, test.below) else ""
        return ("worse" if test.above else "better") + larger


@dataclass(frozen=True)
class Answer(Comparison):
    """What the rule says of some depths, each compared with the best."""

    best: Group  # the depth of the lowest mean
    set: list[int]  # it and those that are not shown to be worse, shallowest first; alone, it is the best
    on_test: Mapping[int, Difference]  # as zero on the test split, which chooses nothing; empty if not measured

    def shown(self, key: int) -> str:
        """What is shown of a depth, in words."""
        return "best" if key == self.best.num_layers else super().shown(key)

    @property
    def matter(self) -> list[int]:
        """The depths that are worse by more than MATTERS."""
        return [depth for depth, test in self.matters.items() if test.above]

    @property
    def turned_on_test(self) -> list[int]:
        """The depths that are worse than the best on one split and better on the other."""
        means = {depth: test.mean for depth, test in self.on_test.items()}
        return [depth for depth, mean in means.items() if mean * self.zero[depth].mean < 0]


def answer(groups: Mapping[int, Group], exact: bool = True) -> Answer:
    """By the rule, of models by depth; `exact`: by permutation tests too."""
    best = best_of(groups)
    pairs = {depth: (group, best) for depth, group in groups.items() if group is not best}
    found = compared(pairs, exact)
    close = [depth for depth in groups if depth not in pairs or not found.zero[depth].above]
    measured = pairs if all(group.has("test_ppl") for group in groups.values()) else {}
    return Answer(found.zero, found.matters, best, close, compare(measured, "test_ppl", exact=exact))


def compared(pairs: Mapping[int, tuple[Group, Group]], exact: bool = True) -> Comparison:
    """Validation perplexity of the first of each pair minus that of the second.

    That it matters is tested against MATTERS in the direction of the difference that was found.
    """
    margins = [math.copysign(MATTERS, one.mean("val_ppl") - other.mean("val_ppl")) for one, other in pairs.values()]
    return Comparison(compare(pairs, exact=exact), compare(pairs, expected=margins, exact=exact))
