"""The report in Markdown."""

from collections.abc import Iterable, Sequence

from newllm.analysis.experiments import ablations_section, grown_section
from newllm.analysis.findings import comparisons_section, diagnostics_section, verdicts_section
from newllm.analysis.further import context_section, cost_section, samples_section, unk_section
from newllm.analysis.markdown import cell, number, percent, table
from newllm.analysis.opening import opening
from newllm.analysis.published import POINTS, SOURCE, TRAJECTORY, TRAJECTORY_NUM_LAYERS
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import deviation, mean_interval
from newllm.analysis.summary import Comparison, learning_curves
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import Verdict, judge

NOTHING = Supplements()

METHOD = """\
- Perplexity is exp(loss); loss and accuracy are summed over all non-padding targets of a split and divided by their \
number, without dropout.
- A seed's figures are those of its best epoch, the one of lowest validation loss. The test split chooses nothing: \
neither the epoch nor the best depth.
- `mean ± h` is a mean over seeds with the 95 % interval of Student's t distribution, h = t(0.975, n − 1) · s / √n \
with s the sample standard deviation.
- Differences between depths have Welch's 95 % interval for unequal variances, the seeds of two depths counting as \
independent. The intervals are of one comparison each, not corrected for the number of depths.
- Tests between depths are Welch’s, two-sided, of validation perplexity. Their p-values are corrected by Holm’s method \
within a column: all depths against the baseline are one family, all depths against the best another.
- A point of a learning curve is the mean of the perplexities of the seeds that trained in that epoch; where a line is \
dotted, some seeds had already stopped.
- Seconds a seed: a seed's share of the wall time of the seeds that were trained side by side, validation included."""

LIMITS = """\
- Intervals cover what initialisation, shuffling and dropout vary: not another text, another split of it, or other \
settings of the training.
- The best depth is chosen by the very figures that it is shown with: its lead is flattered, and the others look a \
little worse beside it than they are.
- All depths share one learning rate and one schedule. A depth that is worse here may be as good with its own.
- Not distinguishable does not mean equal: few seeds see only large differences.
- The validation figure of a seed is the lowest of all its epochs, and so a little lower than one epoch’s would be.
- Seconds are of the hardware named below, with the seeds side by side; operations are computed, not counted."""


def write_report(comparison: Comparison, pictures: str = "../plots", supplements: Supplements = NOTHING) -> str:
    """The whole report.

    Args:
        comparison: what it is about.
        pictures: the way from the report's folder to that of the pictures.
        supplements: what else was measured; a section for which there is nothing is left out.
    """

    def picture(name: str, title: str) -> str:
        return f"![{title}]({pictures}/{name})"

    verdicts = judge(comparison, supplements.overfitting) if comparison.matches_published_data else []
    parts = [
        "# How many layers should New-LLM have?",
        opening(comparison, supplements, verdicts),
        "## Depths",
        depth_table(comparison),
        picture("perplexity_by_depth.png", "Validation perplexity by depth"),
        "## Tests between depths",
        comparisons_section(comparison),
        *(_claims(comparison, verdicts) if verdicts else []),
        *(_fit(comparison, supplements) if verdicts or supplements.diagnoses else []),
        "## Cost",
        cost_section(comparison, supplements),
        picture("training_time.png", "Training time by depth"),
        picture("cost_to_target.png", "Time to the target by depth"),
        *(_published(comparison) if comparison.matches_published_data else []),
    ]
    if supplements.grown:
        parts += ["## Grown contexts", grown_section(supplements.grown)]
        parts += [picture("grown_contexts.png", "Grown contexts: validation perplexity by epoch")]
    if supplements.ablations:
        parts += ["## Ablations", ablations_section(comparison, supplements)]
    if supplements.diagnoses:
        parts += ["## `<unk>`", unk_section(comparison, supplements)]
        parts += ["## What the context carries", context_section(comparison, supplements)]
        parts += [picture("perplexity_by_position.png", "Validation perplexity by number of tokens read")]
        parts += ["## Samples", samples_section(comparison, supplements)]
    parts += [
        "## More pictures",
        picture("perplexity_by_parameters.png", "Validation perplexity by number of parameters"),
        picture("learning_curves.png", "Learning curves: validation perplexity by epoch"),
        "## Method",
        METHOD,
        "## Limits",
        LIMITS,
        "## Provenance",
        _provenance(comparison.results),
    ]
    return "\n\n".join(parts) + "\n"


def _claims(comparison: Comparison, verdicts: Sequence[Verdict]) -> Iterable[str]:
    yield "## The notebook’s claims"
    if comparison.training_deviations:
        yield (
            "The claims are about the full study. What is judged here is the setting named at the top, which differs: "
            "these verdicts are not verdicts on the notebook."
        )
    yield verdicts_section(verdicts)


def _fit(comparison: Comparison, supplements: Supplements) -> Iterable[str]:
    yield "## Fit and overfitting"
    yield diagnostics_section(comparison, supplements.overfitting)


def depth_table(comparison: Comparison) -> str:
    """Each depth's figures at the best epoch: means with intervals, and standard deviations s."""
    header = ["layers", "parameters", "val PPL", "s", "test PPL", "s", "val accuracy", "s", "test accuracy"]
    return table(header, [_depth_row(result) for result in comparison.results])


def _depth_row(result: DepthResult) -> list[str]:
    cells = [str(result.num_layers), f"{result.metrics.num_params:,}"]
    for name in ("val_ppl", "test_ppl"):
        cells += [number(mean_interval(result.over_seeds(name))), _deviation(result.over_seeds(name))]
    accuracies = result.over_seeds("val_accuracy")
    cells += [percent(accuracies), _deviation([100 * accuracy for accuracy in accuracies], " %")]
    return [*cells, percent(result.over_seeds("test_accuracy"))]


def _deviation(values: Sequence[float], unit: str = "") -> str:
    found = deviation(values)
    return "–" if found is None else f"{found:.2g}{unit}"


def _published(comparison: Comparison) -> Iterable[str]:
    ours = {result.num_layers: result for result in comparison.results}
    rows = []
    for point in POINTS:
        result = ours.get(point.num_layers)
        val_ppl = number(mean_interval(result.over_seeds("val_ppl"))) if result else "not in this report"
        accuracy = percent(result.over_seeds("val_accuracy")) if result else "–"
        published = [f"{point.val_ppl:.2f}", accuracy, f"{100 * point.val_accuracy:.1f} %", point.state]
        rows.append([str(point.num_layers), val_ppl, *published])
    header = ["layers", "val PPL", "published", "val accuracy", "published", "state of the published run"]
    yield "## Beside the published points"
    yield f"Published: {SOURCE}; one run each, no interval."
    yield table(header, rows)
    if TRAJECTORY_NUM_LAYERS in ours:
        yield _trajectory(ours[TRAJECTORY_NUM_LAYERS])


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
