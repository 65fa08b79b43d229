"""The study as a whole against plain computations on the same inputs: series, deviations and the tidy table."""

import io
import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from newllm.analysis.inference import against, answer
from newllm.analysis.published import POINTS, STUDY_DATA, STUDY_TRAINING
from newllm.analysis.study import (
    Study,
    learning_curves,
    perplexity_by_depth,
    results_table,
)
from newllm.config import load_config
from newllm.errors import UserError
from tests.analysis.metrics_files import PARAMETERS, final_perplexity, write_all, write_diagnostics, write_expand
from tests.analysis.part2_files import RECIPE, write_part_two, write_recipe
from tests.analysis.studies import PERPLEXITIES, models, plan, reload, study

FULL = range(1, 9)


def comparison(root: Path, studied: int = 6, baseline: int = 6, data: Any = None, **options: Any) -> Study:
    depths = options.pop("depths", (1, 4, 6))
    write_all(root, depths, **options)
    return reload(root, depths, plan(studied=studied, baseline=baseline, **(data or {})))


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    compared = comparison(tmp_path, studied=4, seeds=1)
    row = perplexity_by_depth(compared.depths.values()).iloc[0]
    assert row["val_ppl_low"] is None
    assert row["val_ppl"] == final_perplexity(1, 0)


def test_learning_curves_leave_out_seeds_that_stopped(tmp_path: Path) -> None:
    rows = learning_curves(comparison(tmp_path).depths.values()).to_dict("records")
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
    rows = perplexity_by_depth(comparison(tmp_path).depths.values()).to_dict("records")
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


@pytest.mark.parametrize(("studied", "baseline", "name"), [(5, 6, "model.num_layers"), (6, 5, "study.baseline_num_")])
def test_depth_not_among_them(tmp_path: Path, studied: int, baseline: int, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*found 5.*\(1, 4, 6\)"):
        comparison(tmp_path, studied, baseline)


def test_full_study_deviates_in_nothing(tmp_path: Path) -> None:
    compared = comparison(tmp_path, depths=FULL, epochs=150)
    assert compared.data_deviations == compared.training_deviations == []


def test_study_values_are_the_committed_defaults() -> None:
    """params.yaml, as committed, is the study: each value here is also there."""
    values = load_config(Path(__file__).parents[2] / "params.yaml").model_dump()
    for name, (_, prescribed) in (STUDY_DATA | STUDY_TRAINING).items():
        section, key = name.split(".")
        assert values[section][key] == prescribed, name


def test_deviations_in_words(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "train": {**PARAMETERS["train"], "epochs": 3, "precision": "bf16"}}
    data = {"source": "synthetic", "vocabulary_size": 500}
    compared = comparison(tmp_path, data=data, seeds=1, parameters=parameters, depths=[1, 2, 3, 4, 5, 6, 7, 9])
    assert [text.split()[-4:] for text in compared.data_deviations] == [
        ["synthetic", "instead", "of", "wikitext"], ["500", "instead", "of", "1000"]
    ]  # fmt: skip
    numbers = [[part for part in text.split() if part.isdecimal()] for text in compared.training_deviations]
    assert numbers == [["3", "150"], [], ["1", "5"], ["8"]], "epochs, precision, seeds, the depth that is missing"
    assert not compared.comparable


def test_recorded_parameters_count_before_params_yaml(tmp_path: Path) -> None:
    flat = {**PARAMETERS["model"], **PARAMETERS["train"], "vocabulary_size": 500}
    compared = comparison(tmp_path, parameters=flat, depths=FULL, epochs=150)
    assert len(compared.data_deviations) == 1
    assert compared.training_deviations == []


def test_epochs_that_did_not_run(tmp_path: Path) -> None:
    """Seed 1 stops early, the other four of each depth do not."""
    compared = comparison(tmp_path, depths=FULL, epochs=20)
    (found,) = compared.training_deviations
    assert [part for part in found.replace(",", "").split() if part.isdecimal()] == ["20", "150", "32", "40"]


def test_parameters_that_were_not_recorded(tmp_path: Path) -> None:
    compared = comparison(tmp_path, parameters=PARAMETERS["model"], depths=FULL)
    assert compared.parameters["train.epochs"] == "not recorded"
    assert any("not recorded" in text for text in compared.training_deviations)


def test_published_points() -> None:
    """As in the study's table."""
    assert [(depth, point["val_ppl"], point["val_accuracy"]) for depth, point in POINTS.items()] == [
        (1, 20.4, 0.381),
        (4, 20.1, 0.384),
        (5, 20.5, 0.383),
        (6, 20.6, 0.385),
        (7, 21.77, 0.379),
    ]
    assert [depth for depth, point in POINTS.items() if not point["complete"]] == [1, 4]


def test_against_the_baseline() -> None:
    groups = models({5: 20.46, 7: 20.55, 8: 20.49})
    family = against(groups, groups[6])
    assert list(family) == [1, 2, 3, 4, 5, 7, 8]
    values = {depth: group.values("val_ppl") for depth, group in groups.items()}
    raw = {depth: stats.ttest_ind(values[depth], values[6], equal_var=False) for depth in family}
    # upwards: 1 to 4 far below, then 7, 5 and 8, which are multiplied by 3, 2 and 1
    for depth, factor in ((7, 3), (5, 2), (8, 1)):
        assert family[depth].adjusted_p == pytest.approx(factor * raw[depth].pvalue)
        interval = raw[depth].confidence_interval()
        assert family[depth].low == pytest.approx(interval.low)
        assert family[depth].high == pytest.approx(interval.high)
    assert raw[7].pvalue < 0.05 < 3 * raw[7].pvalue
    assert [depth for depth, test in family.items() if test.below] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [4]),
        ({3: 19.92, 5: 19.93}, [3, 4, 5]),
        ({3: 19.95}, [4]),  # p = 0.037, the largest of the family: nothing to correct
        ({3: 19.95, 5: 19.95}, [3, 4, 5]),  # 0.037 twice: Holm's factors are 2 and 1, and 0.074 carries over
        ({8: 19.5}, [8]),
    ],
    ids=str,
)
def test_not_worse(changes: dict[int, float], expected: list[int]) -> None:
    assert answer(models(changes), exact=False).set == expected


