"""Headline and series against plain computations on the same inputs."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.published import POINTS, STUDY_DATA, STUDY_TRAINING
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare, learning_curves, perplexity_by_depth
from newllm.config import load_config
from newllm.errors import UserError
from tests.analysis.metrics_files import DATA, PARAMETERS, change_json, final_perplexity, write_all

FULL = range(1, 9)


def comparison(root: Path, studied: int = 6, baseline: int = 6, data: Any = DATA, **options: Any) -> Comparison:
    depths = options.pop("depths", (1, 4, 6))
    write_all(root, depths, **options)
    return compare(load_results(depths, root / "metrics", root / "plots/curves"), studied, baseline, data)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    compared = comparison(tmp_path, studied=4, seeds=1)
    row = perplexity_by_depth(compared.results)[0]
    assert row["val_ppl_low"] is None
    assert row["val_ppl"] == final_perplexity(1, 0)


def test_learning_curves_leave_out_seeds_that_stopped(tmp_path: Path) -> None:
    rows = learning_curves(comparison(tmp_path).results)
    assert [(row["num_layers"], row["epoch"], row["num_seeds"]) for row in rows] == [
        (depth, epoch, 5 if epoch < 3 else 4) for depth in (1, 4, 6) for epoch in (1, 2, 3)
    ]
    last = [final_perplexity(4, seed) for seed in (0, 2, 3, 4)]
    losses = [math.log(perplexity) for perplexity in last]
    assert rows[5] == {
        "num_layers": 4,
        "epoch": 3,
        "num_seeds": 4,
        "val_ppl": pytest.approx(statistics.fmean(last)),
        "val_ppl_min": min(last),
        "val_ppl_max": max(last),
        "train_loss": pytest.approx(statistics.fmean(losses) + 0.1),
        "val_loss": pytest.approx(statistics.fmean(losses)),
        "val_accuracy": pytest.approx(0.3),
    }


def test_perplexity_by_depth(tmp_path: Path) -> None:
    rows = perplexity_by_depth(comparison(tmp_path).results)
    values = [final_perplexity(4, seed) for seed in range(5)]
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert [row["num_layers"] for row in rows] == [1, 4, 6]
    assert rows[1] == {
        "num_layers": 4,
        "num_params": 2_214_120,
        "num_seeds": 5,
        "val_ppl": pytest.approx(statistics.fmean(values)),
        "val_ppl_low": pytest.approx(interval.low),
        "val_ppl_high": pytest.approx(interval.high),
        "test_ppl": pytest.approx(statistics.fmean(values) - 1),
        "test_ppl_low": pytest.approx(interval.low - 1),
        "test_ppl_high": pytest.approx(interval.high - 1),
        "val_accuracy": pytest.approx(0.382),
    }


def test_best_is_the_lowest_mean_and_the_shallowest_of_equals(tmp_path: Path) -> None:
    perplexities = {1: [21.0, 19.0, 20.5], 4: [20.0, 20.0, 20.0], 6: [20.0, 20.0, 20.0]}
    compared = comparison(tmp_path, seeds=3, perplexity_of=lambda depth, seed: perplexities[depth][seed])
    assert compared.best.num_layers == 4
    assert (compared.studied.num_layers, compared.baseline.num_layers, compared.num_seeds) == (6, 6, 3)


def test_difference_from_the_baseline(tmp_path: Path) -> None:
    compared = comparison(tmp_path, baseline=4)
    assert compared.difference(compared.baseline, "val_ppl") is None
    found = compared.difference(compared.studied, "test_ppl")
    values = [[final_perplexity(depth, seed) for seed in range(5)] for depth in (6, 4)]
    interval = stats.ttest_ind(*values, equal_var=False).confidence_interval()
    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("seeds", "unfinished"), [(2, []), (3, [1, 4, 6])])
def test_unfinished_are_the_depths_of_which_most_seeds_did_not_stop(
    tmp_path: Path, seeds: int, unfinished: list[int]
) -> None:
    """Seed 1 alone stops, after one epoch less."""
    compared = comparison(tmp_path, seeds=seeds)
    assert [result.num_layers for result in compared.unfinished] == unfinished
    assert compared.most_epochs == 3


def test_a_depth_of_which_three_of_five_seeds_stopped_is_finished(tmp_path: Path) -> None:
    comparison(tmp_path)
    change_json(
        tmp_path / "metrics/runs/4.json", lambda runs: [run.update(stopped_early=True) for run in runs["seeds"][:3]]
    )
    results = load_results((1, 4, 6), tmp_path / "metrics", tmp_path / "plots/curves")
    assert [result.num_layers for result in compare(results, 6, 6, DATA).unfinished] == [1, 6]


@pytest.mark.parametrize(("studied", "baseline", "name"), [(5, 6, "model.num_layers"), (6, 5, "study.baseline_num_")])
def test_depth_not_among_them(tmp_path: Path, studied: int, baseline: int, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*found 5.*\(1, 4, 6\)"):
        comparison(tmp_path, studied, baseline)


def test_full_study_deviates_in_nothing(tmp_path: Path) -> None:
    compared = comparison(tmp_path, depths=FULL, epochs=150)
    assert compared.data_deviations == compared.training_deviations == ()


def test_study_values_are_the_committed_defaults() -> None:
    """params.yaml, as committed, is the study: each value here is also there."""
    values = load_config(Path(__file__).parents[2] / "params.yaml").model_dump()
    for name, (_, prescribed) in (STUDY_DATA | STUDY_TRAINING).items():
        section, key = name.split(".")
        assert values[section][key] == prescribed, name


def test_deviations_in_words(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "train": {**PARAMETERS["train"], "epochs": 3, "precision": "bf16"}}
    data = {**DATA, "source": "synthetic", "vocabulary_size": 500}
    compared = comparison(tmp_path, data=data, seeds=1, parameters=parameters, depths=[1, 2, 3, 4, 5, 6, 7, 9])
    assert compared.data_deviations == (
        "source of the text synthetic instead of wikitext",
        "vocabulary size 500 instead of 1000",
    )
    assert compared.training_deviations == (
        "epochs 3 instead of 150",
        "precision bf16 instead of fp16",
        "1 seed instead of 5",
        "without the depth 8",
    )
    assert not compared.matches_published_data


def test_recorded_parameters_count_before_params_yaml(tmp_path: Path) -> None:
    flat = {**PARAMETERS["model"], **PARAMETERS["train"], "vocabulary_size": 500}
    compared = comparison(tmp_path, parameters=flat, depths=FULL, epochs=150)
    assert compared.data_deviations == ("vocabulary size 500 instead of 1000",)
    assert compared.training_deviations == ()


def test_epochs_that_did_not_run(tmp_path: Path) -> None:
    """Seed 1 stops early, the other four of each depth do not."""
    compared = comparison(tmp_path, depths=FULL, epochs=20)
    found = "32 of 40 runs ended after 20 epochs or later instead of 150, without an early stop"
    assert compared.training_deviations == (found,)


def test_parameters_that_were_not_recorded(tmp_path: Path) -> None:
    compared = comparison(tmp_path, parameters=PARAMETERS["model"], depths=FULL)
    assert "epochs not recorded instead of 150" in compared.training_deviations


def test_published_points() -> None:
    """As in the study's table."""
    assert [(point.num_layers, point.val_ppl, point.val_accuracy) for point in POINTS] == [
        (1, 20.4, 0.381),
        (4, 20.1, 0.384),
        (5, 20.5, 0.383),
        (6, 20.6, 0.385),
        (7, 21.77, 0.379),
    ]
    assert [point.num_layers for point in POINTS if not point.complete] == [1, 4]
