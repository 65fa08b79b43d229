"""The notebook's seven claims, and the rules by which results decide them; the words of the rules are in the appendix.

Margins come from the published figures alone. A claim is undecided unless the results show it or contradict it: that
nothing is shown contradicts nothing. The rules take models by depth, so that they judge any recipe.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from newllm.analysis.fit import TRAIN_LOSS, Split, splits
from newllm.analysis.formats import equation, number, signed
from newllm.analysis.inference import Difference, against, best_of, compare, mean_tests
from newllm.analysis.published import EXPECTED, SMALLEST_DIFFERENCE, STUDY_DEPTHS, STUDY_EPOCHS
from newllm.analysis.records import Group

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
    """One claim judged: the numbers that decide it or leave it open, and the other numbers of its rule."""

    number: int
    claim: str
    outcome: Outcome
    deciding: str
    rest: str = ""


Groups = Mapping[int, Group]
Pair = tuple[int, int]
Tests = Mapping[Pair, Difference]
Rule = Callable[[Groups], tuple[Outcome, str, str]]
"""Of models by depth: what a Verdict has of outcome, deciding numbers and others."""


def judge(groups: Groups) -> list[Verdict]:
    """The seven claims in their order, of models by depth; nothing here checks that they are of the study's data."""
    have_tests = min(len(group.seeds) for group in groups.values()) > 1
    verdicts = []
    for index, (claim, depths, rule) in enumerate(CLAIMS, start=1):
        missing = sorted(set(depths) - groups.keys())
        if missing and not (have_tests and isinstance(rule, _Worse) and rule(groups)[0] is Outcome.REFUTED):
            verdicts.append(Verdict(index, claim, Outcome.UNDECIDED, f"not trained: {_depths(missing)}"))
        elif not have_tests:
            verdicts.append(Verdict(index, claim, Outcome.UNDECIDED, "one seed a depth: no test"))
        else:
            verdicts.append(Verdict(index, claim, *rule(groups)))
    return verdicts


def _outcome(supported: bool, refuted: bool) -> Outcome:
    if supported:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if refuted else Outcome.UNDECIDED


def _depths(depths: Iterable[int]) -> str:
    return f"depth {', '.join(map(str, depths))}"


def _tests(groups: Groups, pairs: Iterable[Pair], expected: float = 0.0) -> dict[Pair, Difference]:
    """A family: for each pair of depths the first's perplexity minus the second's."""
    return compare({pair: (groups[pair[0]], groups[pair[1]]) for pair in pairs}, expected=expected)


def _text(tests: Tests) -> str:
    parts = []
    for (first, second), test in tests.items():
        side = "below" if test.mean < test.expected else "above"
        beside = f" to be {side} {test.expected:.2f}" if test.expected else ""
        parts.append(f"PPL({first}) − PPL({second}) = {signed(test)} ({equation(test.adjusted_p)}{beside})")
    return "; ".join(parts)


@dataclass(frozen=True)
class _Worse:
    """The rule that of all pairs the first depth is worse by more than `least`.

    Supported if that is shown of all; otherwise refuted if any is shown to be worse by less than the margin, or better.
    Pairs of which a depth is missing are left out, since one pair is enough to refute.
    """

    pairs: Sequence[Pair]
    least: float = 0.0
    margin: float = MARGIN

    def __call__(self, groups: Groups) -> tuple[Outcome, str, str]:
        tests = _tests(groups, [pair for pair in self.pairs if groups.keys() >= set(pair)], self.least)
        refuting = {pair: test for pair, test in _tests(groups, tests, self.margin).items() if test.below}
        deciding = {pair: test for pair, test in tests.items() if not test.above}
        outcome = _outcome(not deciding, bool(refuting))
        if outcome is Outcome.REFUTED:  # by tests against the margin: those against `least` are told too
            furthest = dict(sorted(refuting.items(), key=lambda pair: pair[1].mean))
            return outcome, _text(furthest), _text(tests)
        if outcome is Outcome.SUPPORTED and tests:
            closest = min(tests, key=lambda pair: tests[pair].mean)
            deciding = {closest: tests[closest]}
        return outcome, _text(deciding), _text({pair: test for pair, test in tests.items() if pair not in deciding})


