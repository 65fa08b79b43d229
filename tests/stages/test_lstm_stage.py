"""The lstm stage in a copy of its inputs, with a search of a few seconds."""

import csv
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dvc.utils.collections import merge_dicts
from safetensors.torch import load_file
from scipy import stats

from newllm.errors import UserError
from newllm.files import check_sha256, write_checksum
from newllm.studies.lstm import LstmTrainer, loss_and_accuracy
from stages import lstm
from tests.checkout import ROOT

CHANGES: dict[str, Any] = {
    "data": {"vocabulary_size": 20},
    "model": {"embedding_dim": 8},
    "train": {"epochs": 4, "batch_size": 32, "base_learning_rate": 0.01, "base_batch_size": 32, "precision": "fp32"},
    "search": {
        "start": {"dropout": 0.0},
        "unpruned": [1],  # of New-LLM: an LSTM's trials leave all the same
        "margins": [[2, 0.05]],
        "finalists": 2,
        "finalist_seeds": [1, 2],
        "widenings": 0,
        "confirm_seeds": [10, 11, 12],
    },
    "lstm": {
        "space": {"learning_rate_factor": [0.5, 1.0, 2.0], "dropout": [0.0, 0.3], "schedule": ["constant", "linear"]},
        "trials": 5,
        "first_round": 3,
        "round_size": 2,
    },
    "checkpoint": {"every": 1},
}
OUTPUTS = ("models/lstm/12/weights.safetensors", "plots/lstm/12.csv", "metrics/lstm/12.json")


