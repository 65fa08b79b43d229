"""The notebook's seven claims, each judged by a stated rule from the metrics alone.

The rules are `CLAIMS`, in the terms of `TERMS`; the report prints both. Their margins come from the published figures
alone. A claim is undecided unless the metrics show it or contradict it: that nothing is shown contradicts nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from newllm.analysis.comparisons import CHOOSING, PairComparison, compare_pairs, perplexities
from newllm.analysis.markdown import listed, number, p_value
from newllm.analysis.overfitting import Diagnostics, Excess, excesses, not_measured, worse_and_deeper
from newllm.analysis.published import EXPECTED, SMALLEST_DIFFERENCE, STUDY_DEPTHS, STUDY_EPOCHS
from newllm.analysis.statistics import SIGNIFICANCE, holm, mean_interval, mean_p_value
from newllm.analysis.summary import Comparison

MARGIN = SMALLEST_DIFFERENCE / 2
"""An advantage that is shown to be smaller is none, in perplexity."""
ROUNDING = 0.05
"""20.04 is printed as 20.0: what a target that was rounded to 0.1 leaves open, in perplexity."""


class Outcome(StrEnum):
    """What the metrics say of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """One claim judged; `numbers` and `rule` are in words, perplexities of the validation split."""

    number: int
    claim: str
    outcome: Outcome
    numbers: str
    rule: str


Finding = tuple[Outcome, str]


@dataclass(frozen=True)
class _Claim:
    text: str
    rule: str
    depths: tuple[int, ...]
    judge: Callable[[Comparison, Sequence[Diagnostics]], Finding]


def judge(comparison: Comparison, diagnostics: Sequence[Diagnostics] = ()) -> list[Verdict]:
    """The seven claims in their order.

    Args:
        comparison: results on the study's data; nothing here checks that they are.
        diagnostics: what was measured for claim 6; without it that claim is undecided.

    Raises:
        ValueError: a depth's diagnostics do not have one training loss a seed.
    """
    verdicts = []
    for position, claim in enumerate(CLAIMS, start=1):
        outcome, numbers = _judge(claim, comparison, diagnostics)
        verdicts.append(Verdict(position, claim.text, outcome, numbers, claim.rule))
    return verdicts


