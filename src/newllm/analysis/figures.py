"""The report's pictures as PNG bytes: perplexity and time by depth; the others are in the modules beside."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from newllm.analysis.cost import trainings
from newllm.analysis.curve_figures import draw_grown_contexts, draw_learning_curves
from newllm.analysis.drawing import (
    MOST_LABELS,
    OURS,
    PUBLISHED,
    legend_below,
    plain_numbers,
    png,
    spaced,
    time_unit,
)
from newllm.analysis.further_figures import draw_ablations, draw_cost, draw_positions
from newllm.analysis.markdown import plural
from newllm.analysis.published import POINTS
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import mean_interval


def draw_all(comparison: Comparison, supplements: Supplements) -> dict[str, bytes]:
    """File name → PNG of every picture; one for which nothing was measured says so."""
    drawings: dict[str, Callable[[Figure], None]] = {
        "perplexity_by_depth.png": lambda figure: _perplexity_by_depth(figure, comparison),
        "perplexity_by_parameters.png": lambda figure: _perplexity_by_parameters(figure, comparison),
        "learning_curves.png": lambda figure: draw_learning_curves(figure, comparison),
        "training_time.png": lambda figure: _training_time(figure, comparison),
        "cost_to_target.png": lambda figure: draw_cost(figure, comparison, supplements),
        "grown_contexts.png": lambda figure: draw_grown_contexts(figure, supplements.grown),
        "ablations.png": lambda figure: draw_ablations(figure, comparison, supplements),
        "perplexity_by_position.png": lambda figure: draw_positions(figure, comparison, supplements),
    }
    return {name: png(draw) for name, draw in drawings.items()}


def _perplexity_by_depth(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    depths = [result.num_layers for result in comparison.results]
    _draw_perplexities(axes, comparison, depths)
    baseline = mean_interval(comparison.baseline.over_seeds("val_ppl")).mean
    axes.axhline(baseline, color=OURS, linestyle=":", linewidth=1.4, zorder=1)
    if comparison.matches_published_data:
        aside = 0.16  # so that no mean is hidden
        _draw_published(axes, [(point.num_layers + aside, point.val_ppl, point.complete) for point in POINTS])
        depths = sorted({*depths, *(point.num_layers for point in POINTS)})
    axes.set_xlim(depths[0] - 0.6, depths[-1] + 0.6)
    axes.set_xticks(spaced(depths, depths[-1] - depths[0]))
    axes.set_xlabel("number of layers")
    _finish_perplexities(
        figure, axes, comparison, "depth", f"mean of the baseline, {plural(comparison.baseline.num_layers, 'layer')}"
    )


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
    shown = spaced(amounts, amounts[-1] - amounts[0])
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
    plain_numbers(axes, logarithmic=max(drawn) > 5 * min(drawn))
    if line:
        axes.lines[-1].set_label(line)
    figure.suptitle(f"Validation perplexity by {by}", fontsize=14)
    legend_below(figure, axes)


def _training_time(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    times = [fmean(effort.seconds for effort in trainings(result)) for result in comparison.results]
    unit, divisor = time_unit(max(times))
    names = [str(result.num_layers) for result in comparison.results]
    bars = axes.bar(names, [time / divisor for time in times], color=OURS, width=0.65)
    if len(names) <= MOST_LABELS:
        run = [fmean(result.over_seeds("epochs_run")) for result in comparison.results]
        labels = [
            f"{time / divisor:.3g}\n{plural(round(epochs), 'epoch')}" for time, epochs in zip(times, run, strict=True)
        ]
        axes.bar_label(bars, labels=labels, padding=4, fontsize=11)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.14)
    axes.set_xlim(-0.5 - max(0, 4 - len(names)) / 2, len(names) - 0.5 + max(0, 4 - len(names)) / 2)  # no lone broad bar
    axes.set_xlabel("number of layers")
    axes.set_ylabel(f"training time of one seed ({unit})")
    devices = comparison.devices
    shown = devices[0] if len(devices) == 1 else f"{len(devices)} kinds of device, see the report"
    figure.suptitle(
        "Training time by depth\n"
        f"{shown[:70]}; {comparison.studied.runs.precision[:20]}; a seed’s share, without start-up",
        fontsize=13,
    )
