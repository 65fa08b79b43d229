"""The claim about overfitting on both sides of its rule, and what is measured for it."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from newllm.analysis.comparisons import PairComparison
from newllm.analysis.overfitting import Diagnostics, Excess, excesses, gaps, plateau_epochs, worse_and_deeper
from newllm.analysis.summary import Comparison
from newllm.analysis.verdicts import Outcome, Verdict, judge
from newllm.measurement.intervals import Estimate
from tests.analysis.studies import PERPLEXITIES, study

NOISE = (0.001, -0.002, 0.0, 0.002, -0.001)


def measured(share: Callable[[int], float]) -> list[Diagnostics]:
    """Training losses: at a depth `share` of the excess validation loss over depth 4, the rest is gap."""
    best = math.log(PERPLEXITIES[4])
    return [
        Diagnostics(depth, tuple(2.8 + share(depth) * (math.log(ppl) - best) + noise for noise in NOISE))
        for depth, ppl in PERPLEXITIES.items()
    ]


def verdict(compared: Comparison, share: Callable[[int], float]) -> Verdict:
    return judge(compared, measured(share))[5]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (lambda _: 1.2, Outcome.REFUTED),
        (lambda _: 0.8, Outcome.REFUTED),
        (lambda _: 0.5, Outcome.UNDECIDED),
        (lambda _: 0.2, Outcome.SUPPORTED),  # training loss higher, but most of the excess is gap
        (lambda _: -0.3, Outcome.SUPPORTED),
        (lambda depth: 1.2 if depth == 8 else 0.5, Outcome.REFUTED),
        (lambda depth: 1.2 if depth == 8 else -0.3, Outcome.UNDECIDED),
        (lambda depth: 1.2 if depth < 4 else 0.5, Outcome.UNDECIDED),  # shallow depths do not matter
    ],
)
def test_rule(tmp_path: Path, share: Callable[[int], float], expected: Outcome) -> None:
    assert verdict(study(tmp_path), share).outcome is expected


def test_numbers(tmp_path: Path) -> None:
    numbers = verdict(study(tmp_path), lambda _: 1.0).finding.deciding
    assert numbers.startswith("Against depth 4: underfitting: 5, 6, 7 and 8; overfitting: none. At depth 8")
    assert "validation loss is +0.145 ± 0.002 nats, of it training loss +0.145 ± 0.002 and gap +0.00" in numbers


def test_nothing_to_explain(tmp_path: Path) -> None:
    compared = study(tmp_path, {8: 19.0})
    assert worse_and_deeper(compared) == []
    assert "nothing to explain" in verdict(compared, lambda _: 1.2).finding.deciding
    assert verdict(compared, lambda _: 1.2).outcome is Outcome.UNDECIDED


def test_only_depths_shown_to_be_worse(tmp_path: Path) -> None:
    assert worse_and_deeper(study(tmp_path, {5: 19.91})) == [6, 7, 8]


def test_not_measured(tmp_path: Path) -> None:
    compared = study(tmp_path)
    partly = [entry for entry in measured(lambda _: 1.2) if entry.num_layers not in (1, 7)]
    found = judge(compared, partly)[5]
    assert found.outcome is Outcome.UNDECIDED
    assert found.finding.deciding.endswith("not measured at depth 7.")
    assert judge(compared)[5].finding.deciding.endswith("not measured at depths 4 to 8.")


def test_a_loss_for_each_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"depth 4: found \[2\] training losses, expected one for each of 5 seeds"):
        excesses(study(tmp_path), [Diagnostics(depth, (2.8, 2.9)) for depth in PERPLEXITIES])


def test_parts_add_up(tmp_path: Path) -> None:
    for excess in excesses(study(tmp_path), measured(lambda depth: 0.1 * depth)):
        parts = excess.train_loss.difference.mean + excess.gap.difference.mean
        assert parts == pytest.approx(excess.val_loss.mean)
        assert excess.balance.difference.mean == pytest.approx(2 * excess.train_loss.difference.mean - parts)


def test_numbers_in_short_are_those_of_the_deepest_model(tmp_path: Path) -> None:
    """At depth 8 log(23 / 19.9) = 0.1448 nats above depth 4."""
    compared = study(tmp_path, spread=0.1)
    for share, numbers in (
        (lambda depth: 1.2 if depth == 8 else 0.5, ["4", "8", "0.174", "0.029"]),
        (lambda depth: -0.3 if depth == 8 else 0.5, ["4", "8", "0.043", "0.188"]),
    ):
        assert re.findall(r"[\d.]*\d", verdict(compared, share).finding.short) == numbers


def test_direction_of_both_parts(tmp_path: Path) -> None:
    compared = study(tmp_path)
    directions = [verdict(compared, lambda _, share=share: share).finding.short for share in (1.2, 0.5, -0.3)]
    assert [("rises" in short, "grows" in short) for short in directions] == [
        (True, False),
        (True, True),
        (False, True),
    ]


def test_gaps_are_of_each_seed(tmp_path: Path) -> None:
    compared = study(tmp_path)
    found = gaps(compared.results[6], [Diagnostics(6, (1.0,) * 5), Diagnostics(7, (2.0, 2.1, 2.2, 2.3, 2.4))])
    expected = [math.log(21.7 + 0.02 * (seed - 2)) - 2 - 0.1 * seed for seed in range(5)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_plateau_ends_below_60(tmp_path: Path) -> None:
    """Of three epochs, the second is at three times the last."""
    assert plateau_epochs(study(tmp_path, {4: 20.0}, spread=0, epochs=3).results[3]) == [2, 1, 2, 2, 2]
    assert plateau_epochs(study(tmp_path, {4: 19.999}, spread=0, epochs=3).results[3]) == [1, 0, 1, 1, 1]


def test_plateau(tmp_path: Path) -> None:
    """Validation perplexity falls as 5, 3, 1 times its end; seed 1 has one epoch less."""
    lengths = {19.9: [1, 0, 1, 2, 2], 25.0: [2, 1, 2, 2, 2], 70.0: [3, 2, 3, 3, 3]}
    for mean, expected in lengths.items():
        assert plateau_epochs(study(tmp_path, {4: mean}, spread=5, epochs=3).results[3]) == expected, mean


@pytest.mark.parametrize(
    ("train_loss", "gap", "balance", "expected"),
    [
        (0.2, 0.0, 0.2, (True, False)),
        (0.2, 0.2, 0.0, (False, False)),
        (0.0, 0.0, 0.2, (False, False)),
        (0.0, 0.2, -0.2, (False, True)),
        (0.0, 0.0, -0.2, (False, False)),
    ],
)
def test_both_parts_of_the_rule_are_needed(
    train_loss: float, gap: float, balance: float, expected: tuple[bool, bool]
) -> None:
    """Differences of 0.2 are shown here, of 0 are not."""
    parts = [
        PairComparison(Estimate(mean, 0.1), 0.0, 0.01 if mean else 0.5, 8, 4) for mean in (train_loss, gap, balance)
    ]
    excess = Excess(8, Estimate(0.2, 0.1), *parts)
    assert (excess.is_underfitting, excess.is_overfitting) == expected
