"""How the metrics decide each of the notebook's claims; the rules in words, one for each function, are in `verdicts`.

Margins come from the published figures alone. A claim is undecided unless the metrics show it or contradict it: that
nothing is shown contradicts nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations, pairwise

from newllm.analysis.comparisons import CHOOSING, PairComparison, compare_pairs, perplexities
from newllm.analysis.markdown import at_depths, at_most, depths_in_words, listed, number, p_value, plural
from newllm.analysis.overfitting import Diagnostics, Excess, excesses, not_measured, worse_and_deeper
from newllm.analysis.published import EXPECTED, POINTS, SMALLEST_DIFFERENCE, STUDY_EPOCHS
from newllm.analysis.statistics import SIGNIFICANCE, holm, mean_p_value
from newllm.analysis.summary import Comparison
from newllm.measurement.intervals import mean_interval

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
class Finding:
    """What was found of a claim; perplexities of the validation split.

    Attributes:
        outcome: what the metrics say.
        deciding: the numbers that decide it, or that leave it open.
        short: why, in a few words that can follow the claim in brackets.
        rest: the other numbers of the rule; empty if there are none.
    """

    outcome: Outcome
    deciding: str
    short: str
    rest: str = ""


def undecided(why: str) -> Finding:
    """The finding where there is nothing to judge by; `why` is a sentence."""
    return Finding(Outcome.UNDECIDED, why, why[0].lower() + why[1:].removesuffix("."))


@dataclass(frozen=True)
class _Pair:
    """Two depths tested against no difference and against the margin; the first is claimed to be worse."""

    zero: PairComparison
    margin: PairComparison

    @property
    def words(self) -> str:
        """How the first depth stands to the second."""
        if self.zero.above or self.zero.below:
            return f"{'worse' if self.zero.above else 'better'} than {self.zero.reference} by {_size(self.zero)}"
        difference = number(self.zero.difference, signed=True)
        relation = "as good as" if self.margin.below else "not shown to differ from"
        return f"{relation} {self.zero.reference}: {difference}"

    @property
    def numbers(self) -> str:
        """Difference and both p-values."""
        p_values = f"p {p_value(self.zero.adjusted_p)}; against {MARGIN:.2f}: p {p_value(self.margin.adjusted_p)}"
        return f"{_subtraction(self.zero)} ({p_values})"


def four_is_best(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 1."""

    pairs = [(result.num_layers, 4) for result in comparison.results if result.num_layers != 4]

    def short(outcome: Outcome, deciding: Sequence[_Pair]) -> str:
        nearest = min(deciding, key=lambda pair: pair.zero.difference.mean)
        depth = nearest.zero.num_layers
        if outcome is Outcome.SUPPORTED:
            return f"the closest, {plural(depth, 'layer')}, by {_size(nearest.zero)}"
        if outcome is Outcome.UNDECIDED:
            return f"{listed([pair.zero.num_layers for pair in deciding])} may be as good"
        text = f"{depth} {_is(depth)} {nearest.words.replace(' than 4', '')}"
        trained_there = {point.num_layers for point in POINTS}
        others = [pair.zero for pair in _tested(comparison, pairs) if pair.zero.num_layers in trained_there]
        return text + ("; of the depths that it trained, 4 is best" if all(other.above for other in others) else "")

    return _worse(comparison, pairs, short)


