"""Pictures of what a target costs, of perplexity by position in the window, and of ablations."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from newllm.analysis.ablation import effects
from newllm.analysis.context import FAR, gain_by_position, loss_by_position
from newllm.analysis.cost import mean_effort, petaflop_per_epoch, target, ways
from newllm.analysis.drawing import (
    MARKERS,
    MOST_LABELS,
    OURS,
    PUBLISHED,
    depth_colour,
    legend_below,
    plain_numbers,
    say_nothing_measured,
    spaced,
    time_unit,
)
from newllm.analysis.markdown import amount, plural
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import mean_interval

CHANGED = ("#c8501e", "#7b3294", "#4d4d4d")
"""Colours of the changes."""


def draw_cost(figure: Figure, comparison: Comparison, supplements: Supplements) -> None:
    """Time of each seed to the target perplexity, with operations and the number of seeds that reach it."""
    goal = target(comparison)
    found = [ways(result, goal) for result in comparison.results]
    means = [mean_effort(seeds) for seeds in found]
    if not any(means):
        say_nothing_measured(figure, f"No seed reaches a validation perplexity of {goal:.2f}")
        return
    axes = figure.add_subplot()
    unit, divisor = time_unit(max(way.seconds for way in means if way))
    highest = 0.0
    for position, (result, seeds, mean) in enumerate(zip(comparison.results, found, means, strict=True)):
        times = [way.seconds / divisor for way in seeds if way]
        if mean is None:
            lines = ["not", "reached"]
        else:
            axes.scatter([position] * len(times), times, s=26, color=OURS, alpha=0.35, linewidths=0)
            axes.plot(position, mean.seconds / divisor, "o", markersize=9, color=OURS)
            per_epoch = petaflop_per_epoch(result, supplements.training_data)
            operations = [] if per_epoch is None else [amount(per_epoch * mean.epochs), "PFLOP"]
            lines = [*operations, f"{len(times)} of {len(seeds)}"]
        highest = max(highest, *times, 0.0)
        if len(means) <= MOST_LABELS:
            _label(axes, position, max(times, default=0.0), "\n".join(lines))
    axes.set_xticks(range(len(means)), labels=[str(result.num_layers) for result in comparison.results])
    axes.set_xlim(-0.7, len(means) - 0.3)
    axes.set_ylim(0, 1.25 * highest or 1.0)
    axes.set_xlabel("number of layers")
    axes.set_ylabel(f"training time of one seed ({unit})")
    plain_numbers(axes, logarithmic=False)
    devices = "; on different devices" if len(comparison.devices) > 1 else ""
    figure.suptitle(
        f"Time to a validation perplexity of {goal:.2f}\n"
        f"large dots: mean of the seeds that reach it; labels: operations, how many do{devices}",
        fontsize=13,
    )


def _label(axes: Axes, position: float, height: float, text: str) -> None:
    axes.annotate(text, (position, height), xytext=(0, 8), textcoords="offset points", ha="center", va="bottom",
                  fontsize=10, color=PUBLISHED)  # fmt: skip


def draw_positions(figure: Figure, comparison: Comparison, supplements: Supplements) -> None:
    """Perplexity by number of tokens read, and what one stride more is worth for the same words.

    At the shallowest, the best and the deepest of the diagnosed depths.
    """
    diagnosed = [diagnosis.num_layers for diagnosis in supplements.diagnoses if loss_by_position(diagnosis)]
    if not diagnosed:
        say_nothing_measured(figure, "Perplexity by position")
        return
    best = comparison.best.num_layers
    depths = sorted({diagnosed[0], diagnosed[-1], *({best} & set(diagnosed))})
    chosen = [diagnosis for diagnosis in supplements.diagnoses if diagnosis.num_layers in depths]
    names = [plural(one.num_layers, "layer") + (" (best)" if one.num_layers == best else "") for one in chosen]
    gains = [gain_by_position(one) for one in chosen]
    panels = figure.subplots(1, 2 if all(gains) else 1, squeeze=False)[0]
    losses = [[(read, *map(math.exp, values)) for read, *values in loss_by_position(one)] for one in chosen]
    values = _draw_lines(panels[0], losses, names)
    plain_numbers(panels[0], logarithmic=max(values) > 3 * min(values))
    panels[0].set_ylim(0.97 * min(values), 1.03 * max(values))
    panels[0].set_xlabel("tokens read since the window began")
    panels[0].set_ylabel("validation perplexity of the next token")
    panels[0].set_title("full windows", fontsize=12)
    if all(gains):
        _draw_lines(panels[1], gains, names)
        panels[1].axhline(0, color=PUBLISHED, linewidth=1.4, linestyle=(0, (6, 3)))
        plain_numbers(panels[1], logarithmic=False)
        panels[1].set_ylim(*_limits(gains))
        panels[1].set_xlabel("tokens read in the later window")
        panels[1].set_ylabel("gain in nats")
        panels[1].set_title(f"same words, {chosen[0].context_stride} tokens of context more", fontsize=12)
    seeds = len(chosen[0].seeds)
    shown = "one seed" if seeds == 1 else f"mean and range of {seeds} seeds"
    figure.suptitle(f"Perplexity by number of tokens read, and the gain from more context: {shown}", fontsize=14)
    legend_below(figure, panels[0])


def _limits(gains: Sequence[Sequence[tuple[float, ...]]]) -> tuple[float, float]:
    """Of the vertical axis: what lies beyond FAR, and 0; the first tokens' gain is many times that."""
    far = [value for rows in gains for read, _, *ends in rows if read > FAR for value in ends]
    values = [0.0, *(far or [value for rows in gains for _, _, *ends in rows for value in ends])]
    margin = max(0.25 * (max(values) - min(values)), 0.001)  # a gain of 0 does not show rounding
    return min(values) - 0.2 * margin, max(values) + margin