def _up_to_a_point(groups: Groups) -> tuple[Outcome, str, str]:
    """The point is a depth between the shallowest and the deepest whose perplexity is below that of both."""
    parameters = [group.num_params for group in groups.values()]
    counts = f"{min(parameters):,} to {max(parameters):,} parameters"
    if not all(fewer < more for fewer, more in pairwise(parameters)):
        return Outcome.REFUTED, f"{counts}, not growing with depth", ""
    first, *inner, last = groups
    ends = _tests(groups, [(end, depth) for depth in inner for end in (first, last)])
    points = [depth for depth in inner if ends[first, depth].above and ends[last, depth].above]
    lowest = best_of({depth: groups[depth] for depth in points or inner}).num_layers
    own = _text({pair: test for pair, test in ends.items() if pair[1] == lowest})
    if points:
        beyond = [depth for depth in groups if depth >= lowest]
        better_deeper = {pair: one for pair, one in _tests(groups, combinations(beyond, 2)).items() if one.above}
        if better_deeper:
            return Outcome.REFUTED, _text(better_deeper), f"{counts}; {own}"
        steps = _tests(groups, [(deeper, depth) for depth, deeper in pairwise(beyond)])
        return Outcome.SUPPORTED, own, f"{counts}; from step to step: {_text(steps)}"
    deepest = _tests(groups, [(last, depth) for depth in (first, *inner)], MARGIN)
    shallowest = _tests(groups, [(first, depth) for depth in inner])
    for tests in (deepest, shallowest):
        if all(test.below for test in tests.values()):
            return Outcome.REFUTED, _text(tests), f"{counts}; {own}"
    return Outcome.UNDECIDED, own, counts


def excesses(groups: Groups) -> dict[int, Split | None]:
    """Of each depth that is deeper than the best and shown to be worse, its excess over it; None if not measured."""
    best = best_of(groups)
    tests = against(groups, best)
    worse = [depth for depth, test in tests.items() if depth > best.num_layers and test.above]
    found = splits({depth: (groups[depth], best) for depth in worse})
    return {depth: found.get(depth) for depth in worse}


def _overfit(groups: Groups) -> tuple[Outcome, str, str]:
    best, found = best_of(groups).num_layers, excesses(groups)
    if not found:
        return Outcome.UNDECIDED, f"no depth beyond {best} is shown to be worse", ""
    if unknown := [depth for depth in (best, *found) if not groups[depth].has(TRAIN_LOSS)]:
        return Outcome.UNDECIDED, f"training loss not measured: {_depths(unknown)}", ""
    known = {depth: split for depth, split in found.items() if split}
    kinds = {depth: split.excess for depth, split in known.items()}
    over, under = ("overfitting" in kinds.values()), ("underfitting" in kinds.values())
    depth, last = list(known.items())[-1]
    total, train_loss, gap = (signed(part, 3) for part in (last.val_loss, last.train_loss, last.gap))
    deciding = f"loss({depth}) − loss({best}) = {total} nats: training loss {train_loss}, gap {gap}"
    named = "; ".join(f"depth {depth} {kind}" for depth, kind in kinds.items())
    return _outcome(over and not under, under and not over), deciding, named


def _targets(groups: Groups) -> tuple[Outcome, str, str]:
    """Fully trained: every seed ran 150 epochs or stopped early."""
    ran = {depth: groups[depth].seeds for depth in EXPECTED}
    short = {depth: ~seeds["stopped_early"] & (seeds["epochs_run"] < STUDY_EPOCHS) for depth, seeds in ran.items()}
    if partly := [depth for depth, seeds in short.items() if seeds.any()]:
        return Outcome.UNDECIDED, f"not fully trained: {_depths(partly)}", ""
    limits = [expected + ROUNDING for expected in EXPECTED.values()]
    tests = mean_tests({depth: groups[depth].values("val_ppl") for depth in EXPECTED}, limits)
    outcome = _outcome(all(test.below for test in tests.values()), any(test.above for test in tests.values()))
    parts: dict[bool, list[str]] = {True: [], False: []}  # by whether they decide
    for depth, test in tests.items():
        text = f"PPL({depth}) = {number(test)} ({equation(test.adjusted_p)} against {test.expected:.2f})"
        parts[_outcome(test.below, test.above) is outcome].append(text)
    return outcome, "; ".join(parts[True]), "; ".join(parts[False])


CLAIMS: Sequence[tuple[str, Sequence[int], Rule]] = (
    ("4 layers are best", STUDY_DEPTHS, _Worse([(depth, 4) for depth in STUDY_DEPTHS if depth != 4])),
    ("5 layers beat 6", (5, 6), _Worse([(6, 5)])),
    ("7 layers are clearly worse than 6", (6, 7), _Worse([(7, 6)], SMALLEST_DIFFERENCE, SMALLEST_DIFFERENCE)),
    ("1 layer is worse than 4 and 5", (1, 4, 5), _Worse([(1, 4), (1, 5)])),
    ("fewer layers need fewer parameters and are better up to a point", STUDY_DEPTHS, _up_to_a_point),
    ("deep models are worse because they overfit", STUDY_DEPTHS, _overfit),
    ("4 layers reach 20.0 and 1 layer reaches 20.3 when fully trained", tuple(sorted(EXPECTED)), _targets),
)
"""Each as the notebook has it, the depths without which it cannot be judged, and its rule.

“Clearly” in the third is taken as: by more than the difference by which the notebook says that 5 beats 6.
"""
