"""The report's sections on cost, `<unk>`, context and samples of text, in Markdown."""

import math
from collections.abc import Sequence

from newllm.analysis.comparisons import compare_pairs
from newllm.analysis.context import FAR, Reach, loss_by_position, reaches
from newllm.analysis.cost import (
    ORDINARY,
    Effort,
    embedding_share,
    mean_effort,
    petaflop_per_epoch,
    startup_seconds,
    target,
    total_seconds,
    trainings,
    ways,
)
from newllm.analysis.diagnosis import Diagnosis
from newllm.analysis.markdown import amount, at_depths, cell, number, p_value, plural, table
from newllm.analysis.results import DepthResult
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import Estimate, mean_interval


def cost_section(comparison: Comparison, supplements: Supplements) -> str:
    """Epochs, seconds, energy and operations of a training and of the way to the target, per depth."""
    goal = target(comparison)
    energy = any(row.joules is not None for result in comparison.results for row in result.curve)
    units = ["s", *(["kJ"] if energy else []), "PFLOP"]
    header = ["layers", "epochs run", "start-up, s", *(f"{unit} a seed" for unit in units)]
    header += ["seeds that reach the target", *(f"{unit} to the target" for unit in ("epochs", *units))]
    rows = [_cost_row(result, goal, supplements, energy) for result in comparison.results]
    warning = []
    if len(comparison.devices) > 1:
        header.append("device")
        rows = [[*row, cell(result.runs.device)] for row, result in zip(rows, comparison.results, strict=True)]
        warning = [
            "**The depths were trained on different devices**: their seconds "
            f"{'and kJ ' if energy else ''}compare devices as much as depths. Epochs and PFLOP can be compared."
        ]
    text = [_target_text(comparison, goal), _units_text(comparison, supplements, energy)]
    return "\n\n".join([*warning, *text, table(header, rows), total_text(comparison, supplements)])


def total_text(comparison: Comparison, supplements: Supplements) -> str:
    """How long all trainings took."""
    runs = sum(len(result.runs.seeds) for result in comparison.results)
    devices = f" on {cell(comparison.devices[0])}" if len(comparison.devices) == 1 else ""
    text = f"Training these {plural(runs, 'model')}{devices} took {_amount(total_seconds(comparison.results))}"
    if supplements.grown:
        grown = sum(len(one.seeds) for one in supplements.grown)
        text += (
            f", and {plural(grown, 'model')} for the grown contexts {_amount(total_seconds(supplements.grown))} more"
        )
    return f"{text}, start-ups and validation included."