def _judge(claim: _Claim, comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> Finding:
    missing = sorted(set(claim.depths) - {result.num_layers for result in comparison.results})
    if missing:
        return Outcome.UNDECIDED, f"There are no results of {_depths(missing)}."
    if comparison.num_seeds == 1:
        return Outcome.UNDECIDED, "One seed a depth gives no test."
    return claim.judge(comparison, diagnostics)


def _four_is_best(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    values = perplexities(comparison)
    pairs = compare_pairs(values, [(depth, 4) for depth in values if depth != 4])
    return _outcome(all(pair.above for pair in pairs), any(pair.below for pair in pairs)), _differences(pairs)


def _five_beats_six(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    return _worse(comparison, [(6, 5)])


def _seven_is_clearly_worse(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    pair = compare_pairs(perplexities(comparison), [(7, 6)], SMALLEST_DIFFERENCE)[0]
    return _outcome(pair.above, pair.below), _differences([pair])


def _one_is_worse(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    return _worse(comparison, [(1, 4), (1, 5)])


def _worse(comparison: Comparison, pairs: list[tuple[int, int]]) -> Finding:
    """Whether in all pairs the first depth is worse; refuted if in any it is not worse by as much as the margin."""
    values = perplexities(comparison)
    worse, by_margin = compare_pairs(values, pairs), compare_pairs(values, pairs, MARGIN)
    outcome = _outcome(all(pair.above for pair in worse), any(pair.below for pair in by_margin))
    if outcome is Outcome.SUPPORTED:
        return outcome, _differences(worse)
    return outcome, f"{_differences(worse)}. Tested against the margin: {_differences(by_margin)}"


def _fewer_are_better_up_to_a_point(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    parameters = [result.metrics.num_params for result in comparison.results]
    growing = all(fewer < more for fewer, more in pairwise(parameters))
    counts = f"{min(parameters):,} to {max(parameters):,} parameters, {'' if growing else 'not '}growing with depth"
    values = perplexities(comparison)
    first, *inner, last = values
    ends = compare_pairs(values, [(end, depth) for depth in inner for end in (first, last)])
    points = [depth for depth in inner if all(pair.above for pair in ends if pair.reference == depth)]
    lowest = min(points or inner, key=lambda depth: mean_interval(values[depth]).mean)
    numbers = f"{counts}; {_differences([pair for pair in ends if pair.reference == lowest])}"
    if points:
        steps = compare_pairs(values, list(combinations([depth for depth in values if depth >= lowest], 2)))
        reversals = [pair for pair in steps if pair.above]
        contradicted = bool(reversals)
        numbers += f". Contradicting beyond depth {lowest}: {_differences(reversals) if reversals else 'nothing'}"
    else:
        deepest = compare_pairs(values, [(last, depth) for depth in (first, *inner)], MARGIN)
        shallowest = compare_pairs(values, [(first, depth) for depth in inner])
        no_gain, no_point = all(pair.below for pair in deepest), all(pair.below for pair in shallowest)
        contradicted = no_gain or no_point
        if no_gain:
            numbers += f". No fewer layers gain the margin: {_differences(deepest)}"
        if no_point:
            numbers += f". Depth {first} is below all between: {_differences(shallowest)}"
    return _outcome(growing and bool(points) and not contradicted, contradicted or not growing), numbers


def _deep_models_overfit(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> Finding:
    best, deeper = comparison.best.num_layers, worse_and_deeper(comparison)
    if not deeper:
        return (
            Outcome.UNDECIDED,
            f"No depth beyond the best, {best}, is shown to be worse: there is nothing to explain.",
        )
    unknown = not_measured([best, *deeper], diagnostics)
    if unknown:
        return Outcome.UNDECIDED, f"The training loss without dropout was not measured at {_depths(unknown)}."
    found = excesses(comparison, diagnostics)
    overfitting = any(excess.is_overfitting for excess in found)
    underfitting = any(excess.is_underfitting for excess in found)
    outcome = _outcome(overfitting and not underfitting, underfitting and not overfitting)
    return outcome, _parts(found, best)


def _targets_are_reached(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    results = {result.num_layers: result for result in comparison.results}
    partly = [
        depth
        for depth in sorted(EXPECTED)
        if any(run.epochs_run < STUDY_EPOCHS and not run.stopped_early for run in results[depth].runs.seeds)
    ]
    if partly:
        return Outcome.UNDECIDED, f"Not fully trained, {STUDY_EPOCHS} epochs or to the early stop: {_depths(partly)}."
    values = {depth: results[depth].over_seeds(CHOOSING) for depth in sorted(EXPECTED)}
    limits = {depth: expected + ROUNDING for depth, expected in EXPECTED.items()}
    p_values = holm([p for depth in sorted(EXPECTED) if (p := mean_p_value(values[depth], limits[depth])) is not None])
    reached, missed, numbers = [], [], []
    for depth, p in zip(sorted(EXPECTED), p_values, strict=True):
        estimate = mean_interval(values[depth])
        reached.append(p < SIGNIFICANCE and estimate.mean < limits[depth])
        missed.append(p < SIGNIFICANCE and estimate.mean > limits[depth])
        numbers.append(f"PPL({depth}) = {number(estimate)} (p {p_value(p)} against {limits[depth]:.2f})")
    return _outcome(all(reached), any(missed)), "; ".join(numbers)


def _outcome(supported: bool, refuted: bool) -> Outcome:
    if supported:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if refuted else Outcome.UNDECIDED


def _differences(pairs: Sequence[PairComparison]) -> str:
    return "; ".join(_difference(pair) for pair in pairs)


def _difference(pair: PairComparison) -> str:
    difference = f"PPL({pair.num_layers}) − PPL({pair.reference}) = {number(pair.difference, signed=True)}"
    against = f" against {pair.expected:.2f}" if pair.expected else ""
    return f"{difference} (p {p_value(pair.adjusted_p)}{against})"


def _parts(found: Sequence[Excess], best: int) -> str:
    """Which depths underfit and overfit, and the parts of the deepest one's excess."""
    under = [excess.num_layers for excess in found if excess.is_underfitting]
    over = [excess.num_layers for excess in found if excess.is_overfitting]
    deepest = found[-1]
    total, train_loss, gap = (
        number(part, signed=True, decimals=3)
        for part in (deepest.val_loss, deepest.train_loss.difference, deepest.gap.difference)
    )
    return (
        f"Against depth {best}: underfitting: {listed(under)}; overfitting: {listed(over)}. At depth "
        f"{deepest.num_layers} validation loss is {total} nats, of it training loss {train_loss} and gap {gap}."
    )


def _depths(depths: Sequence[int]) -> str:
    return f"depth{'' if len(depths) == 1 else 's'} {listed(depths)}"


TERMS = f"""\
PPL(d) is the mean over seeds of the best validation perplexity at depth d; intervals are of one comparison, 95 %. \
“Above” and “below” in a rule mean that a two-sided test shows it: Welch’s, or Student’s for a mean against a fixed \
value, with p < {SIGNIFICANCE:g} after Holm’s correction over the tests of that part of the rule. The margin, \
{MARGIN:.2f}, is half of the smallest difference from which the notebook concludes anything (5 layers against 6, \
{SMALLEST_DIFFERENCE:.2f}). Undecided does not mean equal: these seeds show neither the claim nor its opposite. Each \
claim is a question of its own: nothing corrects for there being seven."""

CLAIMS = (
    _Claim(
        "4 layers are best",
        "Supported if PPL(d) − PPL(4) is above 0 for every other depth d. Refuted if it is below 0 for any.",
        STUDY_DEPTHS,
        _four_is_best,
    ),
    _Claim(
        "5 beats 6",
        "Supported if PPL(6) − PPL(5) is above 0. Otherwise refuted if it is below the margin.",
        (5, 6),
        _five_beats_six,
    ),
    _Claim(
        "7 is clearly worse than 6",
        f"Supported if PPL(7) − PPL(6) is above {SMALLEST_DIFFERENCE:.2f}, refuted if it is below. “Clearly” is taken "
        "as: by more than the difference by which the notebook says that 5 beats 6.",
        (6, 7),
        _seven_is_clearly_worse,
    ),
    _Claim(
        "1 layer is worse than 4 and 5",
        "Supported if PPL(1) − PPL(4) and PPL(1) − PPL(5) are above 0. Otherwise refuted if one of them is below the "
        "margin.",
        (1, 4, 5),
        _one_is_worse,
    ),
    _Claim(
        "fewer layers need fewer parameters and are better up to a point",
        "The point is a depth between the shallowest and the deepest whose PPL is below that of both; of several, the "
        "one of lowest PPL. Supported if parameters grow with depth, there is a point, and from it to the deepest no "
        "depth’s PPL is above that of a deeper one. Refuted if parameters do not grow; if there is a point and such a "
        "pair; or if there is no point, and either PPL of the deepest minus every other is below the margin or PPL of "
        "the shallowest minus every one between is below 0.",
        STUDY_DEPTHS,
        _fewer_are_better_up_to_a_point,
    ),
    _Claim(
        "deep models are worse because they overfit",
        "Of each depth that is deeper than the best and worse (PPL above that of the best), the excess of validation "
        "loss is the sum of two excesses: of training loss, without dropout on a fixed sample at the best epoch, and "
        "of the gap, validation minus training loss. The depth overfits if the excess of the gap is above 0 and above "
        "that of training loss; it underfits if the excess of training loss is above 0 and above that of the gap. "
        "Supported if some depth overfits and none underfits, refuted if some depth underfits and none overfits.",
        (),
        _deep_models_overfit,
    ),
    _Claim(
        "fully trained, depth 4 reaches PPL 20.0 and depth 1 reaches 20.3",
        f"Supported if PPL(4) is below {EXPECTED[4] + ROUNDING:.2f} and PPL(1) below {EXPECTED[1] + ROUNDING:.2f}, "
        f"refuted if one of them is above: {ROUNDING:.2f} is what rounding to one decimal hides. Lower than the target "
        f"counts as reached. Fully trained: every seed ran {STUDY_EPOCHS} epochs or stopped early.",
        tuple(sorted(EXPECTED)),
        _targets_are_reached,
    ),
)
