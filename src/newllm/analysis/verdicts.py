"""The notebook's seven claims, each judged by a stated rule from the metrics alone.

The rules are `CLAIMS`, in the terms of `TERMS`; the report prints both. What they say is computed in `judging`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from newllm.analysis.judging import (
    MARGIN,
    ROUNDING,
    Finding,
    Outcome,
    deep_models_overfit,
    fewer_are_better_up_to_a_point,
    five_beats_six,
    four_is_best,
    one_is_worse,
    seven_is_clearly_worse,
    targets_are_reached,
    undecided,
)
from newllm.analysis.markdown import depths_in_words
from newllm.analysis.overfitting import Diagnostics
from newllm.analysis.published import EXPECTED, SMALLEST_DIFFERENCE, STUDY_DEPTHS, STUDY_EPOCHS
from newllm.analysis.statistics import SIGNIFICANCE
from newllm.analysis.summary import Comparison

ONE_SEED = "One seed a depth gives no test."


@dataclass(frozen=True)
class Verdict:
    """One claim judged; `claim` can follow “that”, `rule` is a sentence or more."""

    number: int
    claim: str
    rule: str
    finding: Finding

    @property
    def outcome(self) -> Outcome:
        """What the metrics say."""
        return self.finding.outcome


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
    return [
        Verdict(position, claim.text, claim.rule, _judge(claim, comparison, diagnostics))
        for position, claim in enumerate(CLAIMS, start=1)
    ]


def _judge(claim: _Claim, comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> Finding:
    missing = sorted(set(claim.depths) - {result.num_layers for result in comparison.results})
    if missing:
        return undecided(f"There are no results of {depths_in_words(missing)}.")
    if comparison.num_seeds == 1:
        return undecided(ONE_SEED)
    return claim.judge(comparison, diagnostics)


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
        "Supported if PPL(d) − PPL(4) is above 0 for every other depth d. Otherwise refuted if it is below the margin "
        "for any.",
        STUDY_DEPTHS,
        four_is_best,
    ),
    _Claim(
        "5 layers beat 6",
        "Supported if PPL(6) − PPL(5) is above 0. Otherwise refuted if it is below the margin.",
        (5, 6),
        five_beats_six,
    ),
    _Claim(
        "7 layers are clearly worse than 6",
        f"Supported if PPL(7) − PPL(6) is above {SMALLEST_DIFFERENCE:.2f}, refuted if it is below. “Clearly” is taken "
        "as: by more than the difference by which the notebook says that 5 beats 6.",
        (6, 7),
        seven_is_clearly_worse,
    ),
    _Claim(
        "1 layer is worse than 4 and 5",
        "Supported if PPL(1) − PPL(4) and PPL(1) − PPL(5) are above 0. Otherwise refuted if one of them is below the "
        "margin.",
        (1, 4, 5),
        one_is_worse,
    ),
    _Claim(
        "fewer layers need fewer parameters and are better up to a point",
        "The point is a depth between the shallowest and the deepest whose PPL is below that of both; of several, the "
        "one of lowest PPL. Supported if parameters grow with depth, there is a point, and from it to the deepest no "
        "depth’s PPL is above that of a deeper one. Refuted if parameters do not grow; if there is a point and such a "
        "pair; or if there is no point, and either PPL of the deepest minus every other is below the margin or PPL of "
        "the shallowest minus every one between is below 0.",
        STUDY_DEPTHS,
        fewer_are_better_up_to_a_point,
    ),
    _Claim(
        "deep models are worse because they overfit",
        "Of each depth that is deeper than the best and worse (PPL above that of the best), the excess of validation "
        "loss is the sum of two excesses: of training loss, without dropout on a fixed sample at the best epoch, and "
        "of the gap, validation minus training loss. The depth overfits if the excess of the gap is above 0 and above "
        "that of training loss; it underfits if the excess of training loss is above 0 and above that of the gap. "
        "Supported if some depth overfits and none underfits, refuted if some depth underfits and none overfits.",
        (),
        deep_models_overfit,
    ),
    _Claim(
        "4 layers reach 20.0 and 1 layer reaches 20.3 when fully trained",
        f"Supported if PPL(4) is below {EXPECTED[4] + ROUNDING:.2f} and PPL(1) below {EXPECTED[1] + ROUNDING:.2f}, "
        f"refuted if one of them is above: {ROUNDING:.2f} is what rounding to one decimal hides. Lower than the target "
        f"counts as reached. Fully trained: every seed ran {STUDY_EPOCHS} epochs or stopped early.",
        tuple(sorted(EXPECTED)),
        targets_are_reached,
    ),
)
