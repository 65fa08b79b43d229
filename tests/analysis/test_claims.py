"""Both sides of every rule: the results are changed and the verdict follows."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from newllm.analysis.claims import Outcome, excesses, judge
from newllm.analysis.records import Group
from tests.analysis.studies import PERPLEXITIES, models

S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.UNDECIDED


def outcome(claim: int, *arguments: Any, **options: Any) -> Outcome:
    verdicts = judge(models(*arguments, **options))
    assert [verdict.number for verdict in verdicts] == [1, 2, 3, 4, 5, 6, 7]
    return verdicts[claim - 1].outcome


CASES: list[tuple[int, dict[int, float], float, Outcome]] = [
    (1, {}, 1, S),
    (1, {3: 19.8}, 1, R),
    (1, {3: 19.92}, 1, U),
    (1, {3: 19.88}, 1, R),  # not shown to be better, but as good within the margin
    (1, {3: 19.95, 5: 19.95}, 1, U),  # p = 0.037 for each: one alone would do
    (1, {3: 19.85, 5: 19.85, 2: 19.9}, 1, R),
    (1, {8: 19.5}, 1, R),
    (2, {}, 1, S),
    (2, {5: 20.45}, 1, S),
    (2, {5: 20.7}, 1, R),
    (2, {5: 20.5}, 1, R),  # 0 ± 0.046: less than the margin
    (2, {5: 20.5}, 3, U),
    (2, {5: 20.47}, 1, U),
    (3, {}, 1, S),
    (3, {7: 20.65}, 1, S),
    (3, {7: 20.62}, 1, U),
    (3, {7: 20.55}, 1, R),  # above 0 but below 0.10
    (3, {7: 19.9}, 1, R),
    (3, {}, 40, U),
    (4, {}, 1, S),
    (4, {1: 20.0}, 1, R),  # worse than 4, better than 5
    (4, {1: 20.1}, 1, R),  # worse than 4, like 5
    (4, {1: 20.12}, 1, U),
    (4, {4: 20.24}, 1, U),
    (4, {4: 20.3}, 1, R),
    (5, {}, 1, S),
    (5, {1: 19.92}, 1, U),
    (5, {1: 19.5}, 1, R),
    (5, {8: 19.5}, 1, R),
    (5, {5: 20.5, 6: 20.1}, 1, R),  # 6 better than 5, beyond the point
    (5, {5: 20.12, 6: 20.1}, 1, S),
    (5, {2: 20.02, 3: 20.12}, 1, S),  # not beyond the point
    (5, dict.fromkeys(range(1, 9), 20.0), 1, U),
    (5, dict.fromkeys(range(1, 9), 20.0), 0.5, R),
    (7, {}, 1, S),
    (7, {4: 20.2}, 1, R),
    (7, {1: 20.45}, 1, R),
    (7, {4: 20.05}, 1, U),
    (7, {4: 20.04}, 1, U),
    (7, {1: 20.33}, 1, U),
    (7, {1: 20.05, 4: 18.0}, 1, S),
    (1, {2: 19.7, 3: 19.92}, 1, R),  # one that is open does not save it
    (5, {3: 19.89, 4: 19.90, 5: 19.88}, 1, S),  # three points, of which none is shown to be better
    (5, {1: 19.92, 8: 19.92}, 1, U),  # no point, and neither end is shown to be better
    (5, {8: 19.92}, 1, U),  # 4 is better than the shallowest, but not shown to be better than the deepest
    (5, {2: 19.0, 3: 23.0, 8: 22.0}, 1, R),  # the deepest is better than one beyond the point
    (5, {1: 18.0, 2: 19.0, 8: 18.5}, 1, R),  # the shallowest is better than all between
    (5, {1: 18.6, 8: 18.7, 4: 18.59}, 1, U),  # 4 may be as good as both ends
]


@pytest.mark.parametrize(("claim", "changes", "spread", "expected"), CASES, ids=str)
def test_rules(claim: int, changes: dict[int, float], spread: float, expected: Outcome) -> None:
    assert outcome(claim, changes, spread) is expected


def test_parameters_that_do_not_grow() -> None:
    groups = models()
    groups[3] = replace(groups[3], num_params=3_000_000)
    assert judge(groups)[4].outcome is R


@pytest.mark.parametrize(
    ("depth", "claims"), [(1, {1, 4, 5, 6, 7}), (3, {1, 5, 6}), (5, {1, 2, 4, 5, 6}), (7, {1, 3, 5, 6})]
)
def test_missing_depth(depth: int, claims: set[int]) -> None:
    verdicts = judge(models(without=depth))
    assert {v.number for v in verdicts if v.deciding == f"not trained: depth {depth}"} == claims
    assert {v.number for v in verdicts if v.outcome is U} == claims


def test_one_better_depth_refutes_whatever_others_would_show() -> None:
    verdict = judge(models({2: 19.7}, without=7))[0]
    assert (verdict.outcome, verdict.deciding.partition("; ")[0]) == (
        R,
        "PPL(2) − PPL(4) = −0.20 ± 0.05 (p < 0.0001 to be below 0.05)",
    )


def test_one_seed_decides_nothing() -> None:
    verdicts = judge(models(seeds=1))
    assert {v.outcome for v in verdicts} == {U}
    assert len({v.deciding for v in verdicts}) == 1


def test_without_spread() -> None:
    assert [v.outcome for v in judge(models(spread=0))] == [S, S, S, S, S, U, S]


def test_not_fully_trained() -> None:
    """149 epochs are not enough unless the early stop ended them."""
    assert outcome(7, epochs=149) is U
    assert outcome(7, epochs=149, stopped=True) is S
    groups = models()
    groups[1].seeds.loc[3, "epochs_run"] = 149
    assert judge(groups)[6].outcome is U, "one of all seeds"


def deciding(claim: int, *arguments: Any) -> tuple[str, str]:
    finding = judge(models(*arguments))[claim - 1]
    return finding.deciding, finding.rest


def test_numbers_that_decide_and_the_others() -> None:
    """0.12 is 3.4 standard errors of 0.035 (s √(2/5)), with 8 degrees of freedom and 7 tests."""
    text, rest = deciding(1)
    assert text == "PPL(3) − PPL(4) = +0.12 ± 0.05 (p = 0.00032)", "what supports is the closest pair"
    assert rest.count("PPL(4)") == 6
    assert "PPL(8) − PPL(4) = +3.10 ± 0.05 (p < 0.0001)" in rest
    text, rest = deciding(1, {2: 19.7, 3: 19.5})
    assert text == (
        "PPL(3) − PPL(4) = −0.40 ± 0.05 (p < 0.0001 to be below 0.05); "
        "PPL(2) − PPL(4) = −0.20 ± 0.05 (p < 0.0001 to be below 0.05)"
    ), "what refutes are the pairs that do, the furthest first"
    assert rest.count("PPL(4)") == 7, "all of them against 0"
    text, rest = deciding(1, {3: 19.92, 5: 19.93})
    assert text.count("PPL(4)") == 2, "what leaves it open are the pairs that do"
    assert rest.count("PPL(4)") == 5
    assert deciding(3) == ("PPL(7) − PPL(6) = +1.20 ± 0.05 (p < 0.0001 to be above 0.10)", "")
    text, rest = deciding(5)
    assert text.split("; ")[0] == "PPL(1) − PPL(4) = +0.35 ± 0.05 (p < 0.0001)"
    assert text.split("; ")[1] == "PPL(8) − PPL(4) = +3.10 ± 0.05 (p < 0.0001)"
    assert rest.count("PPL(") == 2 * 4, "a step each from 4 to 8"
    text, rest = deciding(5, {5: 20.5, 6: 20.1})
    assert text == "PPL(5) − PPL(6) = +0.40 ± 0.05 (p < 0.0001)"
    assert deciding(5, {1: 18.5, 8: 18.56})[0].startswith("PPL(1) − PPL(2)"), (
        "8 is not as good as 1, the margin granted"
    )
    assert deciding(5, {1: 18.6, 8: 18.5})[0].startswith("PPL(8) − PPL(1)")
    text, rest = deciding(7, {4: 20.05})
    assert text.startswith("PPL(4) = 20.05 ± 0.04 (p = 1")
    assert rest == "PPL(1) = 20.25 ± 0.04 (p = 0.0042 against 20.35)"


TRAIN = 2.8
NOISE = (0.001, -0.002, 0.0, 0.002, -0.001)


def measured(share: Callable[[int], float], depths: Any = tuple(PERPLEXITIES), **options: Any) -> dict[int, Group]:
    """Training losses: at a depth `share` of the excess validation loss over depth 4, the rest is gap."""

    def train_loss(depth: int, seed: int) -> float | None:
        excess = math.log(PERPLEXITIES[depth]) - math.log(PERPLEXITIES[4])
        return TRAIN + share(depth) * excess + NOISE[seed] if depth in depths else None

    return models(train_loss=train_loss, **options)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (lambda _: 1.2, R),
        (lambda _: 0.8, R),
        (lambda _: 0.5, U),
        (lambda _: 0.2, S),  # training loss higher, but most of the excess is gap
        (lambda _: -0.3, S),
        (lambda depth: 1.2 if depth == 8 else 0.5, R),
        (lambda depth: 1.2 if depth == 8 else -0.3, U),
        (lambda depth: 1.2 if depth < 4 else 0.5, U),  # shallow depths do not matter
    ],
)
def test_overfitting(share: Callable[[int], float], expected: Outcome) -> None:
    assert judge(measured(share))[5].outcome is expected


def test_overfitting_of_what_is_not_worse_or_not_measured() -> None:
    assert excesses(models({5: 19.91})) == {6: None, 7: None, 8: None}
    assert excesses(models({8: 19.0})) == {}
    assert judge(measured(lambda _: 1.2, changes={8: 19.0}))[5].outcome is U
    found = judge(measured(lambda _: 1.2, [2, 3, 4, 5, 6, 8]))[5]
    assert (found.outcome, found.deciding[-7:]) == (U, "depth 7")
    found = judge(measured(lambda _: 1.2, [1, 2, 3, 5, 6, 7, 8]))[5]
    assert (found.outcome, found.deciding[-7:]) == (U, "depth 4")


def test_numbers_of_overfitting_are_those_of_the_deepest() -> None:
    """At depth 8 log(23 / 19.9) = 0.1448 nats above depth 4: all of it training loss."""
    finding = judge(measured(lambda _: 1.0))[5]
    assert finding.deciding.startswith("loss(8) − loss(4) = +0.145 ± 0.002 nats: training loss +0.145 ± 0.00")
    assert finding.rest == "; ".join(f"depth {depth} underfitting" for depth in (5, 6, 7, 8))


def test_the_same_rules_judge_other_models() -> None:
    """Three depths: what needs others stays open, and 5 against 6 turns round."""
    groups = {depth: group for depth, group in models({5: 19.5, 6: 19.2, 7: 19.3}).items() if depth in (5, 6, 7)}
    assert [verdict.outcome for verdict in judge(groups)] == [U, R, U, U, U, U, U]