def test_one_seed_distinguishes_nothing() -> None:
    groups = models(seeds=1)
    assert answer(groups, exact=False).set == list(PERPLEXITIES)
    assert all(test.adjusted_p is None for test in against(groups, groups[4]).values())


def test_test_figures_choose_nothing() -> None:
    groups = models()
    for depth in (1, 8):
        groups[depth].seeds["test_ppl"] = 1.5
    assert answer(groups, exact=False).set == [4]


def test_plateau_ends_below_60(tmp_path: Path) -> None:
    """Of three epochs, which fall as 5, 3, 1 times the end; seed 1 has one epoch less."""
    lengths = {20.0: [2, 1, 2, 2, 2], 19.999: [1, 0, 1, 1, 1], 70.0: [3, 2, 3, 3, 3]}
    for mean, expected in lengths.items():
        found = study(tmp_path, {4: mean}, spread=0, epochs=3).depths[4]
        assert found.values("plateau_epochs") == expected, mean


def table(found: Study) -> pd.DataFrame:
    """As anybody loads it."""
    return pd.read_csv(io.StringIO(results_table(found).to_csv(index=False)))


def test_results_table(tmp_path: Path) -> None:
    """One row a recipe, depth, seed and split, and its figures are those of the files."""
    write_all(tmp_path, (1, 4, 6), joules=200.0)
    write_diagnostics(tmp_path, 4, lambda depth, seed: 2.5 + 0.1 * seed)
    write_expand(tmp_path, 4, "freeze", 0.1)
    write_recipe(tmp_path, "mine", 4, 29.0, residual=True)
    rows = table(reload(tmp_path, (1, 4, 6), plan(recipes=("mine",))))
    key = ["kind", "recipe", "num_layers", "seed", "split"]
    assert not rows.duplicated(key).any()
    assert rows.groupby("kind").size().to_dict() == {"notebook": 3 * 15, "grown": 15, "changed": 15}
    one = rows.set_index(key).sort_index()
    validation, train = (one.loc["notebook", "notebook", 4, 1, split] for split in ("validation", "train"))
    assert validation["ppl"] == pytest.approx(final_perplexity(4, 1))
    assert validation["loss"] == pytest.approx(math.log(final_perplexity(4, 1)))
    assert validation["ppl_without_unk"] == pytest.approx(final_perplexity(4, 1) * math.exp(0.9))
    assert (train["loss"], train["loss_with_dropout"]) == pytest.approx((2.6, 3.1))
    assert (validation["epochs_run"], validation["joules"], validation["num_params"]) == (2, 600, 2_214_120)
    assert one.loc["notebook", "notebook", 4, 1, "test"]["ppl"] == pytest.approx(final_perplexity(4, 1) - 1)
    assert math.isnan(one.loc["notebook", "notebook", 1, 1, "train"]["loss"]), "not measured"
    grown = one.loc["grown", "freeze", 4, 0, "validation"]
    assert (grown["context_dim"], grown["num_params"]) == (512, 2_739_176)
    changed = one.loc["changed", "mine", 4, 12, "validation"]
    assert (changed["settings"], changed["ppl"], changed["plateau_epochs"]) == ("residual=True", 29.0, 1)
    assert (changed["device"], changed["num_params"]) == ("NVIDIA H200", 2_214_120)
    assert changed["git_commit"] == "0123456789abcdef0123456789abcdef01234567"


def test_results_table_of_part_two(tmp_path: Path) -> None:
    write_all(tmp_path, (1, 4, 6))
    write_part_two(tmp_path)
    planned = plan((1, 4, 6), {4: 464, 6: 400}, ("he-6", "notebook-6"), (396,))
    rows = table(reload(tmp_path, (1, 4, 6), planned))
    sizes = rows.groupby("kind").size().to_dict()
    assert sizes == {
        "notebook": 45, "changed": 30, "tuned": 90, "equal": 30, "lstm": 30, "trial": 60, "lstm trial": 20
    }  # fmt: skip
    tuned = rows[(rows["kind"] == "tuned") & (rows["num_layers"] == 4) & (rows["split"] == "validation")]
    assert tuned["ppl"].mean() == pytest.approx(19.2)
    assert tuned["settings"].unique() == ["; ".join(f"{name}={value}" for name, value in RECIPE.items())]
    trials = rows[(rows["kind"] == "trial") & (rows["num_layers"] == 4)]
    assert trials["ended"].value_counts().to_dict() == {"epochs": 18, "pruned": 1, "diverged": 1}
    assert trials["ppl"].isna().sum() == 1
    assert rows[rows["kind"] == "equal"]["hidden_size"].unique().tolist() == [464, 400]


def test_the_dictionary_has_every_column(tmp_path: Path) -> None:
    write_all(tmp_path, (4, 6))
    text = (Path(__file__).parents[2] / "docs/results.md").read_text(encoding="utf-8")
    documented = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert documented == list(results_table(reload(tmp_path, (4, 6))).columns)
