"""Numbers as people read them; filters of the templates."""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from newllm.measurement.intervals import Estimate

MISSING = "–"
KNOBS = {
    "residual": "residual connections",
    "warmup_epochs": "warm-up epochs",
    "learning_rate_factor": "learning rate ×",
    "initialisation": "initial weights",
    "continued": "epochs in two parts:",
}
"""Parameter → its name in words, where that differs."""
SWITCHES = (("residual", True, "residual"), ("initialisation", "he", "He"), ("schedule", "linear", "linear"))
"""Knob, value other than the notebook's, and how a recipe in short says so."""
VALUES = {"he": "He", "[50, 150]": "50 and 150"}
"""A value as people write it, where that differs."""


def number(value: Estimate | float | None, decimals: int = 2, sign: bool = False) -> str:
    """Mean ± half-width, or a number, with these decimals; six digits beyond a million; a dash for None."""
    if value is None:
        return MISSING
    mean, half_width = (value.mean, value.half_width) if isinstance(value, Estimate) else (value, None)
    form = f"{'+' if sign else ''}z,.{decimals}f" if abs(mean) < 1e6 else f"{'+' if sign else ''}.6g"
    text = format(mean, form).replace("-", "−")
    return text if half_width is None else f"{text} ± {format(half_width, form).lstrip('+')}"


def spans(numbers: Iterable[int]) -> str:
    """Numbers in order, three and more in a row by the first and the last: `1, 4 to 8`; a dash for none."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), lambda one: one[1] - one[0])]
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts) or MISSING


def signed(value: Estimate | float | None, decimals: int = 2) -> str:
    """As `number`, with a sign."""
    return number(value, decimals, sign=True)


def p_value(p: float | None) -> str:
    """Two significant digits: `0.013`, `< 0.0001`; as many as tell it from 0.05; a dash without a test."""
    if p is None:
        return MISSING
    digits = next((count for count in range(2, 6) if float(f"{p:.{count}g}") != 0.05), 2)
    return "< 0.0001" if p < 1e-4 else f"{float(f'{p:.{digits}g}'):g}"


def equation(p: float | None) -> str:
    """As `p_value`, after p: `p = 0.013`, `p < 0.0001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def bound(p_values: Iterable[float | None]) -> str:
    """The largest of p-values as a bound: `p ≤ 0.013`; without a test among them, `p unknown`."""
    known = [math.nan if p is None else p for p in p_values] or [math.nan]
    return "p unknown" if any(map(math.isnan, known)) else equation(max(known)).replace("=", "≤")


def significant(value: float | None, digits: int = 2) -> str:
    """So many significant digits, never as a power of ten where four places do: `14`, `9.6`, `0.00056`."""
    if value is None:
        return MISSING
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10 <= abs(rounded) < 1e6 else f"{value:.{digits}g}"


def cell(text: object) -> str:
    """Text of unknown content on one line of a table."""
    return " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")


def one_line(text: str) -> str:
    """Text of unknown content on one line of its own."""
    return " ".join(text.split("\n"))


def settings(changes: Mapping[str, Any]) -> str:
    """Names and values in a row: `dropout 0.3, schedule linear`; of a switch its name alone, if it is on."""
    pairs = [(KNOBS.get(name := dotted.rpartition(".")[2], name), value) for dotted, value in changes.items()]
    texts = [(name, value, VALUES.get(str(value), value)) for name, value in pairs if value is not False]
    return ", ".join(name if value is True else f"{name} {text}" for name, value, text in texts)


def recipe(values: Mapping[str, Any]) -> str:
    """What a search chose, in short: `× 2, dropout 0.3, residual, He, linear`; without the notebook's own values."""
    switches = [words for name, value, words in SWITCHES if values.get(name) == value]
    return ", ".join([f"× {values['learning_rate_factor']:g}", f"dropout {values['dropout']:g}", *switches])


_FORMATS = (number, signed, p_value, equation, bound, significant, cell, one_line, settings, recipe, spans)
FILTERS = {form.__name__: form for form in _FORMATS}
