"""Both sides of every rule: the metrics are changed and the verdict follows."""

from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.verdicts import Outcome, judge
from tests.analysis.metrics_files import change_json
from tests.analysis.studies import reload, study

S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.UNDECIDED


def outcome(root: Path, claim: int, *arguments: Any, **options: Any) -> Outcome:
    verdicts = judge(study(root, *arguments, **options))
    assert [verdict.number for verdict in verdicts] == [1, 2, 3, 4, 5, 6, 7]
    return verdicts[claim - 1].outcome


CASES: list[tuple[int, dict[int, float], float, Outcome]] = [
    (1, {}, 1, S),
    (1, {3: 19.8}, 1, R),
    (1, {3: 19.92}, 1, U),
    (1, {3: 19.88}, 1, U),
    (1, {3: 19.95, 5: 19.95}, 1, U),  # p = 0.037 for each: one alone would do
    (1, {3: 19.85, 5: 19.85, 2: 19.9}, 1, U),  # the same on the other side
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
]


@pytest.mark.parametrize(("claim", "changes", "spread", "expected"), CASES, ids=str)
def test_rules(tmp_path: Path, claim: int, changes: dict[int, float], spread: float, expected: Outcome) -> None:
    assert outcome(tmp_path, claim, changes, spread) is expected


def test_parameters_that_do_not_grow(tmp_path: Path) -> None:
    study(tmp_path)
    change_json(tmp_path / "metrics/layers/3.json", lambda layer: layer.update(num_params=3_000_000))
    verdict = judge(reload(tmp_path))[4]
    assert verdict.outcome is R
    assert "not growing" in verdict.numbers


@pytest.mark.parametrize(("depth", "claims"), [(1, {1, 4, 5, 7}), (3, {1, 5}), (5, {1, 2, 4, 5}), (7, {1, 3, 5})])
def test_missing_depth(tmp_path: Path, depth: int, claims: set[int]) -> None:
    verdicts = judge(study(tmp_path, without=depth))
    without = {v.number for v in verdicts if v.numbers == f"There are no results of depth {depth}."}
    assert without == claims
    assert {v.number for v in verdicts if v.outcome is U} == claims | {6}


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    verdicts = judge(study(tmp_path, seeds=1))
    assert {(v.outcome, v.numbers) for v in verdicts} == {(U, "One seed a depth gives no test.")}


def test_without_spread(tmp_path: Path) -> None:
    assert [v.outcome for v in judge(study(tmp_path, spread=0))] == [S, S, S, S, S, U, S]


def test_not_fully_trained(tmp_path: Path) -> None:
    """149 epochs are not enough unless the early stop ended them; seed 1 stops before the others."""
    assert outcome(tmp_path, 7, epochs=149) is U
    study(tmp_path, epochs=149)
    for depth in (1, 4):
        change_json(
            tmp_path / f"metrics/runs/{depth}.json",
            lambda runs: [run.update(stopped_early=True) for run in runs["seeds"]],
        )
    assert judge(reload(tmp_path))[6].outcome is S


def test_numbers(tmp_path: Path) -> None:
    verdicts = judge(study(tmp_path))
    assert verdicts[1].numbers == "PPL(6) − PPL(5) = +0.40 ± 0.05 (p < 0.0001)"
    assert verdicts[2].numbers == "PPL(7) − PPL(6) = +1.20 ± 0.05 (p < 0.0001 against 0.10)"
    assert "PPL(8) − PPL(4) = +3.10 ± 0.05" in verdicts[0].numbers
    assert "1,426,152 to 3,264,744 parameters, growing" in verdicts[4].numbers
    assert verdicts[6].numbers.startswith("PPL(1) = 20.25 ± 0.04 (p = 0.0021 against 20.35); PPL(4) = 19.90 ± 0.04")