def windows(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Windows in which the next token often follows from the last; some end in padding."""
    stream = np.random.default_rng(seed)
    rows = stream.integers(1, 20, (count, 10))
    for t in range(1, 10):
        rows[:, t] = np.where(stream.random(count) < 0.8, rows[:, t - 1] * 3 % 19 + 1, rows[:, t])
    rows[::4, 7:] = 0
    return rows.astype("<u2")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge_dicts(values, CHANGES)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    folder = tmp_path / "data/windows"
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": 200, "validation": 61, "test": 43}.items()):
        np.save(folder / f"{split}.npy", windows(count, seed))
        write_checksum(folder / f"{split}.npy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("newllm.runtime.resume.LARGEST_SHARE", math.inf)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, hidden_size: int = 12) -> None:
    monkeypatch.setattr("sys.argv", ["stages.lstm", "--hidden-size", str(hidden_size)])
    lstm.main()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if "second" not in key}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def results(project: Path) -> tuple[bytes, list[dict[str, str]], Any]:
    """Weights byte for byte, the curves and the metrics, all without times."""
    weights, curves, metrics = (project / name for name in OUTPUTS)
    with curves.open() as file:
        rows = [without_times(row) for row in csv.DictReader(file)]
    return weights.read_bytes(), rows, without_times(json.loads(metrics.read_text()))


def test_search_and_confirmation(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch)
    few = json.loads((project / OUTPUTS[2]).read_text())
    (metrics,) = few.pop("details")
    assert few == {name: metrics[name] for name in ("val_ppl", "test_ppl")}
    assert (metrics["num_layers"], metrics["hidden_size"], metrics["num_seeds"]) == (1, 12, 3)
    assert metrics["num_params"] == 20 * 8 + 4 * 12 * (8 + 12 + 2) + 20 * 12 + 20

    trials = metrics["trials"]
    assert [trial["round"] for trial in trials] == [0, 0, 0, 1, 1]
    assert trials[0]["recipe"] == {"learning_rate_factor": 1.0, "dropout": 0.0, "schedule": "constant"}
    assert all(trial["seed"] == 0 for trial in trials)
    assert len({json.dumps(trial["recipe"]) for trial in trials}) == 5
    assert any(trial["pruned"] and trial["epochs_run"] == 2 for trial in trials)
    best = sorted((trial for trial in trials if not trial["pruned"]), key=lambda trial: trial["val_loss"])[:2]
    finalists = metrics["finalists"]
    assert [one["recipe"] for one in finalists] == [trial["recipe"] for trial in best]
    for one in finalists:
        assert [seed["seed"] for seed in one["seeds"]] == [1, 2]
        assert one["val_ppl"] == pytest.approx(fmean(math.exp(seed["val_loss"]) for seed in one["seeds"]))
    winner = min(finalists, key=lambda one: one["val_ppl"])
    assert metrics["recipe"] == metrics["chosen"]["recipe"] == winner["recipe"]

    (run_of,) = metrics["runs"]
    seeds = run_of["seeds"]
    assert [seed["seed"] for seed in seeds] == [10, 11, 12]
    ppls = [seed["val_ppl"] for seed in seeds]
    assert metrics["val_ppl"] == pytest.approx(fmean(ppls))
    half_width = stats.t.ppf(0.975, 2) * stdev(ppls) / math.sqrt(3)
    assert metrics["val_ppl_ci95"] == pytest.approx(half_width)
    assert run_of["parameters"]["lstm"]["trials"] == 5
    parameters = load_file(project / OUTPUTS[0])
    for split in ("val", "test"):
        name = "validation" if split == "val" else split
        ids = torch.from_numpy(np.load(project / f"data/windows/{name}.npy").astype("int32"))
        losses, accuracies = loss_and_accuracy(parameters, ids, 7, torch.float32)
        assert [seed[f"{split}_loss"] for seed in seeds] == pytest.approx(losses.tolist(), rel=1e-5)
        assert [seed[f"{split}_accuracy"] for seed in seeds] == pytest.approx(accuracies.tolist(), rel=1e-5)
        assert [seed[f"{split}_ppl"] for seed in seeds] == pytest.approx(losses.exp().tolist(), rel=1e-4)
    for file in (Path(OUTPUTS[0]), Path("models/lstm/12/training.json")):
        check_sha256(file, "lstm@12")
    with (project / OUTPUTS[1]).open() as curves:
        assert len(list(csv.DictReader(curves))) == sum(seed["epochs_run"] for seed in seeds)
    assert not [*(project / "checkpoints").iterdir()], "states are left"


def test_the_same_bits_again_and_after_kills_in_every_part(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["search"]["widenings"] = 1
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    run(monkeypatch)
    expected = results(project)
    (found,) = expected[2]["details"]
    assert [trial["round"] for trial in found["trials"]] == [0, 0, 0, 1, 1, 2, 2]
    assert found["space"]["learning_rate_factor"] == [0.5, 1.0, 2.0, 4.0], "the winner was at its end"
    assert found["trials"][5]["recipe"]["learning_rate_factor"] == 4.0
    assert found["recipe"] in [trial["recipe"] for trial in found["trials"]]
    for name in OUTPUTS:
        (project / name).unlink()
    original, kills, places = LstmTrainer.next_step, 0, set()

    def killed(self: LstmTrainer, size: int) -> None:
        nonlocal count
        count += 1
        if count == 45:  # six epochs later, and in the middle of one
            places.add((len(self.task.rows), self.task.rows[0].seed))
            raise KeyboardInterrupt
        original(self, size)

    monkeypatch.setattr(LstmTrainer, "next_step", killed)
    while True:
        count = 0
        try:
            run(monkeypatch)
            break
        except KeyboardInterrupt:
            kills += 1
            assert not [name for name in OUTPUTS if (project / name).exists()]
    assert {(3, 0), (4, 1), (3, 10)} <= places, "in the first round, among the finalists, in the confirmation"
    assert results(project) == expected


def test_bad_input_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"lstm\.hidden_sizes: found 0"):
        run(monkeypatch, 0)
    values = yaml.safe_load((project / "params.yaml").read_text())
    for changes, message in (
        (
            {"hidden_sizes": [12], "space": {"dropout": [0.2, 0.3]}},
            r"search\.start\.dropout is 0\.0, but lstm\.space\.dropout is \[0\.2",
        ),
        ({"trials": 13}, "12 recipes"),
        ({"hidden_sizes": [4, 4]}, "hidden size 4 is given twice"),
        ({"space": {"learning_rate_factor": [2.0, 1.0]}}, r"lstm\.space\.learning_rate_factor"),
        ({"space": {"schedule": ["linear", "linear", "constant"]}}, r"lstm\.space\.schedule"),
        ({"space": {"residual": [True]}}, r"unknown parameter lstm\.space\.residual"),
    ):
        changed = yaml.safe_load(yaml.safe_dump(values))
        merge_dicts(changed, {"lstm": changes})
        (project / "params.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(UserError, match=message):
            run(monkeypatch)
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    test = project / "data/windows/test.npy"
    ids = np.load(test)
    ids[0, 0] = 20
    np.save(test, ids)
    with pytest.raises(UserError, match=r"test\.npy: found the SHA-256"):
        run(monkeypatch)
    write_checksum(test)
    with pytest.raises(UserError, match=r"test\.npy: found id 20, expected less than data\.vocabulary_size = 20"):
        run(monkeypatch)
    assert not [name for name in ("models", "plots", "metrics") if [*(project / name).glob("**/*.*")]]
