"""The notebook's seven claims, and the rules by which results decide them; the words of the rules are in the appendix.

Margins come from the published figures alone. A claim is undecided unless the results show it or contradict it: that
nothing is shown contradicts nothing. The rules take models by depth, so that they judge any recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise

from newllm.analysis.fit import TRAIN_LOSS, splits
from newllm.analysis.formats import equation, number, signed
from newllm.analysis.inference import Difference, family, mean_tests
from newllm.analysis.published import EXPECTED, SMALLEST_DIFFERENCE, STUDY_DEPTHS, STUDY_EPOCHS
from newllm.analysis.records import Group
from newllm.analysis.study import against, best_of

MARGIN = SMALLEST_DIFFERENCE / 2
"""An advantage that is shown to be smaller is none, in perplexity."""
ROUNDING = 0.05
"""20.04 is printed as 20.0: what a target that was rounded to 0.1 leaves open, in perplexity."""

Groups = Mapping[int, Group]
Pair = tuple[int, int]


class Outcome(StrEnum):
    """What the metrics say of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """What was found of a claim: the numbers that decide it or leave it open, and the other numbers of its rule."""

    outcome: Outcome
    deciding: str
    rest: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: as the notebook has it.
        depths: without which it cannot be judged.
        judge: the rule, of models by depth.
    """

    text: str
    depths: Sequence[int]
    judge: Callable[[Groups], Finding]


@dataclass(frozen=True)
class Verdict:
    """One claim judged."""

    number: int
    claim: str
    finding: Finding

    @property
    def outcome(self) -> Outcome:
        """What the metrics say."""
        return self.finding.outcome


def judge(groups: Groups) -> list[Verdict]:
    """The seven claims in their order, of models by depth; nothing here checks that they are of the study's data."""
    return [Verdict(number, claim.text, _judge(claim, groups)) for number, claim in enumerate(CLAIMS, start=1)]


def _judge(claim: Claim, groups: Groups) -> Finding:
    missing = sorted(set(claim.depths) - groups.keys())
    if missing:
        return Finding(Outcome.UNDECIDED, f"not trained: depth {', '.join(map(str, missing))}")
    if min(len(group.seeds) for group in groups.values()) == 1:
        return Finding(Outcome.UNDECIDED, "one seed a depth: no test")
    return claim.judge(groups)


def _outcome(supported: bool, refuted: bool) -> Outcome:
    if supported:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if refuted else Outcome.UNDECIDED


def _tests(groups: Groups, pairs: Sequence[Pair], expected: float = 0.0) -> dict[Pair, Difference]:
    """A family: for each pair of depths the first's perplexity minus the second's."""
    values = [(groups[first].values("val_ppl"), groups[second].values("val_ppl")) for first, second in pairs]
    return dict(zip(pairs, family(values, expected), strict=True))


def _text(tests: Mapping[Pair, Difference]) -> str:
    parts = []
    for (first, second), test in tests.items():
        beside = f" against {test.expected:.2f}" if test.expected else ""
        parts.append(f"PPL({first}) − PPL({second}) = {signed(test.difference)} ({equation(test.adjusted_p)}{beside})")
    return "; ".join(parts)


def _worse(pairs: Callable[[Groups], Sequence[Pair]], least: float, margin: float) -> Callable[[Groups], Finding]:
    """The rule that of all pairs the first depth is worse by more than `least`.

    Supported if that is shown of all; otherwise refuted if any is shown to be worse by less than the margin, or better.
    """

    def judged(groups: Groups) -> Finding:
        chosen = pairs(groups)
        zero, against_margin = _tests(groups, chosen, least), _tests(groups, chosen, margin)
        refuting = [pair for pair in chosen if against_margin[pair].below]
        open_ = [pair for pair in chosen if not zero[pair].above]
        outcome = _outcome(not open_, bool(refuting))
        closest = min(chosen, key=lambda pair: zero[pair].difference.mean)
        deciding = {
            Outcome.SUPPORTED: [closest], Outcome.REFUTED: refuting, Outcome.UNDECIDED: open_
        }[outcome]  # fmt: skip
        refuted = outcome is Outcome.REFUTED  # by tests against the margin: those against 0 are told too
        rest = [pair for pair in chosen if refuted or pair not in deciding]
        tests = against_margin if refuted else zero
        texts = [_text({pair: found[pair] for pair in some}) for some, found in ((deciding, tests), (rest, zero))]
        return Finding(outcome, *texts)

    return judged


