"""The report in Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from newllm.analysis.ablation import effects
from newllm.analysis.ablation_section import ablations_section
from newllm.analysis.findings import comparisons_section, diagnostics_section, verdicts_section
from newllm.analysis.further import context_section, cost_section, samples_section, unk_section
from newllm.analysis.grown_section import grown_section
from newllm.analysis.markdown import cell, number, percent, plural, table
from newllm.analysis.method import limits_section, method_section
from newllm.analysis.opening import opening
from newllm.analysis.published import (
    POINTS,
    SMALLEST_DIFFERENCE,
    SOURCE,
    TRAJECTORY,
    TRAJECTORY_NUM_LAYERS,
    PublishedPoint,
)
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import deviation, difference_interval, prediction_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import Verdict, judge
from newllm.measurement.intervals import Estimate, mean_interval

NOTHING = Supplements()


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
        if effects(comparison, supplements.ablations):
            parts += [
                picture("ablations.png", "Validation perplexity by depth, as in the study and with a switch changed")
            ]
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
        method_section(comparison),
        "## Limits",
        limits_section(comparison, supplements),
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
    names = ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy")
    header = ["layers", "parameters", "val PPL", "s", "test PPL", "s", "val accuracy, %", "s", "test accuracy, %", "s"]
    rows = [
        [
            str(result.num_layers),
            f"{result.metrics.num_params:,}",
            *(text for name in names for text in _figure(name, result.over_seeds(name))),
        ]
        for result in comparison.results
    ]
    caption = "Best validation perplexity, and test perplexity and accuracies at that epoch"
    if comparison.num_seeds > 1:
        caption += ": mean ± 95 % interval over seeds; s: standard deviation"
    return f"{caption}.\n\n{table(header, rows)}"


def _figure(name: str, values: Sequence[float]) -> tuple[str, str]:
    """Mean with interval, and s; accuracies in percent."""
    amounts = [100 * value for value in values] if name.endswith("accuracy") else values
    spread = deviation(amounts)
    return number(mean_interval(amounts)), "–" if spread is None else f"{spread:.3f}"


def _published(comparison: Comparison) -> Iterable[str]:
    ours = {result.num_layers: result for result in comparison.results}
    rows = []
    for point in POINTS:
        result = ours.get(point.num_layers)
        val_ppl = number(mean_interval(result.over_seeds("val_ppl"))) if result else "not in this report"
        accuracy = percent(result.over_seeds("val_accuracy")) if result else "–"
        given = _one_more_seed(result, point) if result else "–"
        published = [f"{point.val_ppl:.2f}", given, accuracy, f"{100 * point.val_accuracy:.1f} %", point.state]
        rows.append([str(point.num_layers), val_ppl, *published])
    header = ["layers", "val PPL", "published", "would one more seed have given it by then?"]
    header += ["val accuracy", "published", "state of the published run"]
    yield "## Beside the published points"
    yield (
        f"Published: {SOURCE}; one run each, no interval. Two of its runs were stopped by hand: one more seed is asked "
        "about its best as far as the published run went, in its 95 % range."
    )
    yield table(header, rows)
    yield from _outside(comparison, ours)
    if TRAJECTORY_NUM_LAYERS in ours:
        yield _trajectory(ours[TRAJECTORY_NUM_LAYERS])


def _one_more_seed(result: DepthResult, point: PublishedPoint) -> str:
    return _given(_best_by(result, point.epochs), point.val_ppl)


def _best_by(result: DepthResult, last: int) -> Estimate:
    """Where one more seed's lowest validation perplexity of the epochs up to `last` would be."""
    rows = [row for row in result.curve if row.epoch <= last]
    lowest = [min(row.val_ppl for row in rows if row.seed == run.seed) for run in result.runs.seeds]
    return prediction_interval(lowest)


def _given(interval: Estimate, published: float) -> str:
    if interval.half_width is None:
        return "unknown"
    inside = abs(published - interval.mean) <= interval.half_width
    return f"{'yes' if inside else 'no'} ({interval.low:.2f} to {interval.high:.2f})"


def _outside(comparison: Comparison, ours: Mapping[int, DepthResult]) -> Iterable[str]:
    """Which published values one more seed would not give, and what the notebook's comparisons with depth 6 suffer."""
    if comparison.num_seeds == 1:
        return
    parts = []
    for point in POINTS:
        if point.num_layers in ours:
            interval = _best_by(ours[point.num_layers], point.epochs)
            distance = point.val_ppl - interval.mean
            if abs(distance) > (interval.half_width or 0.0):
                side = f"{abs(distance):.2f} {'above' if distance > 0 else 'below'} our mean"
                parts.append(f"{plural(point.num_layers, 'layer')}, {point.val_ppl:.2f} ({side}; {point.state})")
    text = "Each published value is one that one more seed may give."
    if parts:
        text = f"Outside the range of one more seed: {'; '.join(parts)}."
    if {5, 6} <= ours.keys():
        values = {depth: ours[depth].over_seeds("val_ppl") for depth in (5, 6)}
        here = number(difference_interval(values[6], values[5]), signed=True)
        text += (
            " The notebook compares every depth with 6 layers: its 6 are worse than its 5 by "
            f"{SMALLEST_DIFFERENCE:.2f}; here that difference is {here}."
        )
    yield text


def _trajectory(result: DepthResult) -> str:
    rows = []
    for epoch, published in TRAJECTORY.items():
        values = [row.val_ppl for row in result.curve if row.epoch == epoch]
        ours = [number(mean_interval(values)), _given(prediction_interval(values), published)] if values else None
        mean, given = ours or ["not reached", "–"]
        rows.append([str(epoch), mean, f"{published:g}", given])
    title = f"Validation perplexity epoch by epoch at depth {TRAJECTORY_NUM_LAYERS}, beside an earlier published run:"
    return f"{title}\n\n{table(['epoch', 'val PPL', 'published', 'would one more seed give it?'], rows)}"


def _provenance(results: Iterable[DepthResult]) -> str:
    rows = []
    for result in results:
        runs = result.runs
        unknown = f"unknown ({runs.git_problem})" if runs.git_problem else "unknown"
        commit = cell(unknown if runs.git_commit is None else runs.git_commit[:12])
        state = " with changes" if runs.git_dirty else ""
        data = cell(runs.data_sha256[:12])
        texts = map(cell, (runs.device, runs.precision, runs.torch_version))
        rows.append([str(result.num_layers), *texts, commit + state, data])
    return table(["layers", "device", "precision", "torch", "commit", "sha256 of the training windows"], rows)
