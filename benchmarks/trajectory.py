"""The known trajectory of depth 6 beside ours, and all depths that are trained: python -m benchmarks.trajectory.

For a study that is not complete, whose report cannot be written yet. Reads dvc.lock, plots/curves/ and
metrics/runs/6.json; writes docs/trajectory.png and docs/trajectory.md.
"""

import csv
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from matplotlib import colormaps
from matplotlib.figure import Figure

from newllm.analysis.markdown import number
from newllm.analysis.published import POINTS, TRAJECTORY, TRAJECTORY_NUM_LAYERS
from newllm.analysis.statistics import mean_interval
from newllm.files import atomic_path, read_json

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FINAL_ACCURACY_PCT = 36.2  # published, after epoch 50
Curves = dict[int, dict[int, dict[str, float]]]


def main() -> None:
    """Draws the picture and writes the table."""
    depth = TRAJECTORY_NUM_LAYERS
    curves = read_curves(ROOT / "plots" / "curves" / f"{depth}.csv")
    run = read_json(ROOT / "metrics" / "runs" / f"{depth}.json", f"evaluate@{depth}")["runs"][0]
    draw(curves, DOCS / "trajectory.png")
    with atomic_path(DOCS / "trajectory.md") as beside:
        beside.write_text("\n".join([*describe(curves, run), *describe_depths(), ""]), encoding="utf-8")


def read_curves(path: Path) -> Curves:
    """Rows of a curves file by seed and epoch."""
    curves: Curves = {}
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            row = {name: float(value) for name, value in cells.items()}
            row |= {name: int(cells[name]) for name in ("num_layers", "seed", "epoch")}
            curves.setdefault(int(cells["seed"]), {})[int(cells["epoch"])] = row
    return curves


def draw(curves: Curves, path: Path) -> None:
    """Validation perplexity by epoch: every seed, and the published points."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for index, (seed, curve) in enumerate(curves.items()):
        epochs = list(curve)
        axes.plot(
            epochs,
            [curve[epoch]["val_ppl"] for epoch in epochs],
            color=colormaps["viridis"](index / max(len(curves), 2)),
            linewidth=1.2,
            label=f"seed {seed}",
        )
    axes.scatter(
        list(TRAJECTORY), list(TRAJECTORY.values()), color="black", marker="x", s=60, zorder=3, label="published"
    )
    axes.set_yscale("log")
    ticks = [21, 25, 30, 40, 50, 70, 100]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation perplexity")
    axes.set_title(f"Depth {TRAJECTORY_NUM_LAYERS}: validation perplexity after each epoch")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=150, metadata={"Software": None})


def describe_depths() -> list[str]:
    """A table of the best epochs of every depth whose training dvc.lock records."""
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    published = {point.num_layers: point.val_ppl for point in POINTS}
    lines = [
        "## Depths that are trained",
        "",
        "The lowest validation perplexity of each seed and the accuracy in that epoch: mean over the seeds with its "
        "95 % interval (Student), and the published value.",
        "",
        "| depth | seeds | published | perplexity | seeds' perplexities | accuracy | last epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for depth in sorted(int(name.split("@")[1]) for name in stages if name.startswith("train@")):
        curves = read_curves(ROOT / "plots" / "curves" / f"{depth}.csv")
        best = [min(curve.values(), key=lambda row: row["val_loss"]) for curve in curves.values()]
        perplexities = [row["val_ppl"] for row in best]
        mean, accuracy = mean_interval(perplexities), mean_interval([100 * row["val_accuracy"] for row in best])
        cells = [
            str(depth),
            str(len(curves)),
            f"{published[depth]:g}" if depth in published else "-",
            number(mean),
            ", ".join(f"{value:.2f}" for value in perplexities),
            f"{accuracy.mean:.2f} %",
            ", ".join(str(max(curve)) for curve in curves.values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def describe(curves: Curves, run: dict[str, Any]) -> list[str]:
    """The table, and how it was made."""
    seeds = list(curves)
    epochs = [epoch for epoch in TRAJECTORY if all(epoch in curve for curve in curves.values())]
    lines = [
        f"# Depth {TRAJECTORY_NUM_LAYERS}, epoch by epoch",
        "",
        f"Validation perplexity on WikiText-2 of {len(seeds)} seeds beside the published trajectory. "
        f"{run['device']}, {run['precision']}, torch {run['torch_version']}, commit `{run['git_commit']}`"
        f"{' with changes' if run['git_dirty'] else ''}.",
        "",
        "| epoch | published | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "|---|---|" + "---|" * (len(seeds) + 1),
    ]
    for epoch in epochs:
        values = [curves[seed][epoch]["val_ppl"] for seed in seeds]
        cells = [f"{value:.2f}" for value in [*values, fmean(values)]]
        lines.append(f"| {epoch} | {TRAJECTORY[epoch]:g} | " + " | ".join(cells) + " |")
    last = max(epochs)
    accuracies = [100 * curves[seed][last]["val_accuracy"] for seed in seeds]
    cells = [f"{value:.2f} %" for value in [*accuracies, fmean(accuracies)]]
    published = f"{FINAL_ACCURACY_PCT} %" if last == max(TRAJECTORY) else "-"
    lines.append(f"| accuracy after {last} | {published} | " + " | ".join(cells) + " |")
    lines += ["", "![Validation perplexity after each epoch](trajectory.png)", ""]
    return [*lines, "Every epoch of every seed is in [plots/curves](../plots/curves).", ""]


if __name__ == "__main__":
    main()
