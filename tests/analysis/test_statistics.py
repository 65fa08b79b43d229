"""Intervals against numbers computed by hand and by scipy's tests."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from newllm.analysis.statistics import difference_interval, mean_interval

SAMPLES = st.lists(st.floats(1, 1000), min_size=2, max_size=8)


def test_mean_by_hand() -> None:
    # mean 3, s = sqrt(10 / 4), h = 2.776445 * s / sqrt(5)
    estimate = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.mean == 3.0
    assert estimate.half_width == pytest.approx(2.776445105 * math.sqrt(2.5) / math.sqrt(5), rel=1e-9)
    assert (estimate.low, estimate.high) == pytest.approx((1.0367568, 4.9632432), abs=1e-6)


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
    assert mean_interval([20.5]).half_width is None
    assert mean_interval([20.5]).low is None
    assert difference_interval([20.5], [20.0, 21.0]).half_width is None
    assert not difference_interval([20.5], [20.0, 21.0]).excludes_zero
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_equal_values() -> None:
    assert mean_interval([2.0, 2.0]).half_width == 0
    assert difference_interval([2.0, 2.0], [1.0, 1.0]).half_width == 0
    assert difference_interval([2.0, 2.0], [1.0, 1.0]).excludes_zero