def _amount(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes" if seconds >= 120 else f"{seconds:,.0f} s"


def _target_text(comparison: Comparison, goal: float) -> str:
    what = "the best complete run of the notebook" if comparison.matches_published_data else "the worst depth’s mean"
    return (
        f"The target is a validation perplexity of {goal:.2f}, {what}. A seed reaches it in the first epoch that ends "
        "with no more; means are over the seeds that do."
    )


def _units_text(comparison: Comparison, supplements: Supplements, energy: bool) -> str:
    shallowest = comparison.results[0]
    share = embedding_share(shallowest, supplements.training_data)
    with_table = (
        f" (with {plural(shallowest.num_layers, 'layer')}, {100 * share:.0f} % of what the definition as written would "
        "do)" if share is not None else ""
    )  # fmt: skip
    joules = "Energy was not measured."
    if energy:
        joules = (
            "kJ are a seed’s share of the GPU’s energy, by its own counter, which moves in coarse steps: epochs times "
            f"the mean of those epochs of the seed that took at most {ORDINARY:g} times as long as the median one."
        )
    return (
        "Seconds are epochs times the seed’s median epoch. Start-up is what the training took beyond that: compilation "
        "and graph capture in the first epoch, where the depth trained first pays for what all share, and captures "
        f"anew where a seed stopped. {joules} PFLOP are 10¹⁵ floating-point operations of the training steps, computed "
        "from the sizes, not counted: 6 for each weight that a position meets in a product, of a trainer that skips no "
        "padding; this one skips some. The embedding’s half of the first layer counts nothing, since it is computed "
        f"once a step as a table{with_table}. Validation does not count."
    )


def _cost_row(result: DepthResult, goal: float, supplements: Supplements, energy: bool) -> list[str]:
    per_epoch = petaflop_per_epoch(result, supplements.training_data)
    found = ways(result, goal)
    return [
        str(result.num_layers),
        f"{mean_interval(result.over_seeds('epochs_run')).mean:.1f}",
        f"{startup_seconds(result):,.1f}",
        *_amounts(mean_effort(trainings(result)), per_epoch, energy)[1:],
        f"{sum(way is not None for way in found)} of {len(found)}",
        *_amounts(mean_effort(found), per_epoch, energy),
    ]


def _amounts(effort: Effort | None, per_epoch: float | None, energy: bool) -> list[str]:
    """Epochs, seconds, kJ where some are known, and PFLOP."""
    if effort is None:
        return ["–"] * (4 if energy else 3)
    joules = "not known" if effort.joules is None else f"{effort.joules / 1000:,.2f}"
    petaflop = "not known" if per_epoch is None else amount(per_epoch * effort.epochs)
    return [f"{effort.epochs:.1f}", f"{effort.seconds:,.1f}", *([joules] if energy else []), petaflop]


def unk_section(comparison: Comparison, supplements: Supplements) -> str:
    """Per depth, perplexity over the targets that are words, and whether it ranks the depths as the whole does."""
    known = _diagnosed(comparison, supplements)
    values = {d.num_layers: [seed.val_ppl_without_unk for seed in d.seeds] for _, d in known}
    rows = [
        [str(r.num_layers), number(mean_interval(r.over_seeds("val_ppl"))), number(mean_interval(values[r.num_layers]))]
        for r, _ in known
    ]
    with_unk = min(known, key=lambda pair: mean_interval(pair[0].over_seeds("val_ppl")).mean)[0].num_layers
    without = min(values, key=lambda depth: mean_interval(values[depth]).mean)
    lowest = (
        f"Depth {with_unk} is lowest with and without `<unk>`{_closest(values, with_unk)}."
        if with_unk == without
        else f"Depth {with_unk} is lowest with `<unk>`, depth {without} without."
    )
    text = (
        "Validation perplexity at the best epoch over all targets, and over those that are not `<unk>`; probability "
        f"given to `<unk>` there counts against the model. {lowest}"
    )
    return f"{text}\n\n{table(['layers', 'val PPL', 'val PPL without `<unk>`'], rows)}"


def _closest(values: dict[int, list[float]], lowest: int) -> str:
    """By how much the lowest depth is better than the next without `<unk>`; nothing where no test can be made."""
    pairs = compare_pairs(values, [(depth, lowest) for depth in values if depth != lowest])
    if not pairs or pairs[0].adjusted_p is None:
        return ""
    closest = min(pairs, key=lambda pair: pair.difference.mean)
    return (
        f"; without it the closest, {closest.num_layers}, is above by {number(closest.difference)} (adjusted p "
        f"{p_value(closest.adjusted_p)})"
    )


def context_section(comparison: Comparison, supplements: Supplements) -> str:
    """Perplexity by number of tokens read, and whether anything from further back than ten tokens is of use."""
    found = {one.num_layers: one for one in reaches(supplements.diagnoses)}
    rows = []
    for _, diagnosis in _diagnosed(comparison, supplements):
        means = {read: mean for read, mean, _, _ in loss_by_position(diagnosis)}
        shown = [f"{math.exp(means[read]):.2f}" if read in means else "–" for read in (1, FAR)]
        last = f"{math.exp(means[max(means)]):.2f} ({max(means)})" if means else "–"
        one = found.get(diagnosis.num_layers)
        gain = [_signed(one.gain, 3), p_value(one.adjusted_p).removeprefix("= ")] if one else None
        rows.append([str(diagnosis.num_layers), *shown, last, *(gain or ["–", "–"])])
    header = ["layers", "PPL after 1 token", f"after {FAR}", "after the last (token)"]
    header += [f"gain beyond {FAR} tokens", "adjusted p"]
    text = (
        "Validation perplexity by number of tokens read since the window began, where the context is empty; in full "
        "windows, of which some begin a row and the others lie within one."
    )
    return "\n\n".join([text, table(header, rows), *_carries(comparison, list(found.values()))])


def _carries(comparison: Comparison, found: Sequence[Reach]) -> list[str]:
    """How the gain is measured, and what it says of the best depth and of all."""
    if not found:
        return [
            f"Whether the context vector carries anything past {FAR} tokens cannot be measured here: no two windows of "
            f"a row have more than {FAR} targets in common."
        ]
    first = found[0]
    how = (
        f"Where two windows of a row overlap, the same words are predicted twice: in the earlier window with "
        f"{first.stride} tokens of context more than in the later one. The gain is by how much that lowers their loss, "
        f"in nats: the mean over {plural(first.pairs, 'pair')} of windows and all words before which the later window "
        f"already has more than {FAR} tokens. Interval and test (Student’s, Holm’s method over the depths) are of the "
        "scatter of the seeds; another text is not covered."
    )
    shown = [one.num_layers for one in found if one.is_shown]
    if all(one.adjusted_p is None for one in found):
        verdict = f"One seed gives no test of whether the context vector carries anything past {FAR} tokens."
    elif not shown:
        verdict = f"**No depth is shown to carry anything past {FAR} tokens.**"
    else:
        where = "at every depth measured" if len(shown) == len(found) else at_depths(shown)
        verdict = f"**The context vector carries something past {FAR} tokens {where}.**"
    best = next((one for one in found if one.num_layers == comparison.best.num_layers), first)
    ppl = next(
        mean_interval(r.over_seeds("val_ppl")).mean for r in comparison.results if r.num_layers == best.num_layers
    )
    share = 1 - math.exp(-best.gain.mean)
    name = "the best depth" if best.num_layers == comparison.best.num_layers else "depth"
    worth = (
        f"At {name}, {best.num_layers}, {first.stride} tokens more are worth {_signed(best.gain, 3)} nats: they "
        f"{'lower' if share >= 0 else 'raise'} perplexity by {100 * abs(share):.1f} %, which at its {ppl:.2f} is "
        f"{abs(share * ppl):.2f}."
    )
    low, high = (choose(found, key=lambda one: one.gain.mean) for choose in (min, max))
    of_all = f"Over the depths the gain goes from {_signed(low.gain, 3)} (depth {low.num_layers}) to "
    of_all += f"{_signed(high.gain, 3)} (depth {high.num_layers})."
    return [how, " ".join([verdict, worth, *([of_all] if low is not high else [])])]


def _signed(estimate: Estimate, decimals: int) -> str:
    return number(estimate, signed=True, decimals=decimals)


def samples_section(comparison: Comparison, supplements: Supplements) -> str:
    """What the best depth writes, or the first diagnosed one if the best was not, as text that Markdown leaves be."""
    diagnosis = supplements.diagnosis(comparison.best.num_layers) or supplements.diagnoses[0]
    lines = []
    for text in diagnosis.samples.texts:
        lines += [
            f"    {text.prompt} …",
            f"      most probable: {text.greedy}",
            f"      drawn:         {text.sampled}",
            "",
        ]
    title = (
        f"Depth {diagnosis.num_layers}, seed {diagnosis.samples.seed}: the most probable next tokens one after "
        "another, and tokens drawn at temperature 1."
    )
    return "\n".join([title, "", *(" ".join(line.split("\n")) for line in lines)]).rstrip()


def _diagnosed(comparison: Comparison, supplements: Supplements) -> list[tuple[DepthResult, Diagnosis]]:
    pairs = [(result, supplements.diagnosis(result.num_layers)) for result in comparison.results]
    return [(result, diagnosis) for result, diagnosis in pairs if diagnosis is not None]
