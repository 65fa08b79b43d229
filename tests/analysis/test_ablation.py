"""Ablations in the report: which are compared, the effects against scipy, and what they say of claim 6."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.ablation import effects, load_ablations, mismatch
from newllm.analysis.report import write_report
from newllm.analysis.summary import Comparison
from newllm.errors import UserError
from tests.analysis.metrics_files import PARAMETERS
from tests.analysis.studies import PERPLEXITIES, more, study

RESIDUAL = {4: 19.9, 6: 20.0, 8: 20.6}


def experiment(means: dict[int, float], train_loss: float = 2.9, **switches: Any) -> dict[str, Any]:
    changes = switches or {"model.residual": True}
    parameters = {f"{part}.{name}": value for part, values in PARAMETERS.items() for name, value in values.items()}
    depths = []
    for depth, mean in means.items():
        seeds = [
            {
                "seed": seed,
                "train_loss": train_loss + 0.01 * seed,
                "val_loss": 3.0,
                "val_ppl": mean + 0.02 * (seed - 2),
                "val_accuracy": 0.38,
                "test_ppl": mean - 1,
                "best_epoch": 140 + seed,
                "epochs_run": 150,
                "plateau_epochs": 7 + seed,
            }
            for seed in range(5)
        ]
        depths.append({"num_layers": depth, "seeds": seeds})
    return {
        "name": "residual",
        "revision": "ab" * 20,
        "command": "dvc exp run --name residual -S model.residual=true evaluate@4 evaluate@6 evaluate@8",
        "changes": changes,
        "parameters": {**parameters, **changes},
        "data_sha256": "ab" * 32,
        "device": "NVIDIA L4",
        "depths": depths,
    }


def write(root: Path, *experiments: dict[str, Any]) -> None:
    path = root / "ablations/results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"experiments": experiments}))


def section(root: Path, compared: Comparison) -> str:
    report = write_report(compared, supplements=more(root, compared))
    return report.split("\n## Ablations\n")[1].split("\n## ")[0]


def test_no_rows_no_section(tmp_path: Path) -> None:
    compared = study(tmp_path)
    assert "Ablations" not in write_report(compared, supplements=more(tmp_path, compared))
    write(tmp_path)
    assert "Ablations" not in write_report(compared, supplements=more(tmp_path, compared))


def test_effects_against_scipy(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({**RESIDUAL, 9: 20.0}))
    found = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    assert [effect.depth.num_layers for effect in found] == [4, 6, 8], "9 is not among the study's depths"
    own = {depth: [PERPLEXITIES[depth] + 0.02 * (seed - 2) for seed in range(5)] for depth in RESIDUAL}
    for effect in found:
        depth = effect.depth.num_layers
        interval = stats.ttest_ind(
            [RESIDUAL[depth] + 0.02 * (seed - 2) for seed in range(5)], own[depth], equal_var=False
        ).confidence_interval()
        assert (effect.val_ppl.low, effect.val_ppl.high) == pytest.approx((interval.low, interval.high))
    assert [(effect.is_better, effect.is_worse) for effect in found] == [(False, False), (True, False), (True, False)]


def test_correction_is_over_all_experiments(tmp_path: Path) -> None:
    """One p of 0.037 alone counts as shown; twice the same does not."""
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 20.45}))
    (alone,) = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    assert alone.is_better
    write(tmp_path, experiment({6: 20.45}), experiment({6: 20.45}, **{"train.warmup_epochs": 10}))
    assert not any(e.is_better for e in effects(compared, load_ablations(tmp_path / "ablations/results.json")))


def test_section(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL), experiment({6: 20.5, 8: 23.5}, **{"train.warmup_epochs": 10}))
    text = section(tmp_path, compared)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[2:]] == [
        *(["residual connections", depth] for depth in "468"), *(["warm-up in epochs: 10", d] for d in "68")
    ]  # fmt: skip
    assert rows[4][2:7] == ["20.60 ± 0.04", "23.00 ± 0.04", "−2.40 ± 0.05", "< 0.0001", "19.60 ± 0.00"]
    assert rows[4][7].startswith("−0.18")
    assert rows[4][8:] == ["142.0", "9.0", "148.8"]
    assert "Residual connections: better at depth 6 and 8, no difference shown at depth 4." in text
    assert "Warm-up in epochs: 10: worse at depth 8, no difference shown at depth 6." in text
    assert "lowers perplexity at depth 6 (residual connections) and 8 (residual connections), and" in text
    assert "had not been lost to overfitting, but to fitting too little." in text
    assert "residual: `dvc exp run --name residual -S model.residual=true evaluate@4" in text
    assert "abababababab" in text


def test_claim_six_on_the_other_sides(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL, train_loss=3.2))
    assert "but training loss is not shown to fall with it everywhere" in section(tmp_path, compared)
    write(tmp_path, experiment({4: 19.5, 6: 20.5, 8: 23.0}))
    assert "no change is shown to help" in section(tmp_path, compared)
    write(tmp_path, experiment({4: 19.5}))
    assert "None of these depths is shown to be worse than the best" in section(tmp_path, compared)


def test_experiments_of_another_study_are_left_out(tmp_path: Path) -> None:
    compared = study(tmp_path)
    other = experiment(RESIDUAL)
    other["parameters"]["model.dropout"] = 0.2
    for change, reason in (
        (other, "model.dropout 0.2 instead of 0.1"),
        ({**experiment(RESIDUAL), "data_sha256": "cd" * 32}, "trained on other windows"),
    ):
        write(tmp_path, change)
        (ablation,) = load_ablations(tmp_path / "ablations/results.json")
        assert mismatch(compared, ablation) == reason
        text = section(tmp_path, compared)
        assert f"Left out, not of this study: residual ({reason})." in text
        assert "| " not in text


def test_when_the_study_itself_has_the_switch(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "model": {**PARAMETERS["model"], "residual": True}}
    compared = study(tmp_path, parameters=parameters)
    assert compared.training_deviations == ("residual connections True instead of False",)
    write(tmp_path, experiment(RESIDUAL))
    assert "(model.residual is the same here)" in section(tmp_path, compared)
    off = {**PARAMETERS, "model": {**PARAMETERS["model"], "residual": False}}
    compared = study(tmp_path, parameters=off)
    assert compared.training_deviations == ()
    assert "Left out" not in section(tmp_path, compared)


def first(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda one: one["depths"][0]["seeds"][0].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda one: one.update(revision="main"), "experiments.0.revision"),
    (lambda one: one.update(changes={}), "experiments.0.changes"),
    (lambda one: one.update(depths=[]), "experiments.0.depths"),
    (lambda one: one.pop("command"), "experiments.0.command is missing"),
    (lambda one: one.update(extra=1), "unknown key experiments.0.extra"),
    (first(seed=3), "a seed is listed twice"),
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