def five_beats_six(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 2."""

    def short(outcome: Outcome, deciding: Sequence[_Pair]) -> str:
        return f"by {_size(deciding[0].zero)}" if outcome is Outcome.SUPPORTED else f"6 are {deciding[0].words}"

    return _worse(comparison, [(6, 5)], short)


def seven_is_clearly_worse(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 3."""
    pair = compare_pairs(perplexities(comparison), [(7, 6)], SMALLEST_DIFFERENCE)[0]
    deciding = f"{_subtraction(pair)} (p {p_value(pair.adjusted_p)} against {SMALLEST_DIFFERENCE:.2f})"
    return Finding(_outcome(pair.above, pair.below), deciding, f"by {number(pair.difference)}")


def one_is_worse(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 4."""
    pairs = _tested(comparison, [(1, 4), (1, 5)])
    words = "; ".join(pair.words for pair in pairs)
    return _worse(comparison, [(1, 4), (1, 5)], lambda _outcome, _deciding: words)


def fewer_are_better_up_to_a_point(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 5."""
    parameters = [result.metrics.num_params for result in comparison.results]
    growing = all(fewer < more for fewer, more in pairwise(parameters))
    counts = f"{min(parameters):,} to {max(parameters):,} parameters, {'' if growing else 'not '}growing with depth"
    if not growing:
        return Finding(Outcome.REFUTED, counts, "parameters do not grow with depth")
    values = perplexities(comparison)
    first, *inner, last = values
    ends = compare_pairs(values, [(end, depth) for depth in inner for end in (first, last)])
    points = [depth for depth in inner if all(pair.above for pair in ends if pair.reference == depth)]
    lowest = min(points or inner, key=lambda depth: mean_interval(values[depth]).mean)
    own_ends = [pair for pair in ends if pair.reference == lowest]
    if not points:
        return _no_point(values, own_ends, counts)
    beyond = [depth for depth in values if depth >= lowest]
    reversals = [pair for pair in compare_pairs(values, list(combinations(beyond, 2))) if pair.above]
    if reversals:
        rest = f"{counts}; {_differences(own_ends)}"
        return Finding(Outcome.REFUTED, _differences(reversals), _better(reversals[0]), rest)
    short = f"{first} {_is(first)} worse than {lowest} by {_size(own_ends[0])}, {last} by {_size(own_ends[1])}"
    return Finding(Outcome.SUPPORTED, f"{_differences(own_ends)}. {_steps(values, beyond)}", short, counts)


def _no_point(values: dict[int, list[float]], ends: Sequence[PairComparison], counts: str) -> Finding:
    """Whether the ends are so good that no depth between them can be better than both."""
    first, *inner, last = values
    deepest = compare_pairs(values, [(last, depth) for depth in (first, *inner)], MARGIN)
    shallowest = compare_pairs(values, [(first, depth) for depth in inner])
    rest = f"{counts}; {_differences(ends)}"
    if all(pair.below for pair in deepest):
        return Finding(Outcome.REFUTED, _differences(deepest), f"no fewer layers are better than {last}", rest)
    if all(pair.below for pair in shallowest):
        return Finding(Outcome.REFUTED, _differences(shallowest), f"{first} is better than all between", rest)
    return Finding(
        Outcome.UNDECIDED, _differences(ends), f"none is shown to be better than both {first} and {last}", counts
    )


def _steps(values: dict[int, list[float]], depths: Sequence[int]) -> str:
    """Each depth beyond the first of these against the one before."""
    steps = compare_pairs(values, [(deeper, depth) for depth, deeper in pairwise(depths)])
    if all(step.above for step in steps):
        sizes = ", ".join(number(step.difference, signed=True) for step in steps)
        largest = at_most([step.adjusted_p for step in steps])
        return f"Each depth beyond {depths[0]} is shown to be worse than the one before: {sizes} (p {largest})"
    return f"No depth beyond {depths[0]} is shown to be better than a shallower one; the steps: {_differences(steps)}"


def deep_models_overfit(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> Finding:
    """Claim 6."""
    best, deeper = comparison.best.num_layers, worse_and_deeper(comparison)
    if not deeper:
        return undecided(f"No depth beyond the best, {best}, is shown to be worse: there is nothing to explain.")
    unknown = not_measured([best, *deeper], diagnostics)
    if unknown:
        return undecided(f"The training loss without dropout was not measured {at_depths(unknown)}.")
    found = excesses(comparison, diagnostics)
    overfitting = any(excess.is_overfitting for excess in found)
    underfitting = any(excess.is_underfitting for excess in found)
    outcome = _outcome(overfitting and not underfitting, underfitting and not overfitting)
    train_loss, gap = (part.difference.mean for part in (found[-1].train_loss, found[-1].gap))
    short = (
        f"from {best} to {found[-1].num_layers} layers training loss {'rises' if train_loss > 0 else 'falls'} by "
        f"{abs(train_loss):.3f} nats, the gap to validation {'grows' if gap > 0 else 'shrinks'} by {abs(gap):.3f}"
    )
    return Finding(outcome, _parts(found, best), short)


def targets_are_reached(comparison: Comparison, _: Sequence[Diagnostics]) -> Finding:
    """Claim 7."""
    results = {result.num_layers: result for result in comparison.results}
    depths = list(EXPECTED)
    partly = [
        depth
        for depth in depths
        if any(run.epochs_run < STUDY_EPOCHS and not run.stopped_early for run in results[depth].runs.seeds)
    ]
    if partly:
        return undecided(f"Not fully trained, {STUDY_EPOCHS} epochs or to the early stop: {depths_in_words(partly)}.")
    values = {depth: results[depth].over_seeds(CHOOSING) for depth in depths}
    limits = {depth: expected + ROUNDING for depth, expected in EXPECTED.items()}
    p_values = holm([p for depth in depths if (p := mean_p_value(values[depth], limits[depth])) is not None])
    verdicts, numbers, words = {}, {}, []
    for depth, p in zip(depths, p_values, strict=True):
        estimate = mean_interval(values[depth])
        is_shown = p < SIGNIFICANCE
        verdicts[depth] = _outcome(
            is_shown and estimate.mean < limits[depth], is_shown and estimate.mean > limits[depth]
        )
        numbers[depth] = f"PPL({depth}) = {number(estimate)} (p {p_value(p)} against {limits[depth]:.2f})"
        does = "does" if depth == 1 else "do"
        verb = {Outcome.SUPPORTED: does, Outcome.REFUTED: f"{does} not", Outcome.UNDECIDED: "may"}[verdicts[depth]]
        words.append(f"{plural(depth, 'layer')} {verb}, at {number(estimate)}")
    found = set(verdicts.values())
    outcome = _outcome(found == {Outcome.SUPPORTED}, Outcome.REFUTED in found)
    deciding = "; ".join(numbers[depth] for depth in depths if verdicts[depth] is outcome)
    rest = "; ".join(numbers[depth] for depth in depths if verdicts[depth] is not outcome)
    return Finding(outcome, deciding, "; ".join(words), rest)


def _tested(comparison: Comparison, pairs: list[tuple[int, int]]) -> list[_Pair]:
    values = perplexities(comparison)
    families = compare_pairs(values, pairs), compare_pairs(values, pairs, MARGIN)
    return [_Pair(*both) for both in zip(*families, strict=True)]


def _worse(
    comparison: Comparison, pairs: list[tuple[int, int]], short: Callable[[Outcome, Sequence[_Pair]], str]
) -> Finding:
    """Whether in all pairs the first depth is worse; refuted if in any it is not worse by as much as the margin."""
    tested = _tested(comparison, pairs)
    outcome = _outcome(all(pair.zero.above for pair in tested), any(pair.margin.below for pair in tested))
    if outcome is Outcome.SUPPORTED:
        deciding = [min(tested, key=lambda pair: pair.zero.difference.mean)]
        text = ("closest: " if len(tested) > 1 else "") + _difference(deciding[0].zero)
    elif outcome is Outcome.REFUTED:
        deciding = [pair for pair in tested if pair.margin.below]
        text = "; ".join(pair.numbers for pair in deciding)
    else:
        deciding = [pair for pair in tested if not pair.zero.above]
        text = "; ".join(pair.numbers for pair in deciding)
    rest = "; ".join(pair.numbers for pair in tested if pair not in deciding)
    return Finding(outcome, text, short(outcome, deciding), rest)


def _outcome(supported: bool, refuted: bool) -> Outcome:
    if supported:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if refuted else Outcome.UNDECIDED


def _differences(pairs: Sequence[PairComparison]) -> str:
    return "; ".join(_difference(pair) for pair in pairs)


def _difference(pair: PairComparison) -> str:
    against = f" against {pair.expected:.2f}" if pair.expected else ""
    return f"{_subtraction(pair)} (p {p_value(pair.adjusted_p)}{against})"


def _subtraction(pair: PairComparison) -> str:
    return f"PPL({pair.num_layers}) − PPL({pair.reference}) = {number(pair.difference, signed=True)}"


def _better(pair: PairComparison) -> str:
    return f"{pair.reference} {_is(pair.reference)} better than {pair.num_layers} by {_size(pair)}"


def _size(pair: PairComparison) -> str:
    return number(replace(pair.difference, mean=abs(pair.difference.mean)))


def _is(depth: int) -> str:
    return "is" if depth == 1 else "are"


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
        f"{deepest.num_layers} validation loss is {total} nats, of it training loss {train_loss} and gap {gap}"
    )
