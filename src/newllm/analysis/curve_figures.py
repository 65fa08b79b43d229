"""Pictures by epoch: learning curves of all depths, and of grown contexts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from newllm.analysis.drawing import (
    MARKERS,
    PUBLISHED,
    depth_colour,
    legend_below,
    plain_numbers,
    say_nothing_measured,
)
from newllm.analysis.expansion import PATTERNS, Grown
from newllm.analysis.markdown import plural
from newllm.analysis.published import TRAJECTORY, TRAJECTORY_NUM_LAYERS
from newllm.analysis.summary import Comparison, learning_curves
from newllm.measurement.intervals import mean_interval

ZOOM_FROM_EPOCHS = 20  # a shorter run is seen whole
PATTERN_LINES: Any = ("-", (0, (5, 1)), "-.", (0, (1, 1)))


def draw_learning_curves(figure: Figure, comparison: Comparison) -> None:
    """Validation perplexity by epoch at all depths; a long run is shown whole, and the last third of every depth."""
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
    plain_numbers(whole, logarithmic=True)
    if zoomed:
        whole.set_title("all epochs", fontsize=12)
        _zoom(panels[1], curves, last)
    seeds = "one seed" if comparison.num_seeds == 1 else f"mean and range of {comparison.num_seeds} seeds"
    stopped = any(row["num_seeds"] < comparison.num_seeds for rows in curves.values() for row in rows)
    dotted = " (dotted: fewer, some had stopped)" if stopped else ""
    figure.suptitle(f"Learning curves: {seeds}{dotted}", fontsize=14)
    legend_below(figure, whole, columns=5)


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, float]], index: int, count: int, num_seeds: int) -> None:
    epochs = [row["epoch"] for row in rows]
    colour = depth_colour(index, count)
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
        label=plural(int(rows[0]["num_layers"]), "layer"),
        **style,
    )


def _draw_trajectory(axes: Axes, last: int) -> None:
    points = [(epoch, perplexity) for epoch, perplexity in TRAJECTORY.items() if epoch <= last]
    label = f"notebook, {plural(TRAJECTORY_NUM_LAYERS, 'layer')}"
    style: dict[str, Any] = {"marker": "D", "s": 48, "facecolor": "white", "edgecolor": PUBLISHED, "linewidths": 1.6}
    axes.scatter(*zip(*points, strict=True), label=label, zorder=4, **style)


def _zoom(axes: Axes, curves: Mapping[int, Sequence[Mapping[str, float]]], last: int) -> None:
    start = min(len(rows) - len(rows) // 3 for rows in curves.values())  # the depth that stopped first is seen too
    shown = [row for rows in curves.values() for row in rows if row["epoch"] >= start]
    low, high = min(row["val_ppl_min"] for row in shown), max(row["val_ppl_max"] for row in shown)
    margin = 0.05 * (high - low) or 0.01 * low
    axes.set_xlim(start, last + 0.01 * last)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_title(f"epochs {start} to {last}, linear scale", fontsize=12)
    plain_numbers(axes, logarithmic=False)


def _by_depth(rows: Sequence[Mapping[str, float]]) -> dict[int, list[Mapping[str, float]]]:
    grouped: dict[int, list[Mapping[str, float]]] = {}
    for row in rows:
        grouped.setdefault(int(row["num_layers"]), []).append(row)
    return grouped


def draw_grown_contexts(figure: Figure, grown: Sequence[Grown]) -> None:
    """What further training changes of the seeds' perplexity, by epoch from the start on, a panel a depth."""
    depths = sorted({one.num_layers for one in grown})
    if not depths:
        say_nothing_measured(figure, "Grown contexts")
        return
    panels = figure.subplots(1, len(depths), squeeze=False)[0]
    panels[0].set_ylabel("validation perplexity minus that of the seed’s base")
    for axes, depth in zip(panels, depths, strict=True):
        _draw_patterns(axes, [one for one in grown if one.num_layers == depth])
    seeds = len(grown[0].seeds)
    drawn = "one seed" if seeds == 1 else f"mean and range of {seeds} seeds until the first stops"
    note = "marks: each seed’s best epoch after the start; of scratch the mean of the bases is subtracted"
    figure.suptitle(f"Grown contexts: {drawn}\n{note}", fontsize=13)
    fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    legend_below(figure, fullest, columns=5)


def _draw_patterns(axes: Axes, grown: Sequence[Grown]) -> None:
    axes.axhline(0, color=PUBLISHED, linewidth=1.4, linestyle=(0, (6, 3)), label="base")
    shown = [0.0]
    last = 1
    for one in grown:
        seeds = _changes(one)
        index = PATTERNS.index(one.pattern)
        colour = depth_colour(index, len(PATTERNS))
        together = list(zip(*seeds, strict=False))  # the epochs that all seeds trained: no step where one stops
        means = [sum(values) / len(values) for values in together]
        best = [(seed.best_epoch, changes[seed.best_epoch]) for seed, changes in zip(one.seeds, seeds, strict=True)]
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[index]}
        low, high = [min(values) for values in together], [max(values) for values in together]
        axes.fill_between(range(len(means)), low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(means, linewidth=2.4, linestyle=PATTERN_LINES[index], label=one.pattern, markevery=[], **style)
        epochs, lowest = zip(*best, strict=True)
        axes.scatter(epochs, lowest, s=34, edgecolor="white", linewidths=0.7, zorder=3, **style)
        shown += lowest if one.pattern == "scratch" else [*lowest, *low, *means]  # which comes in from above
        last = max(last, len(means) - 1, *epochs)
    margin = 0.06 * (max(shown) - min(shown)) or 0.01
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_xlim(-max(0.02 * last, 0.1), last + max(0.02 * last, 0.1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_title(plural(grown[0].num_layers, "layer"), fontsize=12)
    axes.set_xlabel("epoch of further training")
    plain_numbers(axes, logarithmic=False)


def _changes(one: Grown) -> list[list[float]]:
    """By seed and epoch, from the start as epoch 0: perplexity minus the base's of that seed; of `scratch`, which has
    no base, minus the mean of the bases."""
    bases = one.base.over_seeds("val_ppl")
    if one.pattern == "scratch":
        bases = [mean_interval(bases).mean] * len(bases)
    curves = [
        [math.exp(seed.start_val_loss), *(row.val_ppl for row in one.curve if row.seed == seed.seed)]
        for seed in one.seeds
    ]
    return [[value - base for value in curve] for base, curve in zip(bases, curves, strict=True)]
