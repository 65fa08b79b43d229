"""Intervals and tests against numbers computed by hand, by scipy and by brute force."""

import math
import random
from dataclasses import astuple
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from newllm.analysis.inference import (
    Difference,
    deviation,
    family,
    holm,
    mean_tests,
    permutation_p,
    prediction_interval,
)
from newllm.measurement.intervals import Estimate, mean_interval

SAMPLES = st.lists(st.floats(1, 1000), min_size=2, max_size=8)


def difference_interval(first: list[float], second: list[float]) -> Estimate:
    one = family({0: (first, second)})[0]
    return Estimate(one.mean, one.half_width)


def difference_p_value(first: list[float], second: list[float], expected: float = 0.0) -> float | None:
    return family({0: (first, second)}, expected)[0].adjusted_p


def mean_p_value(values: list[float], expected: float) -> float | None:
    return mean_tests({0: values}, expected)[0].adjusted_p


def test_mean_by_hand() -> None:
    # mean 3, s = sqrt(10 / 4), h = 2.776445 * s / sqrt(5)
    estimate = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.mean == 3.0
    assert estimate.half_width == pytest.approx(2.776445105 * math.sqrt(2.5) / math.sqrt(5), rel=1e-9)
    assert (estimate.low, estimate.high) == pytest.approx((1.0367568, 4.9632432), abs=1e-6)


