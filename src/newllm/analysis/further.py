"""The report's sections on cost, `<unk>`, context and samples of text, in Markdown."""

import math
from collections.abc import Sequence

from newllm.analysis.context import FAR, Reach, loss_by_position, reaches
from newllm.analysis.cost import mean_of_ways, petaflop_per_epoch, target, ways
from newllm.analysis.diagnosis import Diagnosis
from newllm.analysis.markdown import at_depths, number, p_value, plural, table
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import Estimate, mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements


def cost_section(comparison: Comparison, supplements: Supplements) -> str:
    """Epochs, seconds and operations of a training and of the way to the target, per depth."""
    goal = target(comparison)
    header = ["layers", "best epoch", "epochs run", "seconds a seed", "PFLOP a seed", "seeds that reach it"]
    header += ["epochs to it", "seconds to it", "PFLOP to it"]
    rows = [_cost_row(result, goal, supplements) for result in comparison.results]
    what = "the best complete run of the notebook" if comparison.matches_published_data else "the worst depth’s mean"
    text = (
        f"“It” is a validation perplexity of {goal:.2f}, {what}: up to the first epoch at whose end a seed has it, "
        "means over the seeds that do. PFLOP are 10¹⁵ floating-point operations of the training steps, computed from "
        "the sizes: 6 for each weight that a position meets in a product, padding included, validation not."
    )
    return f"{text}\n\n{table(header, rows)}"


def _cost_row(result: DepthResult, goal: float, supplements: Supplements) -> list[str]:
    per_epoch = petaflop_per_epoch(result, supplements.training_data)
    epochs_run = mean_interval(result.over_seeds("epochs_run")).mean
    found = ways(result, goal)
    way = mean_of_ways(found)
    to_it = ["–"] * 3 if way is None else [f"{way.epochs:.1f}", f"{way.seconds:,.1f}", _petaflop(per_epoch, way.epochs)]
    return [
        str(result.num_layers),
        f"{mean_interval(result.over_seeds('best_epoch')).mean:.1f}",
        f"{epochs_run:.1f}",
        f"{mean_interval(result.over_seeds('train_seconds')).mean:,.1f}",
        _petaflop(per_epoch, epochs_run),
        f"{sum(one is not None for one in found)} of {len(found)}",
        *to_it,
    ]


def _petaflop(per_epoch: float | None, epochs: float) -> str:
    return "not known" if per_epoch is None else f"{float(f'{per_epoch * epochs:.3g}'):,g}"


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
    lowest = f"{without}, as with it" if with_unk == without else f"{without}, with it {with_unk}"
    text = (
        "Validation perplexity at the best epoch over all targets, and over those that are not `<unk>`; predicting "
        "`<unk>` for one of these counts as the error that it is. The depth of the lowest mean without `<unk>` is "
        f"{lowest}."
    )
    return f"{text}\n\n{table(['layers', 'val PPL', 'val PPL without `<unk>`'], rows)}"


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
        "Validation perplexity by number of tokens read since the window began, with an empty context; in full "
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
        f"At {name}, {best.num_layers}, {first.stride} tokens more are worth {_signed(best.gain, 3)} nats, "
        f"{_signed(Estimate(100 * share, None), 1)} % of perplexity, which at its {ppl:.2f} is "
        f"{_signed(Estimate(share * ppl, None), 2)}."
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
