"""The train, evaluate and diagnose stages as a user runs them, in a copy of the project."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from demo.run import copy_project, environment
from newllm.data.vocabulary import build_tokenizer
from newllm.files import write_checksum
from tests.test_pipeline import SMALL, Project

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("training stages")]


def stage(name: str) -> tuple[str, ...]:
    depth = ("--num-layers", "2") if name in ("train", "evaluate", "diagnose") else ()
    return ("python", "-m", f"stages.{name}", *depth)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("trained")
    copy_project(folder, SMALL)
    project = Project(folder)
    for name in ("download", "build_vocabulary", "tokenize", "train", "evaluate", "diagnose"):
        project.run(*stage(name))
    return project


@pytest.fixture
def project(trained: Project) -> Iterator[Project]:
    """The project, whose results and inputs the test must leave as they were."""
    before = contents(trained)
    parameters = (trained.folder / "params.yaml").read_bytes()
    yield trained
    (trained.folder / "params.yaml").write_bytes(parameters)
    assert contents(trained) == before


def contents(project: Project) -> dict[str, bytes]:
    names = [path for kind in ("data", "models", "metrics", "plots") for path in project.folder.glob(f"{kind}/**/*")]
    return {str(path.relative_to(project.folder)): path.read_bytes() for path in names if path.is_file()}


def fails(project: Project, *command: str) -> str:
    output = project.run(*command, status=1)
    assert "Traceback" not in output
    return output


def test_a_full_disk_costs_no_earlier_output(project: Project) -> None:
    command = "ulimit -f 8; exec python -m stages.train --num-layers 2"  # no file of more than 8 KiB
    assert "File too large" in fails(project, "bash", "-c", command)


def test_a_place_that_cannot_be_written_is_found_before_training(project: Project) -> None:
    curves = project.folder / "plots" / "curves"
    kept = curves.rename(project.folder / "plots" / "kept")
    curves.write_text("a file where a folder should be")
    try:
        output = fails(project, *stage("train"))
        assert "plots/curves" in output
        assert "epoch 1" not in output
    finally:
        curves.unlink()
        kept.rename(curves)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_and_leaves_nothing(project: Project, number: signal.Signals, tmp_path: Path) -> None:
    project.set("train.epochs", 100_000)
    process = subprocess.Popen(
        stage("train"),
        cwd=project.folder,
        env=environment() | {"NEWLLM_STATES": str(tmp_path)},  # from which the next training would go on
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    while "epoch 1/" not in (line := process.stdout.readline()):
        assert line, "training ended"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert not [*project.folder.glob("models/.*"), *project.folder.glob("plots/curves/.*")]


def test_a_diverging_training_is_stopped(project: Project) -> None:
    project.set("train.base_learning_rate", 1e8)
    output = fails(project, *stage("train"))
    assert re.search(r"2 layers, seed 0, epoch \d.*train.base_learning_rate", output)


@pytest.mark.parametrize("name", ["evaluate", "diagnose"])
def test_weights_of_other_parameters_are_refused(project: Project, name: str) -> None:
    project.set("model.dropout", 0.3)
    assert "trained with parameters other than" in fails(project, *stage(name))


@pytest.mark.parametrize("name", ["evaluate", "diagnose"])
def test_losses_that_training_did_not_see_are_refused(project: Project, name: str) -> None:
    path = project.folder / "models/2/training.json"
    before = path.read_text()
    record = json.loads(before)
    record["seeds"][1]["val_loss"] += 0.02
    path.write_text(json.dumps(record))
    write_checksum(path)
    try:
        output = fails(project, *stage(name))
        assert re.search(r"models/2: seed 1: found a validation loss of \d.*but training recorded", output)
    finally:
        path.write_text(before)
        write_checksum(path)


def test_diagnose_refuses_other_windows_and_another_vocabulary(project: Project) -> None:
    for name, changed, words in (
        ("windows/train.npy", lambda data: data[:-2] + b"\x05\x00", "not the windows that models/2 was trained on"),
        ("windows/train.npy", lambda data: data[:-2], "not a readable NumPy file"),
        ("tokenizer.json", lambda _: dumped_tokenizer(59), "found 59 tokens, expected the 60 of models/2"),
    ):
        path = project.folder / "data" / name
        before = path.read_bytes()
        path.write_bytes(changed(before))
        write_checksum(path)
        try:
            output = fails(project, *stage("diagnose"))
            assert str(path.relative_to(project.folder)) in output
            assert words in output
        finally:
            path.write_bytes(before)
            write_checksum(path)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("train", ["data/windows/train.npy", "data/windows/validation.npy"]),
        ("evaluate", ["data/windows/validation.npy", "data/windows/test.npy", "models/2/weights.safetensors"]),
        ("diagnose", ["data/windows/train.npy", "data/windows/validation.npy", "data/tokenizer.json"]),
        ("diagnose", ["models/2/weights.safetensors", "models/2/training.json"]),
    ],
)
def test_a_flipped_bit_is_noticed(project: Project, name: str, inputs: list[str]) -> None:
    for name_of_input in inputs:
        path = project.folder / name_of_input
        before = path.read_bytes()
        # where only the checksum can tell: in a word, in a loss, in the low bits of a number
        if path.name == "tokenizer.json":
            at = before.index(b'"the": ') + 1
        else:
            at = max(map(before.rfind, b"23456789")) if path.suffix == ".json" else len(before) - 2
        path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        try:
            output = fails(project, *stage(name))
            assert f"error: {name_of_input}: found the SHA-256" in output
            assert "dvc repro --force --single-item" in output
        finally:
            path.write_bytes(before)


def dumped_tokenizer(size: int) -> bytes:
    return build_tokenizer((f"word{number}" for number in range(size)), size).to_str().encode()


def test_windows_with_ids_beyond_the_vocabulary_are_refused(project: Project) -> None:
    project.set("data.vocabulary_size", 30)
    output = fails(project, *stage("train"))
    assert re.search(r"train\.npy: found id \d+, expected less than data\.vocabulary_size = 30", output)


def test_metrics_follow_from_the_seeds(project: Project) -> None:
    (layers,) = json.loads((project.folder / "metrics/layers/2.json").read_text())["details"]
    (runs,) = json.loads((project.folder / "metrics/runs/2.json").read_text())["runs"]
    for name in ("val_ppl", "test_loss", "train_seconds", "best_epoch"):
        values = [seed[name] for seed in runs["seeds"]]
        assert layers[name] == pytest.approx(sum(values) / len(values))
    half_range = abs(runs["seeds"][0]["val_ppl"] - runs["seeds"][1]["val_ppl"]) / 2
    assert layers["val_ppl_ci95"] == pytest.approx(12.706 * half_range, rel=1e-3)  # t(0.975, 1) = 12.706
    assert runs["parameters"]["train"] == yaml.safe_load((project.folder / "params.yaml").read_text())["train"]
    rows = [line.split(",") for line in (project.folder / "plots/curves/2.csv").read_text().splitlines()[1:]]
    for seed in runs["seeds"]:
        (row,) = [cells for cells in rows if cells[1:3] == [str(seed["seed"]), str(seed["best_epoch"])]]
        assert float(row[4]) == pytest.approx(seed["val_loss"], rel=1e-6), "the best epoch's loss, evaluated again"


def test_diagnostics_belong_to_the_runs(project: Project) -> None:
    (runs,) = json.loads((project.folder / "metrics/runs/2.json").read_text())["runs"]
    (found,) = json.loads((project.folder / "metrics/diagnostics/2.json").read_text())["diagnostics"]
    (data,) = json.loads((project.folder / "metrics/data.json").read_text())["data"]
    assert (found["num_layers"], found["precision"]) == (2, "fp32")
    assert found["device"] == runs["device"]
    assert found["train_windows"] == found["val_windows"] == data["validation"]["windows"]
    assert found["gradient_windows"] == min(found["train_windows"], 2048)
    counts = found["targets_by_position"]
    assert len(counts) == 15
    assert sum(counts) == data["validation"]["tokens"] - found["val_windows"], "all tokens but each first"
    for seed, run in zip(found["seeds"], runs["seeds"], strict=True):
        assert seed["seed"] == run["seed"]
        total = sum(mean * count for mean, count in zip(seed["val_loss_by_position"], counts, strict=True))
        assert total / sum(counts) == pytest.approx(run["val_loss"], rel=1e-6)
        assert len(seed["context_gain_by_position"]) == len(counts) - found["context_stride"] > 0
        assert seed["gap"] == pytest.approx(run["val_loss"] - seed["train_loss_without_dropout"], abs=1e-5)
        weights = ["embedding", "hidden.1", "hidden.2", "output", "update", "forget", "input"]
        for point in ("initial", "best"):
            assert list(seed["gradient_norms"][point]) == [f"{name}.weight" for name in weights]
    windows = np.load(project.folder / "data/windows/validation.npy")
    assert found["context_pairs"] == (windows[:, 0] != 2).sum() > 0, "all windows that do not begin with <bos>"
    assert found["samples"]["seed"] == 0
    assert all(text["greedy"] and text["sampled"] for text in found["samples"]["texts"])
