"""Intervals against numbers computed by hand and by scipy's tests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from newllm.analysis.statistics import (
    deviation,
    difference_interval,
    difference_p_value,
    holm,
    mean_p_value,
    prediction_interval,
)
from newllm.measurement.intervals import Estimate, mean_interval

SAMPLES = st.lists(st.floats(1, 1000), min_size=2, max_size=8)


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
