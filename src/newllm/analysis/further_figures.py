"""Pictures of what a target costs, and of perplexity by position in the window."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from newllm.analysis.context import FAR, loss_by_position
from newllm.analysis.cost import mean_of_ways, petaflop_per_epoch, target, ways
from newllm.analysis.drawing import (
    MOST_LABELS,
    OURS,
    PUBLISHED,
    depth_colour,
    label_lines,
    layers,
    plain_numbers,
    say_nothing_measured,
    time_unit,
)
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements


def draw_cost(figure: Figure, comparison: Comparison, supplements: Supplements) -> None:
    """Time of each seed to the target perplexity, with operations and the number of seeds that reach it."""
    goal = target(comparison)
    found = [ways(result, goal) for result in comparison.results]
    means = [mean_of_ways(seeds) for seeds in found]
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
            operations = [] if per_epoch is None else [f"{per_epoch * mean.epochs:.3g}", "PFLOP"]
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
    figure.suptitle(f"Time to a validation perplexity of {goal:.2f}", fontsize=14)
    axes.set_title(
        "large dots: mean of the seeds that reach it; labels: operations, and how many seeds do", fontsize=12
    )


def _label(axes: Axes, position: float, height: float, text: str) -> None:
    axes.annotate(text, (position, height), xytext=(0, 8), textcoords="offset points", ha="center", va="bottom",
                  fontsize=10, color=PUBLISHED)  # fmt: skip


def draw_positions(figure: Figure, comparison: Comparison, supplements: Supplements) -> None:
    """Perplexity by number of tokens read at the shallowest, the best and the deepest of the diagnosed depths."""
    diagnosed = [diagnosis.num_layers for diagnosis in supplements.diagnoses if loss_by_position(diagnosis)]
    if not diagnosed:
        say_nothing_measured(figure, "Perplexity by position")
        return
    best = [comparison.best.num_layers] if comparison.best.num_layers in diagnosed else []
    axes = figure.add_subplot()
    chosen = sorted({diagnosed[0], *best, diagnosed[-1]})
    ends, lows, last = [], [], 1
    for index, depth in enumerate(chosen):
        diagnosis = supplements.diagnosis(depth)
        if diagnosis is None:
            continue
        rows = [(read, *map(math.exp, losses)) for read, *losses in loss_by_position(diagnosis)]
        read, means, low, high = zip(*rows, strict=True)
        colour = depth_colour(index, len(chosen))
        axes.fill_between(read, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(read, means, color=colour, linewidth=2, marker="os^"[index], markersize=5)
        ends.append((means[-1], layers(depth) + (" (best)" if [depth] == best else ""), colour))
        lows += [*low, *high]
        last = max(last, read[-1])
    if last > FAR:
        axes.axvline(FAR, color=PUBLISHED, linestyle=":", linewidth=1.4)
        axes.annotate(f"{FAR} tokens", (FAR, 0.97), xycoords=("data", "axes fraction"), xytext=(6, 0),
                      textcoords="offset points", va="top", color=PUBLISHED)  # fmt: skip
    axes.set_xlim(1 - max(0.02 * last, 0.1), last + max(0.02 * last, 0.1))
    plain_numbers(axes, logarithmic=max(lows) > 3 * min(lows))
    axes.set_ylim(0.97 * min(lows), 1.03 * max(lows))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.set_xlabel("tokens read since the window began, in the middle of a text")
    axes.set_ylabel("validation perplexity of the next token")
    figure.suptitle("Perplexity by number of tokens read", fontsize=14)
    label_lines(axes, ends)