def _up_to_a_point(groups: Groups) -> Finding:
    """The point is a depth between the shallowest and the deepest whose perplexity is below that of both."""
    parameters = [group.num_params for group in groups.values()]
    counts = f"{min(parameters):,} to {max(parameters):,} parameters"
    if not all(fewer < more for fewer, more in pairwise(parameters)):
        return Finding(Outcome.REFUTED, f"{counts}, not growing with depth")
    first, *inner, last = groups
    ends = _tests(groups, [(end, depth) for depth in inner for end in (first, last)])
    points = [depth for depth in inner if ends[first, depth].above and ends[last, depth].above]
    lowest = best_of({depth: groups[depth] for depth in points or inner}).num_layers
    own = {pair: test for pair, test in ends.items() if pair[1] == lowest}
    if points:
        beyond = [depth for depth in groups if depth >= lowest]
        better_deeper = {
            pair: test for pair, test in _tests(groups, list(combinations(beyond, 2))).items() if test.above
        }
        if better_deeper:
            return Finding(Outcome.REFUTED, _text(better_deeper), f"{counts}; {_text(own)}")
        steps = _tests(groups, [(deeper, depth) for depth, deeper in pairwise(beyond)])
        return Finding(Outcome.SUPPORTED, _text(own), f"{counts}; from step to step: {_text(steps)}")
    deepest = _tests(groups, [(last, depth) for depth in (first, *inner)], MARGIN)
    shallowest = _tests(groups, [(first, depth) for depth in inner])
    for tests in (deepest, shallowest):
        if all(test.below for test in tests.values()):
            return Finding(Outcome.REFUTED, _text(tests), f"{counts}; {_text(own)}")
    return Finding(Outcome.UNDECIDED, _text(own), counts)


def worse_and_deeper(groups: Groups) -> list[int]:
    """The depths that are deeper than the best and shown to be worse than it."""
    best = best_of(groups)
    return [depth for depth, test in against(groups, best).items() if depth > best.num_layers and test.above]


def _overfit(groups: Groups) -> Finding:
    best, deeper = best_of(groups), worse_and_deeper(groups)
    if not deeper:
        return Finding(Outcome.UNDECIDED, f"no depth beyond {best.num_layers} is shown to be worse")
    unknown = [depth for depth in (best.num_layers, *deeper) if not groups[depth].has(TRAIN_LOSS)]
    if unknown:
        return Finding(Outcome.UNDECIDED, f"training loss not measured: depth {', '.join(map(str, unknown))}")
    found = dict(zip(deeper, splits([(groups[depth], best) for depth in deeper]), strict=True))
    kinds = {depth: split.excess for depth, split in found.items() if split}
    over, under = ("overfitting" in kinds.values()), ("underfitting" in kinds.values())
    last = found[deeper[-1]]
    named = "; ".join(f"depth {depth} {kind}" for depth, kind in kinds.items())
    parts = [] if last is None else [last.val_loss, last.train_loss.difference, last.gap.difference]
    total, train_loss, gap = (signed(part, 3) for part in parts)
    deciding = f"loss({deeper[-1]}) − loss({best.num_layers}) = {total} nats: training loss {train_loss}, gap {gap}"
    return Finding(_outcome(over and not under, under and not over), deciding, named)


def _targets(groups: Groups) -> Finding:
    """Fully trained: every seed ran 150 epochs or stopped early."""
    ran = {depth: groups[depth].seeds for depth in EXPECTED}
    partly = [
        depth for depth, seeds in ran.items() if (~seeds["stopped_early"] & (seeds["epochs_run"] < STUDY_EPOCHS)).any()
    ]
    if partly:
        return Finding(Outcome.UNDECIDED, f"not fully trained: depth {', '.join(map(str, partly))}")
    limits = {depth: expected + ROUNDING for depth, expected in EXPECTED.items()}
    tests = dict(
        zip(limits, mean_tests([groups[d].values("val_ppl") for d in limits], list(limits.values())), strict=True)
    )
    texts = {
        depth: f"PPL({depth}) = {number(test.difference)} ({equation(test.adjusted_p)} against {test.expected:.2f})"
        for depth, test in tests.items()
    }
    outcomes = {depth: _outcome(test.below, test.above) for depth, test in tests.items()}
    outcome = _outcome(
        all(test.below for test in tests.values()), any(test.above for test in tests.values())
    )  # fmt: skip
    deciding = [text for depth, text in texts.items() if outcomes[depth] is outcome]
    return Finding(outcome, "; ".join(deciding), "; ".join(text for text in texts.values() if text not in deciding))


CLAIMS = (
    Claim("4 layers are best", STUDY_DEPTHS, _worse(lambda groups: [(d, 4) for d in groups if d != 4], 0.0, MARGIN)),
    Claim("5 layers beat 6", (5, 6), _worse(lambda _: [(6, 5)], 0.0, MARGIN)),
    Claim(
        "7 layers are clearly worse than 6",
        (6, 7),
        _worse(lambda _: [(7, 6)], SMALLEST_DIFFERENCE, SMALLEST_DIFFERENCE),
    ),
    Claim("1 layer is worse than 4 and 5", (1, 4, 5), _worse(lambda _: [(1, 4), (1, 5)], 0.0, MARGIN)),
    Claim("fewer layers need fewer parameters and are better up to a point", STUDY_DEPTHS, _up_to_a_point),
    Claim("deep models are worse because they overfit", (), _overfit),
    Claim(
        "4 layers reach 20.0 and 1 layer reaches 20.3 when fully trained", tuple(sorted(EXPECTED)), _targets
    ),
)  # fmt: skip
"""“Clearly” in the third is taken as: by more than the difference by which the notebook says that 5 beats 6."""
