"""Weights and record on the disk: what is saved is loaded, and what is damaged is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from newllm.errors import UserError
from newllm.files import write_checksum
from newllm.model.definition import ModelShape, initial_parameters
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.records import RowResult, Training
from newllm.training.weights import TrainingRecord, check_val_losses, load, save, scores, stacks

SHAPE = ModelShape(11, 5, 4, 6, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = [RowResult(seed, 3, 4, False, 1.5, 1.6, 2.5, 100.0) for seed in (0, 7)]
    record = TrainingRecord(
        shape=SHAPE,
        parameters={"train": {"epochs": 4}},
        data_sha256="0" * 64,
        device="CPU",
        precision="fp32",
        torch_version="2",
        git_commit=None,
        git_dirty=None,
        seeds=results,
    )
    save(tmp_path / "2", Training(initial_parameters(SHAPE, [0, 7]), [], results), record)
    return tmp_path / "2"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    parameters, record = load(folder, 2)
    expected = initial_parameters(SHAPE, [0, 7])
    assert list(parameters) == list(expected)
    assert all(torch.equal(parameters[name], value) for name, value in expected.items())
    assert record.shape == SHAPE
    assert [result.seed for result in record.seeds] == [0, 7]
    with safe_open(folder / "weights.safetensors", "pt") as weights:
        assert weights.metadata() == {"num_layers": "2"}


def test_weights_are_float32_whatever_the_file_holds(folder: Path) -> None:
    values = {name: value.half() for name, value in load_file(folder / "weights.safetensors").items()}
    save_file(values, folder / "weights.safetensors")
    write_checksum(folder / "weights.safetensors")
    parameters, _ = load(folder, 2)
    for name, value in values.items():
        assert parameters[name].dtype == torch.float32
        assert torch.equal(parameters[name], value.float())


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil(folder: Path) -> None:
    values = load_file(folder / "weights.safetensors")
    values["output.bias"][1, 3] = float("nan")
    save_file(values, folder / "weights.safetensors")


def reshape(folder: Path) -> None:
    values = load_file(folder / "weights.safetensors")
    values["output.bias"] = values["output.bias"][:, :-1].contiguous()
    save_file(values, folder / "weights.safetensors")


def drop_a_tensor(folder: Path) -> None:
    values = load_file(folder / "weights.safetensors")
    del values["hidden.2.bias"]
    save_file(values, folder / "weights.safetensors")


def flip_a_bit(name: str) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        content = (folder / name).read_bytes()
        at = max(map(content.rfind, b"23456789")) if name == "training.json" else len(content) - 4
        (folder / name).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    return flip


def change_record(folder: Path) -> None:
    record = json.loads((folder / "training.json").read_text())
    record["seeds"] = "five"
    (folder / "training.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"weights\.safetensors: not a whole safetensors file"),
        (spoil, r"weights\.safetensors: holds numbers that are not finite"),
        (reshape, r"weights\.safetensors: tensor output\.bias is \(2, 10\), expected \(2, 11\)"),
        (drop_a_tensor, r"weights\.safetensors: tensor hidden\.2\.bias is None, expected \(2, 6\)"),
        (change_record, r"training\.json: seeds: "),
        (lambda folder: (folder / "training.json").write_text("{"), r"training\.json: not valid JSON"),
        (lambda folder: (folder / "weights.safetensors").unlink(), r"weights\.safetensors: no such file"),
        (flip_a_bit("weights.safetensors"), r"weights\.safetensors: found the SHA-256"),
        (flip_a_bit("training.json"), r"training\.json: found the SHA-256"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message + r".*dvc repro .*train@2"):
        load(folder, 2)


def test_another_depth_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="found a model of 2 layers, expected 3"):
        load(folder, 3)


@pytest.mark.parametrize(("found", "fits"), [([1.6, 1.6], True), ([1.6009, 1.5991], True), ([1.6, 1.6011], False)])
def test_a_validation_loss_other_than_trainings_is_refused(folder: Path, found: list[float], fits: bool) -> None:
    _, record = load(folder, 2)
    if fits:
        check_val_losses(folder, record, found)
    else:
        with pytest.raises(UserError, match=r"seed 7: found a validation loss of 1\.6011, .*recorded 1\.6000"):
            check_val_losses(folder, record, found)


@pytest.mark.parametrize("residual", [False, True])
def test_scores_are_of_each_seed_in_its_place(folder: Path, residual: bool) -> None:
    parameters = {name: 15 * value for name, value in load(folder, 2)[0].items()}
    places = [(seeds, len(one["norm.weight"])) for seeds, one in stacks(parameters, torch.device("cpu"))]
    assert places == [(slice(0, 1), 1), (slice(1, 2), 1)]
    windows = torch.randint(0, 11, (9, 7), generator=torch.Generator().manual_seed(0)).int()
    losses, accuracies = loss_and_accuracy(parameters, windows, 9, torch.float32, residual)
    found = scores(parameters, windows, 4, torch.float32, residual)
    assert [loss for loss, _ in found] == pytest.approx(losses.tolist(), rel=1e-6)
    assert [accuracy for _, accuracy in found] == pytest.approx(accuracies.tolist(), rel=1e-9)
