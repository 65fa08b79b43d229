"""What all pictures have in common: size, style and colours, and PNG bytes that are a function of the numbers alone.

No date, no version, no style of the user's. Colours: viridis by depth, without its faint end (ordered in lightness, so
it also reads in grey and with any colour vision), always with a second cue such as marker, position or label.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

SIZE_INCHES = (10.0, 6.2)
DOTS_PER_INCH = 120  # 1,200 pixels wide
STYLE: Any = {
    "font.size": 12,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "savefig.dpi": DOTS_PER_INCH,
    "text.parse_math": False,
}
OURS = "#31688e"
PUBLISHED = "#222222"
MARKERS = "osD^vP*X"
MOST_LABELS = 14  # depths; more labels would touch


def png(draw: Callable[[Figure], None]) -> bytes:
    """The picture that `draw` draws into a figure."""
    with _own_style():
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


@contextmanager
def _own_style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def depth_colour(index: int, count: int) -> Any:
    """The colour of the `index`-th of `count` depths."""
    return mpl.colormaps["viridis"](0.88 * index / max(count - 1, 1))


def spaced(positions: Sequence[float], span: float) -> list[float]:
    """Those of ascending positions whose labels do not touch: 1/30 of the axis apart."""
    kept = list(positions[:1])
    for earlier, position in pairwise(positions):
        if position > earlier and position - kept[-1] >= span / 30:
            kept.append(position)
    return kept


def plain_numbers(axes: Axes, logarithmic: bool) -> None:
    """Numbers in full on the vertical axis, without powers of ten or offsets."""
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axes.yaxis.set_major_formatter(formatter)


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """What is labelled on the axes, below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which a time is best written, and its seconds."""
    if seconds >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 120 else ("seconds", 1.0)


def say_nothing_measured(figure: Figure, what: str) -> None:
    """A picture of its own for what there is not, since the pipeline expects the file."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"{what}: nothing was measured", ha="center", va="center", color=PUBLISHED)
