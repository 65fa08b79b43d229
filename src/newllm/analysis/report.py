"""The report in Markdown."""

from collections.abc import Iterable, Sequence

from newllm.analysis.findings import comparisons_section, diagnostics_section, verdicts_section
from newllm.analysis.markdown import cell, number, plural, table
from newllm.analysis.overfitting import Diagnostics
from newllm.analysis.published import POINTS, SOURCE, TRAJECTORY, TRAJECTORY_NUM_LAYERS
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import Estimate, mean_interval
from newllm.analysis.summary import Comparison, learning_curves
from newllm.analysis.verdicts import judge

PICTURES = (
    ("perplexity_by_depth.png", "Validation perplexity by depth"),
    ("perplexity_by_parameters.png", "Validation perplexity by number of parameters"),
    ("learning_curves.png", "Learning curves: validation perplexity by epoch"),
    ("training_time.png", "Training time by depth"),
)

METHOD = """\
- Perplexity is exp(loss); loss and accuracy are summed over all non-padding targets of a split and divided by their \
number, without dropout.
- A seed's figures are those of its best epoch, the one of lowest validation loss. The test split chooses nothing: \
neither the epoch nor the best depth.
- `mean ± h` is a mean over seeds with the 95 % interval of Student's t distribution, h = t(0.975, n − 1) · s / √n \
with s the sample standard deviation. It covers what initialisation, shuffling and dropout vary, not another text.
- Differences from the baseline have Welch's 95 % interval for unequal variances, the seeds of two depths counting as \
independent. The intervals are of one comparison each, not corrected for the number of depths; and the best depth is \
chosen by the very figures that it is shown with, so its lead is flattered.
- Tests between depths are Welch’s, two-sided, of validation perplexity. Their p-values are corrected by Holm’s method \
within a column: all depths against the baseline are one family, all depths against the best another. \
The best depth being chosen by the same figures, the others look a little worse beside it than they are.
- A point of a learning curve is the mean of the perplexities of the seeds that trained in that epoch; where a line is \
dotted, some seeds had already stopped.
- Seconds a seed: a seed's share of the wall time of the seeds that were trained side by side, validation included."""


def write_report(comparison: Comparison, pictures: str = "../plots", diagnostics: Sequence[Diagnostics] = ()) -> str:
    """The whole report.

    Args:
        comparison: what it is about.
        pictures: the way from the report's folder to that of the pictures.
        diagnostics: measurements for the claim about overfitting, of all depths or of some.

    Raises:
        ValueError: a depth's diagnostics do not have one training loss a seed.
    """
    parts = [
        "# How many layers should New-LLM have?",
        _headline(comparison),
        *_notes(comparison),
        "## Depths",
        _depth_table(comparison),
        "## Tests between depths",
        comparisons_section(comparison),
        *(_claims(comparison, diagnostics) if comparison.matches_published_data else []),
        *([_published_section(comparison)] if comparison.matches_published_data else []),
        "## Pictures",
        *(f"![{title}]({pictures}/{name})" for name, title in PICTURES),
        "## Method",
        METHOD,
        "## Provenance",
        _provenance(comparison.results),
    ]
    return "\n\n".join(parts) + "\n"


