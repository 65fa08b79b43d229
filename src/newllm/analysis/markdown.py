"""Numbers and tables as the report writes them."""

import math
from collections.abc import Collection, Iterable, Sequence

from newllm.measurement.intervals import Estimate, mean_interval


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---:", texts: Collection[str] = ()
) -> str:
    """A Markdown table; `align` is the rule below the header, to the right for numbers, `:---` for texts.

    `texts` are the headers of single columns that hold texts.
    """
    lines = [header, [":---" if name in texts else align for name in header], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Text of unknown content on one line of a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def number(estimate: Estimate, signed: bool = False, decimals: int = 2) -> str:
    """Mean ± half-width with these decimals; means beyond a million with six digits."""
    form = f"{'+' if signed else ''}.{decimals}f" if abs(estimate.mean) < 1e6 else f"{'+' if signed else ''}.6g"
    text = format(estimate.mean, form).replace("-", "−")
    return text if estimate.half_width is None else f"{text} ± {format(estimate.half_width, form).lstrip('+')}"


def amount(value: float) -> str:
    """Two decimals; two significant digits where that would be nearly nothing: `4.52`, `2.1e-05`."""
    return f"{value:,.2f}" if value >= 0.01 else f"{value:.2g}"


def p_value(p: float | None) -> str:
    """Two significant digits, as a number with its relation: `= 0.013`, `< 0.0001`; `unknown` without a test."""
    if p is None:
        return "unknown"
    return "< 0.0001" if p < 1e-4 else f"= {float(f'{p:.2g}'):g}"


def at_most(p_values: Iterable[float | None]) -> str:
    """The largest of p-values as a bound: `≤ 0.013`, `< 0.0001`; `unknown` if one is missing or there are none."""
    known = [math.inf if p is None else p for p in p_values]
    largest = max(known, default=math.inf)
    return p_value(None if largest == math.inf else largest).replace("=", "≤")


def plural(amount: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def listed(items: Sequence[object], word: str = "and") -> str:
    """`none`, `1`, `1 and 2`, `1, 2 and 3`."""
    *texts, last = map(str, items or ["none"])
    return f"{', '.join(texts)} {word} {last}" if texts else last


def ranged(depths: Sequence[int]) -> str:
    """Ascending depths: `1 to 8` if none between is missing, else as `listed`."""
    whole = len(depths) > 2 and list(depths) == list(range(depths[0], depths[-1] + 1))
    return f"{depths[0]} to {depths[-1]}" if whole else listed(depths)


def depths_in_words(depths: Sequence[int]) -> str:
    """`depth 4`, `depths 1 and 4`, `depths 1 to 8`."""
    return f"depth{'' if len(depths) == 1 else 's'} {ranged(depths)}"


def at_depths(depths: Sequence[int]) -> str:
    """`at depth 4`, `at depths 1 and 4`, `at depths 1 to 8`."""
    return f"at {depths_in_words(depths)}"


def percent(fractions: Sequence[float]) -> str:
    """The mean of fractions with its interval, in percent: `38.20 ± 0.12 %`."""
    return f"{number(mean_interval([100 * value for value in fractions]))} %"
