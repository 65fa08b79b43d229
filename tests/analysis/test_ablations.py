"""Runs with a switch changed: files refused, which are compared, and what they come to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.ablations import load_ablations, mismatch
from newllm.analysis.report import effects_of
from newllm.analysis.study import by_change, spread
from newllm.errors import UserError
from tests.analysis.ablation_files import RESIDUAL, experiment, write
from tests.analysis.metrics_files import PARAMETERS
from tests.analysis.studies import PERPLEXITIES, study


def seeds(mean: float) -> list[float]:
    return [mean + 0.02 * (seed - 2) for seed in range(5)]


def test_effects_against_scipy(tmp_path: Path) -> None:
    """One family over all changes; against the same depth, and against the best, 4 layers at 19.90."""
    write(tmp_path, experiment({**RESIDUAL, 9: 20.0}), experiment({6: 20.45}, **{"train.warmup_epochs": 10}))
    found = study(tmp_path, epochs=3)
    assert found.left_out == ["residual, depth 9: no such depth here"]
    effects = effects_of(found)
    means = [("residual", 4, 19.9), ("residual", 6, 20.0), ("residual", 8, 20.6), ("residual1", 6, 20.45)]
    assert [(one.group.name, one.group.num_layers, one.group.mean("val_ppl")) for one in effects] == [
        (name, depth, pytest.approx(mean)) for name, depth, mean in means
    ]
    for own, tests in (
        ([seeds(PERPLEXITIES[depth]) for _, depth, _ in means], [one.val_ppl for one in effects]),
        ([seeds(19.9)] * 4, [one.against_best for one in effects]),
    ):
        raw = [stats.ttest_ind(seeds(mean), base, equal_var=False) for (*_, mean), base in zip(means, own, strict=True)]
        largest = 0.0
        for rank, index in enumerate(sorted(range(4), key=lambda index: raw[index].pvalue)):
            largest = min(max(largest, (4 - rank) * raw[index].pvalue), 1.0)
            assert tests[index].adjusted_p == pytest.approx(largest)
            interval = raw[index].confidence_interval()
            assert tests[index].low == pytest.approx(interval.low)
            assert tests[index].high == pytest.approx(interval.high)
    assert [one.val_ppl.below for one in effects] == [False, True, True, False], "p = 0.037, not the last of four"
    changes = by_change(found.changed)
    assert {name: list(groups) for name, groups in changes.items()} == {
        "residual connections": [4, 6, 8], "warm-up epochs 10": [6]
    }  # fmt: skip
    assert spread(changes["residual connections"].values()) == pytest.approx(0.7)
    assert spread([]) == 0


def test_a_change_spread_over_experiments_is_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        experiment({8: 20.6, 4: 19.9}),
        experiment({6: 20.5}, **{"train.warmup_epochs": 10}),
        experiment({6: 20.0, 2: 20.0}),
    )
    found = study(tmp_path, epochs=3).changed
    assert [(group.name, group.num_layers) for group in found] == [
        ("residual2", 2), ("residual", 4), ("residual2", 6), ("residual", 8), ("residual1", 6)
    ]  # fmt: skip


def test_experiments_of_another_study_are_left_out(tmp_path: Path) -> None:
    other = experiment(RESIDUAL)
    other["parameters"]["model.dropout"] = 0.2
    for change, reason in (
        (other, "model.dropout 0.2 instead of 0.1"),
        ({**experiment(RESIDUAL), "data_sha256": "cd" * 32}, "trained on other windows"),
    ):
        write(tmp_path, change)
        found = study(tmp_path, epochs=3)
        (one,) = load_ablations(tmp_path / "ablations/results.json")
        assert mismatch(found.studied, one) == reason
        assert found.changed == []
        assert found.left_out == [f"residual: {reason}"]


def test_when_the_study_itself_has_the_switch(tmp_path: Path) -> None:
    write(tmp_path, experiment(RESIDUAL))
    on = study(tmp_path, epochs=3, parameters={**PARAMETERS, "model": {**PARAMETERS["model"], "residual": True}})
    assert on.left_out == ["residual: model.residual is the same here"]
    assert study(tmp_path, epochs=3).left_out == []


def test_recorded_before_there_were_more_switches(tmp_path: Path) -> None:
    """An experiment that does not record how it was initialised was initialised as in the study."""
    earlier = experiment(RESIDUAL)
    for name in ("model.initialisation", "train.schedule"):
        del earlier["parameters"][name]
    write(tmp_path, earlier)
    assert study(tmp_path, epochs=3).left_out == []
    other = {**PARAMETERS, "train": {**PARAMETERS["train"], "schedule": "linear"}}
    assert study(tmp_path, epochs=3, parameters=other).left_out == [
        "residual: train.schedule constant instead of linear"
    ]


def first(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda one: one["depths"][0]["seeds"][0].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda one: one.update(git_commits=[""]), "experiments.0.git_commits"),
    (
        lambda one: one["changes"].update({"model.residual": False}),
        "changes have model.residual False, parameters True",
    ),
    (lambda one: one["depths"][1]["seeds"].pop(), "depth 6 has the seeds [0, 1, 2, 3], train.seeds is [0, 1, 2, 3, 4]"),
    (lambda one: one["depths"].append(one["depths"][0]), "residual and residual both have depth 4 with residual"),
    (lambda one: one.update(changes={}), "experiments.0.changes"),
    (lambda one: one.update(depths=[]), "experiments.0.depths"),
    (lambda one: one.pop("command"), "experiments.0.command is missing"),
    (lambda one: one.update(extra=1), "unknown key experiments.0.extra"),
    (first(seed=3), "seed 3 is listed twice"),
    (first(val_ppl=float("nan")), "val_ppl"),
    (first(val_ppl="20"), "val_ppl"),
    (first(plateau_epochs=-1), "plateau_epochs"),
]


@pytest.mark.parametrize(("alter", "expected"), BAD)
def test_wrong_value(tmp_path: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    one = experiment(RESIDUAL)
    alter(one)
    write(tmp_path, one)
    path = tmp_path / "ablations/results.json"
    with pytest.raises(UserError) as caught:
        load_ablations(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "ablations/README.md" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000], ids=repr)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json: .*collect the experiments again"):
        load_ablations(path)