def _draw_lines(axes: Axes, lines: Sequence[Sequence[tuple[float, ...]]], names: Sequence[str]) -> list[float]:
    """Rows of position, mean, lowest and highest; returns all the lowest and highest."""
    last, ends = 1.0, []
    for index, (rows, name) in enumerate(zip(lines, names, strict=True)):
        read, means, low, high = zip(*rows, strict=True)
        colour = depth_colour(index, len(lines))
        axes.fill_between(read, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(read, means, color=colour, linewidth=2, marker="os^"[index], markersize=4, label=name)
        ends += [*low, *high]
        last = max(last, read[-1])
    if last > FAR:
        axes.axvline(FAR, color=PUBLISHED, linestyle=":", linewidth=1.4)
        axes.annotate(f"{FAR} tokens", (FAR, 0.97), xycoords=("data", "axes fraction"), xytext=(6, 0),
                      textcoords="offset points", va="top", color=PUBLISHED)  # fmt: skip
    axes.set_xlim(1 - max(0.02 * last, 0.1), last + max(0.02 * last, 0.1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    return ends


def draw_ablations(figure: Figure, comparison: Comparison, supplements: Supplements) -> None:
    """Perplexity by depth of the study and of every change: means with intervals, and the seeds."""
    found = effects(comparison, supplements.ablations)
    if not found:
        say_nothing_measured(figure, "Ablations")
        return
    axes = figure.add_subplot()
    own = {result.num_layers: result.over_seeds("val_ppl") for result in comparison.results}
    lines = {"as in the study": own}
    for effect in found:
        lines.setdefault(effect.ablation.words, {})[effect.depth.num_layers] = effect.depth.over_seeds("val_ppl")
    step = min(0.14, 0.7 / len(lines))
    for index, (words, values) in enumerate(lines.items()):
        colour = OURS if index == 0 else CHANGED[(index - 1) % len(CHANGED)]
        aside = step * ((index + 1) // 2) * (-1) ** index  # so that equal means are seen
        estimates = [mean_interval(seeds) for seeds in values.values()]
        positions = [depth + aside for depth in values]
        axes.scatter(
            [x for x, seeds in zip(positions, values.values(), strict=True) for _ in seeds],
            [y for seeds in values.values() for y in seeds], s=26, color=colour, alpha=0.35, linewidths=0,
        )  # fmt: skip
        axes.errorbar(
            positions,
            [estimate.mean for estimate in estimates],
            yerr=[estimate.half_width or 0.0 for estimate in estimates],
            fmt=f"{MARKERS[index % len(MARKERS)]}-",
            markersize=8,
            capsize=6,
            linewidth=1.2,
            elinewidth=2,
            color=colour,
            label=words[:60],
        )
    best = mean_interval(comparison.best.over_seeds("val_ppl")).mean
    name = f"mean of the study’s best, {plural(comparison.best.num_layers, 'layer')}"
    axes.axhline(best, color=OURS, linestyle=":", linewidth=1.4, zorder=1, label=name)
    everything = [value for values in lines.values() for seeds in values.values() for value in seeds]
    plain_numbers(axes, logarithmic=max(everything) > 5 * min(everything))
    axes.set_xticks(spaced(list(own), max(own) - min(own)))
    axes.set_xlabel("number of layers")
    axes.set_ylabel("validation perplexity")
    figure.suptitle(
        "Validation perplexity by depth, as in the study and with a switch changed\n"
        f"{'one seed' if comparison.num_seeds == 1 else 'every seed, means with 95 % intervals'}; changes stand beside "
        "their depth",
        fontsize=13,
    )
    legend_below(figure, axes, columns=2)