def test_prediction_by_hand() -> None:
    # s = sqrt(10 / 4) as above, and one more value varies as much as the mean and by itself
    estimate = prediction_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.mean == 3.0
    assert estimate.half_width == pytest.approx(2.776445105 * math.sqrt(2.5 * 6 / 5), rel=1e-9)
    assert prediction_interval([2.0]) == Estimate(2.0, None)
    assert deviation([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(math.sqrt(2.5), rel=1e-12)
    assert deviation([2.0]) is None


def test_difference_by_hand() -> None:
    # variances 1 and 4 of three values each: df = (1/3 + 4/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 2.9412
    estimate = difference_interval([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert estimate.mean == -4.0
    degrees = (5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert estimate.half_width == pytest.approx(stats.t.ppf(0.975, degrees) * math.sqrt(5 / 3), rel=1e-12)
    assert not estimate.excludes_zero


@given(SAMPLES, SAMPLES)
def test_against_scipy(first: list[float], second: list[float]) -> None:
    if len(set(first)) == 1 or len(set(second)) == 1:
        return
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    estimate = difference_interval(first, second)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)
    student = stats.ttest_1samp(first, 0).confidence_interval(0.95)
    mean = mean_interval(first)
    assert (mean.low, mean.high) == pytest.approx((student.low, student.high), rel=1e-6, abs=1e-6)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([20.5]) == Estimate(20.5, None)
    assert (mean_interval([20.5]).low, mean_interval([20.5]).high) == (None, None)
    assert difference_interval([20.5], [19.0, 20.0]) == Estimate(1.0, None)
    assert difference_interval([19.0, 20.0], [20.5]) == Estimate(-1.0, None)
    assert not difference_interval([20.5], [19.0, 20.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_zero_at_the_bound_is_not_excluded() -> None:
    assert [Estimate(mean, 0.5).excludes_zero for mean in (-0.75, -0.5, 0.0, 0.5, 0.75)] == [True, *[False] * 3, True]


def test_equal_values() -> None:
    assert np.std([0.1] * 3, ddof=1) > 0, "the mean is rounded"
    assert mean_interval([0.1] * 3).half_width == 0
    assert difference_interval([0.1] * 3, [0.2] * 3).half_width == 0
    assert mean_interval([2.0, 2.0]).half_width == 0
    assert difference_interval([2.0, 2.0], [1.0, 1.0]).half_width == 0
    assert difference_interval([2.0, 2.0], [1.0, 1.0]).excludes_zero


@given(SAMPLES, SAMPLES, st.floats(-10, 10))
def test_p_values_against_scipy(first: list[float], second: list[float], expected: float) -> None:
    if len(set(first)) == 1 or len(set(second)) == 1:
        return
    welch = stats.ttest_ind(first, [value + expected for value in second], equal_var=False).pvalue
    assert difference_p_value(first, second, expected) == pytest.approx(welch, rel=1e-5, abs=1e-12)
    student = stats.ttest_1samp(first, expected).pvalue
    assert mean_p_value(first, expected) == pytest.approx(student, rel=1e-6, abs=1e-12)


@given(SAMPLES, SAMPLES)
def test_p_value_and_interval_agree(first: list[float], second: list[float]) -> None:
    p = difference_p_value(first, second)
    assert p is not None
    if abs(p - 0.05) > 1e-9 and min(len(set(first)), len(set(second))) > 1:
        assert (p < 0.05) is difference_interval(first, second).excludes_zero


def test_tests_without_spread_or_seeds() -> None:
    assert difference_p_value([2.0, 2.0], [1.0, 1.0]) == 0
    assert difference_p_value([20.1, 20.1], [20.0, 20.0, 20.0], 0.1) == 1
    assert difference_p_value([20.1] * 3, [20.1] * 5) == 1
    assert difference_p_value([2.0, 2.0], [1.0, 1.0], 1 + 5e-10) == 1
    assert difference_p_value([2.0, 2.0], [1.0, 1.0], 1 + 2e-9) == 0
    assert difference_p_value([2.0], [1.0, 1.5]) is None
    assert difference_p_value([1.0, 1.5], [2.0]) is None
    assert mean_p_value([2.0, 2.0], 2.0) == 1
    assert mean_p_value([2.0, 2.0], 2.1) == 0
    assert mean_p_value([2.0], 2.1) is None


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_shown_is_a_p_value_below_5_percent_and_a_difference_other_than_expected() -> None:
    def shown(mean: float, p: float | None) -> tuple[bool, bool]:
        difference = Difference(mean, 0.1, 0.1, p)
        return difference.above, difference.below

    assert [shown(0.2, p) for p in (0.0499, 0.05, None)] == [(True, False), (False, False), (False, False)]
    assert [shown(mean, 0.0) for mean in (0.0, 0.1, 0.2)] == [(False, True), (False, False), (True, False)]


def test_a_family_is_corrected_together() -> None:
    samples = [([1.0, 2.0, 3.0], [1.5, 2.4, 3.9]), ([4.0, 4.1, 4.2], [1.0, 1.3, 1.2]), ([1.0, 1.1], [2.0, 2.5, 2.2])]
    raw = [stats.ttest_ind(*pair, equal_var=False).pvalue for pair in samples]
    found = family(dict(enumerate(samples)))
    ranked = sorted(range(3), key=lambda index: raw[index])
    expected = [3 * raw[ranked[0]], max(3 * raw[ranked[0]], 2 * raw[ranked[1]])]
    expected.append(max(expected[1], raw[ranked[2]]))
    assert [found[index].adjusted_p for index in ranked] == pytest.approx([min(1, p) for p in expected])
    assert [one.adjusted_p for one in family(dict(enumerate([*samples, ([1.0], [2.0, 3.0])]))).values()] == [
        None
    ] * 4, "one has no test"
    assert family({}) == {}


@given(st.lists(st.tuples(st.floats(1, 1000), st.floats(1, 1000)), min_size=2, max_size=8), st.floats(-10, 10))
def test_paired_against_scipy(pairs: list[tuple[float, float]], expected: float) -> None:
    first, second = ([pair[index] for pair in pairs] for index in (0, 1))
    if np.ptp(np.subtract(first, second)) < 1e-6:
        return
    one = family({0: (first, second)}, expected, paired=[True])[0]
    interval = stats.ttest_rel(first, second).confidence_interval()
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high), rel=1e-5, abs=1e-5)
    shifted = [value + expected for value in second]
    assert one.adjusted_p == pytest.approx(stats.ttest_rel(first, shifted).pvalue, rel=1e-3, abs=1e-9)


def test_welch_and_paired_in_one_family() -> None:
    first, second = [1.0, 2.0, 4.0], [1.1, 2.3, 4.1]
    alone, together = family({0: (first, second), 1: (first, second)}, paired=[False, True]).values()
    assert alone.half_width == pytest.approx(difference_interval(first, second).half_width)
    assert together.half_width != pytest.approx(alone.half_width)


def test_means_against_values_of_their_own() -> None:
    values = [[20.0, 20.1, 20.2], [21.0, 21.2, 21.1]]
    found = list(mean_tests(dict(enumerate(values)), [20.0, 21.5]).values())
    raw = [stats.ttest_1samp(sample, expected).pvalue for sample, expected in zip(values, (20.0, 21.5), strict=True)]
    assert [one.adjusted_p for one in found] == pytest.approx([max(raw), 2 * min(raw)])
    assert [(one.mean, one.half_width) for one in found] == [astuple(mean_interval(sample)) for sample in values]
    assert [one.expected for one in found] == [20.0, 21.5]


def test_permutations_by_hand() -> None:
    """Of the 6 partitions of 1, 2, 4, 8 into two pairs, {1, 2} and {4, 8} are farthest apart: 2 of 6."""
    assert permutation_p([1.0, 2.0], [4.0, 8.0]) == pytest.approx(2 / 6)
    assert permutation_p([1.0, 4.0], [2.0, 8.0]) == pytest.approx(4 / 6)
    assert permutation_p([1.0, 1.0], [1.0, 1.0]) == 1
    assert permutation_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252), "no less with five"


@settings(max_examples=20)
@given(SAMPLES, SAMPLES)
def test_permutations_against_brute_force(first: list[float], second: list[float]) -> None:
    both = [*first, *second]
    found = abs(fmean(first) - fmean(second))
    count = total = 0
    for chosen in combinations(range(len(both)), len(first)):
        ours = [both[index] for index in chosen]
        theirs = [value for index, value in enumerate(both) if index not in chosen]
        count += abs(fmean(ours) - fmean(theirs)) >= found - 1e-9
        total += 1
    assert permutation_p(first, second) == pytest.approx(count / total)


def test_permutations_as_scipy_counts_them() -> None:
    generator = random.Random(0)  # noqa: S311
    first, second = ([generator.gauss(mean, 1) for _ in range(7)] for mean in (0.0, 0.9))

    def difference(ours: np.ndarray, theirs: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(ours, axis=axis) - np.mean(theirs, axis=axis)

    exact = stats.permutation_test((first, second), difference, vectorized=True, n_resamples=np.inf)
    assert permutation_p(first, second) == pytest.approx(exact.pvalue)
    ten = [float(value) for value in range(10)]
    assert permutation_p(ten, [value + 10 for value in ten]) == pytest.approx(2 / 184_756)


def test_permutations_against_another_difference_and_as_a_family() -> None:
    """9, 8 are 6 above 2, 3: of the six partitions, for 6 none differs less, for 0 and for 12 two are as far apart."""
    first, second = [9.0, 8.0], [2.0, 3.0]
    assert [permutation_p(first, second, expected) for expected in (0.0, 6.0, 12.0)] == pytest.approx([1 / 3, 1, 1 / 3])
    found = family({0: (first, second), 1: (first, second)}, exact=True).values()
    assert [one.exact_p for one in found] == pytest.approx([2 / 3, 2 / 3]), "corrected for two"
