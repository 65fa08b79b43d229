"""metrics/summary.json against plain computations on the same inputs."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.study import Study
from newllm.analysis.summary import summary
from tests.analysis.metrics_files import final_perplexity, write_all, write_supplements
from tests.analysis.studies import plan, reload, study


def comparison(root: Path, studied: int = 6, **options: Any) -> Study:
    write_all(root, **options)
    return reload(root, (1, 4, 6), plan(studied=studied))


def summary_of(compared: Study) -> dict[str, Any]:
    details: dict[str, Any] = summary(compared)["details"][0]
    return details


def test_summary(tmp_path: Path) -> None:
    found = summary_of(comparison(tmp_path, studied=1))
    ours, theirs = ([final_perplexity(depth, seed) for seed in range(5)] for depth in (1, 6))
    assert found["num_layers"] == 1
    assert found["val_ppl"] == pytest.approx(statistics.fmean(ours))
    assert found["test_ppl"] == pytest.approx(statistics.fmean(ours) - 1)
    assert found["val_ppl_ci95"] == pytest.approx(2.776445105 * statistics.stdev(ours) / 5**0.5)
    assert found["val_accuracy"] == pytest.approx(0.382)
    assert found["baseline"]["num_layers"] == 6
    assert found["baseline"]["val_ppl"] == pytest.approx(statistics.fmean(theirs))
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    difference = found["difference_from_baseline"]
    assert difference["val_ppl"] == pytest.approx((welch.low + welch.high) / 2)
    assert difference["val_ppl_ci95"] == pytest.approx((welch.high - welch.low) / 2)
    assert difference["test_ppl_ci95"] == pytest.approx((welch.high - welch.low) / 2)
    best = statistics.fmean(final_perplexity(4, seed) for seed in range(5))
    assert found["best"] == {
        "num_layers": 4,
        "val_ppl": pytest.approx(best),
        "test_ppl": pytest.approx(best - 1),
    }


def test_baseline_with_itself(tmp_path: Path) -> None:
    assert summary_of(comparison(tmp_path))["difference_from_baseline"] == {"val_ppl": 0.0, "test_ppl": 0.0}


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    text = str(summary_of(comparison(tmp_path, studied=4, seeds=1)))
    assert "ci95" not in text
    assert "std" not in text
    assert "adjusted_p" not in text


def test_all_statistics_of_a_depth(tmp_path: Path) -> None:
    comparison(tmp_path)
    write_supplements(tmp_path)
    found = summary_of(reload(tmp_path, (1, 4, 6)))
    values = {depth: [final_perplexity(depth, seed) for seed in range(5)] for depth in (1, 4, 6)}
    row = found["depths"][0]
    assert row["num_layers"] == 1
    assert row["val_ppl"] == pytest.approx(statistics.fmean(values[1]))
    assert row["val_ppl_std"] == row["test_ppl_std"] == pytest.approx(statistics.stdev(values[1]))
    assert row["test_ppl_ci95"] == pytest.approx(2.776445105 * row["val_ppl_std"] / 5**0.5)
    assert row["val_accuracy_std"] == pytest.approx(0.001 * 2.5**0.5)
    assert row["train_steady_seconds"] == pytest.approx(1.5 * 2.8)
    assert row["startup_seconds"] == 0
    assert row["num_seeds_at_target"] == 0
    assert "target_steady_seconds" not in row
    assert found["depths"][1]["target_steady_seconds"] == pytest.approx(1.5 * 2.8)
    assert row["val_ppl_without_unk"] == pytest.approx(statistics.fmean(values[1]) * 2.718281828**0.9)
    p_values = [stats.ttest_ind(values[depth], values[4], equal_var=False).pvalue for depth in (1, 6)]
    holm = sorted([2 * min(p_values), max(p_values)])
    p_found = sorted(found["depths"][index]["against_best"]["adjusted_p"] for index in (0, 2))
    assert p_found == pytest.approx(holm)
    assert "against_best" not in found["depths"][1]
    assert "against_baseline" not in found["depths"][2]
    assert found["not_distinguishable_from_best"] == [4]
    assert found["num_not_distinguishable_from_best"] == 1


def test_verdicts_are_counted(tmp_path: Path) -> None:
    compared = study(tmp_path, {5: 20.7}, epochs=3)
    found = summary_of(compared)
    outcomes = [verdict["outcome"] for verdict in found["verdicts"]]
    assert len(outcomes) == 7
    assert outcomes[1] == "refuted"
    assert found["claims"] == {name: outcomes.count(name) for name in ("supported", "refuted", "undecided")}


def test_numbers_for_dvc_are_few(tmp_path: Path) -> None:
    """What stands in lists DVC leaves out."""
    compared = comparison(tmp_path, studied=1)
    written = summary(compared)
    (details,) = written.pop("details")
    assert details == summary_of(compared)
    assert written == {
        "num_layers": 1,
        "val_ppl": pytest.approx(statistics.fmean(final_perplexity(1, seed) for seed in range(5))),
        "test_ppl": pytest.approx(statistics.fmean(final_perplexity(1, seed) for seed in range(5)) - 1),
        "val_accuracy": pytest.approx(0.382),
        "best": details["best"],
    }
    assert set(details["best"]) == {"num_layers", "val_ppl", "test_ppl"}
