"""Both sides of every rule: the metrics are changed and the verdict follows."""

from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.judging import Outcome
from newllm.analysis.verdicts import judge
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
]


@pytest.mark.parametrize(("claim", "changes", "spread", "expected"), CASES, ids=str)
def test_rules(tmp_path: Path, claim: int, changes: dict[int, float], spread: float, expected: Outcome) -> None:
    assert outcome(tmp_path, claim, changes, spread) is expected


def test_parameters_that_do_not_grow(tmp_path: Path) -> None:
    study(tmp_path)
    change_json(tmp_path / "metrics/layers/3.json", lambda layer: layer.update(num_params=3_000_000))
    verdict = judge(reload(tmp_path))[4]
    assert verdict.outcome is R
    assert "not growing" in verdict.finding.deciding


@pytest.mark.parametrize(("depth", "claims"), [(1, {1, 4, 5, 7}), (3, {1, 5}), (5, {1, 2, 4, 5}), (7, {1, 3, 5})])
def test_missing_depth(tmp_path: Path, depth: int, claims: set[int]) -> None:
    verdicts = judge(study(tmp_path, without=depth))
    without = {v.number for v in verdicts if v.finding.deciding == f"There are no results of depth {depth}."}
    assert without == claims
    assert {v.number for v in verdicts if v.outcome is U} == claims | {6}


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    verdicts = judge(study(tmp_path, seeds=1))
    assert {(v.outcome, v.finding.deciding) for v in verdicts} == {(U, "One seed a depth gives no test.")}


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


def deciding(root: Path, claim: int, *arguments: Any, **options: Any) -> tuple[str, str, str]:
    finding = judge(study(root, *arguments, **options))[claim - 1].finding
    return finding.deciding, finding.short, finding.rest


def test_what_supports_is_the_closest_pair(tmp_path: Path) -> None:
    text, short, rest = deciding(tmp_path, 1)
    assert text == "closest: PPL(3) − PPL(4) = +0.12 ± 0.05 (p = 0.00032)"
    assert short == "the closest, 3 layers, by 0.12 ± 0.05"
    assert rest.count("PPL(") == 2 * 6
    assert "PPL(8) − PPL(4) = +3.10 ± 0.05 (p < 0.0001; against 0.05: p < 0.0001)" in rest
    assert deciding(tmp_path, 2) == ("PPL(6) − PPL(5) = +0.40 ± 0.05 (p < 0.0001)", "by 0.40 ± 0.05", "")
    third = "PPL(7) − PPL(6) = +1.20 ± 0.05 (p < 0.0001 against 0.10)"
    assert deciding(tmp_path, 3) == (third, "by 1.20 ± 0.05", "")
    assert deciding(tmp_path, 4)[1] == "worse than 4 by 0.35 ± 0.05; worse than 5 by 0.15 ± 0.05"


def test_what_refutes_are_the_pairs_that_do(tmp_path: Path) -> None:
    text, short, rest = deciding(tmp_path, 1, {2: 19.7, 3: 19.5})
    both = "(p < 0.0001; against 0.05: p < 0.0001)"
    assert text == f"PPL(2) − PPL(4) = −0.20 ± 0.05 {both}; PPL(3) − PPL(4) = −0.40 ± 0.05 {both}"
    assert short == "3 are better by 0.40 ± 0.05; of the depths that it trained, 4 is best"
    assert rest.count("PPL(") == 2 * 5
    assert deciding(tmp_path, 1, {3: 19.88})[:2] == (
        "PPL(3) − PPL(4) = −0.02 ± 0.05 (p = 0.35; against 0.05: p = 0.0081)",
        "3 are as good as 4: −0.02 ± 0.05; of the depths that it trained, 4 is best",
    )
    assert deciding(tmp_path, 1, {3: 19.5, 5: 19.92})[1] == "3 are better by 0.40 ± 0.05", "5 may be as good as 4"
    text, short, rest = deciding(tmp_path, 4, {1: 20.0})
    assert text == "PPL(1) − PPL(5) = −0.10 ± 0.05 (p = 0.0021; against 0.05: p = 0.00014)"
    assert short == "worse than 4 by 0.10 ± 0.05; better than 5 by 0.10 ± 0.05"
    assert rest.startswith("PPL(1) − PPL(4) = +0.10 ± 0.05 (p ")


def test_what_leaves_it_open(tmp_path: Path) -> None:
    text, short, _ = deciding(tmp_path, 1, {3: 19.92, 5: 19.93})
    assert text.startswith("PPL(3) − PPL(4) = +0.02 ± 0.05 (p = 0.35; against 0.05: p = ")
    assert short == "3 and 5 may be as good"
    assert deciding(tmp_path, 2, {5: 20.47})[1] == "6 are not shown to differ from 5: +0.03 ± 0.05"


def test_numbers_of_the_point(tmp_path: Path) -> None:
    text, short, rest = deciding(tmp_path, 5)
    steps = "+0.20 ± 0.05, +0.40 ± 0.05, +1.20 ± 0.05, +1.30 ± 0.05 (p < 0.0001)"
    assert text.endswith(f". Each depth beyond 4 is shown to be worse than the one before: {steps}")
    assert short == "1 is worse than 4 by 0.35 ± 0.05, 8 by 3.10 ± 0.05"
    assert rest == "1,426,152 to 3,264,744 parameters, growing with depth"
    text = deciding(tmp_path, 5, {5: 19.92})[0]
    assert "No depth beyond 4 is shown to be better than a shallower one; the steps: PPL(5) − PPL(4) = +0.02" in text
    text, short, _ = deciding(tmp_path, 5, {5: 20.5, 6: 20.1})
    assert text == "PPL(5) − PPL(6) = +0.40 ± 0.05 (p < 0.0001)"
    assert short == "6 are better than 5 by 0.40 ± 0.05"
    assert deciding(tmp_path, 5, {1: 19.5})[1] == "1 is better than all between"
    assert deciding(tmp_path, 5, {8: 19.5})[1] == "no fewer layers are better than 8"
    assert deciding(tmp_path, 5, {1: 19.92})[1] == "none is shown to be better than both 1 and 8"


def test_numbers_of_the_targets(tmp_path: Path) -> None:
    text, short, rest = deciding(tmp_path, 7)
    assert text.endswith("; PPL(1) = 20.25 ± 0.04 (p = 0.0021 against 20.35)")
    assert short == "4 layers do, at 19.90 ± 0.04; 1 layer does, at 20.25 ± 0.04"
    assert rest == ""
    text, short, rest = deciding(tmp_path, 7, {4: 20.05})
    assert text.startswith("PPL(4) = 20.05")
    assert short == "4 layers may, at 20.05 ± 0.04; 1 layer does, at 20.25 ± 0.04"
    assert rest.startswith("PPL(1) = 20.25")
    assert deciding(tmp_path, 7, {4: 20.2})[1].startswith("4 layers do not, at 20.20 ± 0.04")