def _claims(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> Iterable[str]:
    yield "## The notebook’s claims"
    if comparison.training_deviations:
        yield (
            "The claims are about the full study. What is judged here is the setting named at the top, which differs: "
            "these verdicts are not verdicts on the notebook."
        )
    yield verdicts_section(judge(comparison, diagnostics))
    yield "## Fit and overfitting"
    yield diagnostics_section(comparison, diagnostics)


def _headline(comparison: Comparison) -> str:
    studied, baseline, best = comparison.studied, comparison.baseline, comparison.best
    val, test = (mean_interval(studied.over_seeds(name)) for name in ("val_ppl", "test_ppl"))
    reached = f"a validation perplexity of **{number(val)}**"
    aside = f"test {number(test)}, validation accuracy {_percent(studied)}"
    if studied is baseline:
        first = f"With {_layers(studied)}, which is also the baseline, New-LLM reaches {reached} ({aside})."
    else:
        first = f"With {_layers(studied)}, New-LLM reaches {reached} ({aside}), {_against_baseline(comparison)}."
    lowest = number(mean_interval(best.over_seeds("val_ppl")))
    return " ".join(
        [
            first,
            f"Of the depths {_depths(comparison.results)}, **{_layers(best)}** has the lowest mean validation "
            f"perplexity, {lowest}{_lead(comparison)}.",
            f"{_devices(comparison.results)}, precision {cell(studied.runs.precision)}, "
            f"{plural(comparison.num_seeds, 'seed')} a depth, {_epochs(comparison.results)}.",
            *(["One seed gives no interval: any difference may be chance."] if comparison.num_seeds == 1 else []),
        ]
    )


def _against_baseline(comparison: Comparison) -> str:
    studied, baseline = (mean_interval(r.over_seeds("val_ppl")) for r in (comparison.studied, comparison.baseline))
    difference = comparison.difference(comparison.studied, "val_ppl") or Estimate(studied.mean - baseline.mean, None)
    against = f"the baseline of {_layers(comparison.baseline)}"
    return f"{_verdict(difference)} {against} ({number(baseline)}; difference {number(difference, signed=True)})"


def _verdict(difference: Estimate) -> str:
    if difference.half_width is not None and not difference.excludes_zero:
        return "not to be told from"
    return "lower than" if difference.mean < 0 else "higher than" if difference.mean > 0 else "equal to"


def _lead(comparison: Comparison) -> str:
    difference = comparison.difference(comparison.best, "val_ppl")
    if difference is None or comparison.best is comparison.studied:
        return ""
    return f" ({number(difference, signed=True)} from the baseline, {_verdict(difference)} it)"


def _notes(comparison: Comparison) -> Iterable[str]:
    deviations = [*comparison.data_deviations, *comparison.training_deviations]
    if not deviations:
        return
    note = f"> **This is not the full study.** It differs from the specification: {cell('; '.join(deviations))}."
    if comparison.data_deviations:
        note += (
            " The text or the prediction task is not that of the notebook, so its published points are left out: "
            "perplexities of different tasks cannot be compared."
        )
    else:
        note += " Its figures are not those that the published points would be tested with."
    yield note


def _depth_table(comparison: Comparison) -> str:
    header = [
        "layers",
        "parameters",
        "val PPL",
        f"difference from {comparison.baseline.num_layers}",
        "test PPL",
        "val accuracy",
        "test accuracy",
        "best epoch",
        "epochs run",
        "seconds a seed",
    ]
    return table(header, [_depth_row(comparison, result) for result in comparison.results])


def _depth_row(comparison: Comparison, result: DepthResult) -> list[str]:
    difference = comparison.difference(result, "val_ppl")
    return [
        str(result.num_layers),
        f"{result.metrics.num_params:,}",
        number(mean_interval(result.over_seeds("val_ppl"))),
        "baseline" if difference is None else number(difference, signed=True),
        number(mean_interval(result.over_seeds("test_ppl"))),
        _percent(result),
        _percent(result, "test_accuracy"),
        f"{mean_interval(result.over_seeds('best_epoch')).mean:.1f}",
        f"{mean_interval(result.over_seeds('epochs_run')).mean:.1f}",
        f"{mean_interval(result.over_seeds('train_seconds')).mean:,.1f}",
    ]


def _published_section(comparison: Comparison) -> str:
    ours = {result.num_layers: result for result in comparison.results}
    rows = []
    for point in POINTS:
        result = ours.get(point.num_layers)
        val_ppl = number(mean_interval(result.over_seeds("val_ppl"))) if result else "not in this report"
        accuracy = _percent(result) if result else "–"
        published = [f"{point.val_ppl:.2f}", accuracy, f"{100 * point.val_accuracy:.1f} %", point.state]
        rows.append([str(point.num_layers), val_ppl, *published])
    header = ["layers", "val PPL", "published", "val accuracy", "published", "state of the published run"]
    text = f"## Beside the published points\n\nPublished: {SOURCE}; one run each, no interval.\n\n{table(header, rows)}"
    if TRAJECTORY_NUM_LAYERS in ours:
        text += f"\n\n{_trajectory(ours[TRAJECTORY_NUM_LAYERS])}"
    return text


def _trajectory(result: DepthResult) -> str:
    curve = {row["epoch"]: row["val_ppl"] for row in learning_curves([result])}
    rows = [
        [str(epoch), f"{curve[epoch]:.2f}" if epoch in curve else "not reached", f"{published:g}"]
        for epoch, published in TRAJECTORY.items()
    ]
    title = f"Validation perplexity epoch by epoch at depth {TRAJECTORY_NUM_LAYERS}, beside an earlier published run:"
    return f"{title}\n\n{table(['epoch', 'val PPL', 'published'], rows)}"


def _provenance(results: Iterable[DepthResult]) -> str:
    rows = []
    for result in results:
        runs = result.runs
        commit = "unknown" if runs.git_commit is None else cell(runs.git_commit[:12])
        state = " with changes" if runs.git_dirty else ""
        data = cell(runs.data_sha256[:12])
        texts = map(cell, (runs.device, runs.precision, runs.torch_version))
        rows.append([str(result.num_layers), *texts, commit + state, data])
    return table(["layers", "device", "precision", "torch", "commit", "sha256 of the training windows"], rows)


def _percent(result: DepthResult, name: str = "val_accuracy") -> str:
    estimate = mean_interval([100 * value for value in result.over_seeds(name)])
    return f"{number(estimate)} %"


def _layers(result: DepthResult) -> str:
    return plural(result.num_layers, "layer")


def _depths(results: Sequence[DepthResult]) -> str:
    return ", ".join(str(result.num_layers) for result in results)


def _devices(results: Iterable[DepthResult]) -> str:
    return "Trained on " + " and ".join(sorted({cell(result.runs.device) for result in results}))


def _epochs(results: Iterable[DepthResult]) -> str:
    runs = [run for result in results for run in result.runs.seeds]
    fewest, most = min(run.epochs_run for run in runs), max(run.epochs_run for run in runs)
    stopped = sum(run.stopped_early for run in runs)
    text = plural(most, "epoch") if fewest == most else f"{fewest} to {most} epochs"
    return f"{text} ({stopped} of {len(runs)} runs stopped early)" if stopped else text
