"""Trained weights on the disk: models/<depth>/weights.safetensors, the training's record, their checksums."""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from newllm.config import Precision
from newllm.errors import UserError
from newllm.files import check_sha256, read_json, write_checksum, write_json
from newllm.model.definition import ModelShape, Parameters
from newllm.training.results import SeedResult, Training

WEIGHTS = "weights.safetensors"
RECORD = "training.json"


class TrainingRecord(BaseModel):
    """Everything about a training that its weights do not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shape: ModelShape
    parameters: dict[str, Any]  # sections model (without the depth) and train of params.yaml
    data_sha256: str  # of the training windows
    device: str
    precision: Precision
    torch_version: str
    git_commit: str | None
    git_dirty: bool | None
    seeds: list[SeedResult]


def save(folder: Path, training: Training, record: TrainingRecord) -> None:
    """Writes weights, record and checksums into a new `folder`."""
    contiguous = {name: value.contiguous() for name, value in training.parameters.items()}
    folder.mkdir()
    # through Python's own files, whose errors say what is wrong with the disk
    (folder / WEIGHTS).write_bytes(serialize(contiguous, {"num_layers": str(record.shape.num_layers)}))
    write_json(folder / RECORD, record.model_dump())
    for name in (WEIGHTS, RECORD):
        write_checksum(folder / name)


def load(folder: Path, num_layers: int) -> tuple[Parameters, TrainingRecord]:
    """Reads the weights [S, ...] and the record that `save` wrote.

    Raises:
        UserError: a file is missing or damaged, or the folder holds another depth than `num_layers`.
    """
    stage = f"train@{num_layers}"
    remedy = f"run `dvc repro {stage}` to train it again"
    record = read_json(folder / RECORD, stage)
    try:
        training = TrainingRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{folder / RECORD}: {name}: {first['msg']}; {remedy}") from None
    if training.shape.num_layers != num_layers:
        raise UserError(
            f"{folder / RECORD}: found a model of {training.shape.num_layers} layers, expected {num_layers}; {remedy}"
        )
    path = folder / WEIGHTS
    try:
        parameters = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); {remedy}") from None
    expected = {name: (len(training.seeds), *size) for name, size in training.shape.parameter_shapes().items()}
    found = {name: tuple(value.shape) for name, value in parameters.items()}
    if found != expected:
        name = next(name for name in expected | found if found.get(name) != expected.get(name))
        raise UserError(f"{path}: tensor {name} is {found.get(name)}, expected {expected.get(name)}; {remedy}")
    if not all(value.isfinite().all() for value in parameters.values()):
        raise UserError(f"{path}: holds numbers that are not finite; {remedy}")
    for file in (path, folder / RECORD):
        check_sha256(file, stage)  # after what can say more
    return {name: parameters[name].to(torch.float32) for name in expected}, training
