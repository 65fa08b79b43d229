"""Numbers as people read them."""

import pytest

from newllm.analysis.formats import bound, cell, equation, number, p_value, settings, signed, significant, spans
from newllm.measurement.intervals import Estimate


def test_numbers() -> None:
    assert number(Estimate(19.674, 0.0815)) == "19.67 ± 0.08"
    assert number(Estimate(-0.5, None), 1) == "−0.5"
    assert signed(0.041) == "+0.04"
    assert (signed(-0.001), number(-0.001)) == ("+0.00", "0.00"), "no minus before what rounds to nothing"
    assert signed(Estimate(-0.041, 0.012), 3) == "−0.041 ± 0.012"
    assert number(None) == signed(None) == p_value(None) == significant(None) == "–"
    assert number(1234.5, 1) == "1,234.5"
    assert number(2.5e99) == "2.5e+99"


def test_spans() -> None:
    assert spans([8, 4, 5, 6, 7, 1]) == "1, 4 to 8"
    assert (spans([1, 2, 4]), spans([3]), spans([])) == ("1, 2, 4", "3", "–")


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.013, "0.013"), (0.00009, "< 0.0001"), (1.0, "1"), (0.0498, "0.0498"), (0.0502, "0.0502"), (0.05, "0.05")],
)
def test_p_values(p: float, expected: str) -> None:
    assert p_value(p) == expected, "what is shown at 5 % never looks like what is not"


def test_p_values_in_a_sentence() -> None:
    assert (equation(0.013), equation(0.0), bound([0.0025, 0.0001])) == ("p = 0.013", "p < 0.0001", "p ≤ 0.0025")
    assert bound([0.00001]) == "p < 0.0001"
    assert bound([]) == bound([0.1, None]) == "p unknown"


@pytest.mark.parametrize(("value", "expected"), [(0.000563, "0.00056"), (1.74, "1.7"), (13.8, "14"), (2345.0, "2,300")])
def test_significant_digits(value: float, expected: str) -> None:
    assert significant(value) == expected


def test_texts() -> None:
    assert cell("a | b\nc \\ d") == "a \\| b c \\\\ d"
    assert settings({"model.residual": True, "train.warmup_epochs": 10}) == "residual connections, warm-up epochs 10"
    assert settings({"residual": False, "dropout": 0.3}) == "dropout 0.3"
