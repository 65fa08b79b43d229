"""The report's pictures as PNG bytes, a function of the numbers alone: no date, no version, no style of the user's.

Colours: viridis by depth, without its faint end (ordered in lightness, so it also reads in grey and with any colour
vision), always with a second cue such as marker, position or label.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from newllm.analysis.published import POINTS, TRAJECTORY, TRAJECTORY_NUM_LAYERS
from newllm.analysis.statistics import Estimate, mean_interval
from newllm.analysis.summary import Comparison, learning_curves

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
ZOOM_FROM_EPOCHS = 20  # a shorter run is seen whole


def draw_all(comparison: Comparison) -> dict[str, bytes]:
    """File name → PNG of every picture."""
    drawings: dict[str, Callable[[Figure, Comparison], None]] = {
        "perplexity_by_depth.png": _perplexity_by_depth,
        "perplexity_by_parameters.png": _perplexity_by_parameters,
        "learning_curves.png": _learning_curves,
        "training_time.png": _training_time,
    }
    return {name: _png(draw, comparison) for name, draw in drawings.items()}


def _png(draw: Callable[[Figure, Comparison], None], comparison: Comparison) -> bytes:
    with _own_style():
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure, comparison)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


@contextmanager
def _own_style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def _perplexity_by_depth(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    depths = [result.num_layers for result in comparison.results]
    _draw_perplexities(axes, comparison, depths)
    baseline = mean_interval(comparison.baseline.over_seeds("val_ppl")).mean
    axes.axhline(baseline, color=OURS, linestyle=":", linewidth=1.4, zorder=1)
    if comparison.matches_published_data:
        _draw_published(axes, [(point.num_layers, point.val_ppl, point.complete) for point in POINTS])
        depths = sorted({*depths, *(point.num_layers for point in POINTS)})
    axes.set_xlim(depths[0] - 0.6, depths[-1] + 0.6)
    axes.set_xticks(_spaced(depths, depths[-1] - depths[0]))
    axes.set_xlabel("number of layers")
    _finish_perplexities(figure, axes, comparison, "depth", f"baseline: {_layers(comparison.baseline.num_layers)}")


def _perplexity_by_parameters(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    largest = comparison.results[-1].metrics.num_params
    unit, divisor = ("millions", 1e6) if largest >= 5e5 else ("thousands", 1e3)
    amounts = [result.metrics.num_params / divisor for result in comparison.results]
    _draw_perplexities(axes, comparison, amounts)
    axes.set_xlabel(f"parameters ({unit})")
    if comparison.matches_published_data:
        points = [(point.num_params / divisor, point.val_ppl, point.complete) for point in POINTS]
        _draw_published(axes, points)
        _label_published(axes, points)
        axes.set_xlabel(f"parameters ({unit}; the notebook’s points as printed there, with their layers)")
    depth_of = {amount: result.num_layers for amount, result in zip(amounts, comparison.results, strict=True)}
    shown = _spaced(amounts, amounts[-1] - amounts[0])
    axes.margins(x=0.06)
    above = axes.secondary_xaxis("top")
    above.set_xticks(shown, labels=[str(depth_of[amount]) for amount in shown])
    above.set_xlabel("number of layers")
    _finish_perplexities(figure, axes, comparison, "number of parameters", None)


def _draw_perplexities(axes: Axes, comparison: Comparison, positions: Sequence[float]) -> None:
    estimates = [mean_interval(result.over_seeds("val_ppl")) for result in comparison.results]
    axes.plot(positions, [estimate.mean for estimate in estimates], color=OURS, linewidth=1, alpha=0.5)
    if comparison.num_seeds > 1:
        seeds = [(x, y) for x, r in zip(positions, comparison.results, strict=True) for y in r.over_seeds("val_ppl")]
        xs, ys = zip(*seeds, strict=True)
        axes.scatter(xs, ys, s=26, color=OURS, alpha=0.35, linewidths=0, label="one seed")
    axes.errorbar(
        positions,
        [estimate.mean for estimate in estimates],
        yerr=None if comparison.num_seeds == 1 else [estimate.half_width or 0.0 for estimate in estimates],
        fmt="o",
        markersize=9,
        capsize=6,
        elinewidth=2,
        color=OURS,
        label="one seed" if comparison.num_seeds == 1 else f"mean and 95 % interval, {comparison.num_seeds} seeds",
    )


def _draw_published(axes: Axes, points: Sequence[tuple[float, float, bool]]) -> None:
    for complete, label in ((True, "notebook, complete run"), (False, "notebook, stopped early")):
        chosen = [(x, y) for x, y, state in points if state is complete]
        xs, ys = zip(*chosen, strict=True)
        axes.scatter(
            xs,
            ys,
            marker="D",
            s=70,
            facecolor=PUBLISHED if complete else "none",
            edgecolor=PUBLISHED,
            linewidths=1.6,
            label=label,
            zorder=4,
        )


def _label_published(axes: Axes, points: Sequence[tuple[float, float, bool]]) -> None:
    halo = [withStroke(linewidth=3, foreground="white")]
    style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "path_effects": halo, "zorder": 5}
    for point, (x, y, _) in zip(POINTS, points, strict=True):
        axes.annotate(str(point.num_layers), (x, y), xytext=(9, 0), fontsize=11, color=PUBLISHED, **style)


def _finish_perplexities(figure: Figure, axes: Axes, comparison: Comparison, by: str, line: str | None) -> None:
    drawn = [value for result in comparison.results for value in result.over_seeds("val_ppl")]
    drawn += [point.val_ppl for point in POINTS] if comparison.matches_published_data else []
    axes.set_ylabel("validation perplexity")
    _plain_numbers(axes, logarithmic=max(drawn) > 5 * min(drawn))
    if line:
        axes.lines[-1].set_label(line)
    figure.suptitle(f"Validation perplexity by {by}", fontsize=14)
    _legend_below(figure, axes)


def _learning_curves(figure: Figure, comparison: Comparison) -> None:
    curves = _by_depth(learning_curves(comparison.results))
    last = max(len(rows) for rows in curves.values())
    zoomed = last >= ZOOM_FROM_EPOCHS
    panels = figure.subplots(1, 2 if zoomed else 1, squeeze=False)[0]
    for axes in panels:
        for index, rows in enumerate(curves.values()):
            _draw_curve(axes, rows, index, len(curves), comparison.num_seeds)
        axes.set_xlabel("epoch")
    whole = panels[0]
    if comparison.matches_published_data and TRAJECTORY_NUM_LAYERS in curves:
        _draw_trajectory(whole, last)
    whole.set_ylabel("validation perplexity (logarithmic)")
    whole.set_xlim(1 - max(0.02 * last, 0.1), last + max(0.02 * last, 0.1))
    whole.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    _plain_numbers(whole, logarithmic=True)
    if zoomed:
        whole.set_title("all epochs", fontsize=12)
        _zoom(panels[1], curves, last)
    seeds = "one seed" if comparison.num_seeds == 1 else f"mean and range of {comparison.num_seeds} seeds"
    stopped = any(row["num_seeds"] < comparison.num_seeds for rows in curves.values() for row in rows)
    dotted = " (dotted: fewer, some had stopped)" if stopped else ""
    figure.suptitle(f"Learning curves: {seeds}{dotted}", fontsize=14)
    _legend_below(figure, whole, columns=5)


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, float]], index: int, count: int, num_seeds: int) -> None:
    epochs = [row["epoch"] for row in rows]
    colour = mpl.colormaps["viridis"](0.88 * index / max(count - 1, 1))
    axes.fill_between(
        epochs,
        [row["val_ppl_min"] for row in rows],
        [row["val_ppl_max"] for row in rows],
        color=colour,
        alpha=0.13,
        linewidth=0,
    )
    complete = [row for row in rows if row["num_seeds"] == num_seeds]
    style: dict[str, Any] = {"color": colour, "linewidth": 1.8}
    axes.plot(epochs, [row["val_ppl"] for row in rows], linestyle=(0, (1, 1)), **style)
    every = max(len(complete) // 9, 1)
    axes.plot(
        [row["epoch"] for row in complete],
        [row["val_ppl"] for row in complete],
        marker=MARKERS[index % len(MARKERS)],
        markevery=(index * every // count, every),  # apart from those of the other depths
        markersize=7,
        label=_layers(int(rows[0]["num_layers"])),
        **style,
    )


def _draw_trajectory(axes: Axes, last: int) -> None:
    points = [(epoch, perplexity) for epoch, perplexity in TRAJECTORY.items() if epoch <= last]
    label = f"notebook, {_layers(TRAJECTORY_NUM_LAYERS)}"
    style: dict[str, Any] = {"marker": "D", "s": 48, "facecolor": "white", "edgecolor": PUBLISHED, "linewidths": 1.6}
    axes.scatter(*zip(*points, strict=True), label=label, zorder=4, **style)


def _zoom(axes: Axes, curves: Mapping[int, Sequence[Mapping[str, float]]], last: int) -> None:
    start = last - last // 3
    shown = [row for rows in curves.values() for row in rows if row["epoch"] >= start]
    low, high = min(row["val_ppl_min"] for row in shown), max(row["val_ppl_max"] for row in shown)
    margin = 0.05 * (high - low) or 0.01 * low
    axes.set_xlim(start, last + 0.01 * last)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_title(f"epochs {start} to {last}, linear scale", fontsize=12)
    _plain_numbers(axes, logarithmic=False)


def _training_time(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    times = [mean_interval(result.over_seeds("train_seconds")) for result in comparison.results]
    unit, divisor = _time_unit(max(time.mean for time in times))
    names = [str(result.num_layers) for result in comparison.results]
    bars = axes.bar(names, [time.mean / divisor for time in times], color=OURS, width=0.65)
    if len(names) <= 14:
        axes.bar_label(bars, labels=[_bar_label(time, divisor) for time in times], padding=4)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.1)
    axes.set_xlim(-0.5 - max(0, 4 - len(names)) / 2, len(names) - 0.5 + max(0, 4 - len(names)) / 2)  # no lone broad bar
    axes.set_xlabel("number of layers")
    axes.set_ylabel(f"training time of one seed ({unit})")
    devices = sorted({result.runs.device for result in comparison.results})
    epochs = max(run.epochs_run for result in comparison.results for run in result.runs.seeds)
    figure.suptitle(f"Training time by depth (up to {epochs} {'epoch' if epochs == 1 else 'epochs'})", fontsize=14)
    shown = devices[0] if len(devices) == 1 else f"{len(devices)} kinds of device, see the report"
    axes.set_title(f"{shown[:70]}; {comparison.studied.runs.precision[:20]}; a seed’s share of the time", fontsize=12)


def _by_depth(rows: Sequence[Mapping[str, float]]) -> dict[int, list[Mapping[str, float]]]:
    grouped: dict[int, list[Mapping[str, float]]] = {}
    for row in rows:
        grouped.setdefault(int(row["num_layers"]), []).append(row)
    return grouped


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 120 else ("seconds", 1.0)


def _bar_label(time: Estimate, divisor: float) -> str:
    return f"{time.mean / divisor:.3g}"


def _layers(number: int) -> str:
    return "1 layer" if number == 1 else f"{number} layers"


def _spaced(positions: Sequence[float], span: float) -> list[float]:
    """Those of ascending positions whose labels do not touch: 1/30 of the axis apart."""
    kept = list(positions[:1])
    for earlier, position in pairwise(positions):
        if position > earlier and position - kept[-1] >= span / 30:
            kept.append(position)
    return kept


def _plain_numbers(axes: Axes, logarithmic: bool) -> None:
    """Numbers in full on the vertical axis, without powers of ten or offsets."""
    if logarithmic:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axes.yaxis.set_major_formatter(formatter)


def _legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
