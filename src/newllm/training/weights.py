"""Trained weights on the disk: models/<depth>/weights.safetensors, the training's record, their checksums."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from newllm.config import Config, Precision
from newllm.data.windows import load_windows
from newllm.errors import UserError
from newllm.files import check_sha256, read_json, write_checksum, write_json
from newllm.model.definition import ModelShape, Parameters
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.records import RowResult, Training

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
    git_problem: str | None = None  # why git_commit is None
    seeds: list[RowResult]


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


TOLERANCE = 0.001  # nats between training's validation loss and the same weights' later; rounding makes some 1e-4


def load_trained(folder: Path, num_layers: int, config: Config) -> tuple[Parameters, TrainingRecord]:
    """The best weights [S, ...] of every seed on the CPU, and the record of their training.

    Raises:
        UserError: a file is missing or damaged, or was made for another depth or with other parameters than `config`.
    """
    parameters, record = load(folder, num_layers)
    wanted = {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}
    if record.parameters != wanted or record.shape.vocabulary_size != config.data.vocabulary_size:
        raise UserError(
            f"{folder}: trained with parameters other than those of params.yaml; run `dvc repro train@{num_layers}`"
        )
    return parameters, record


def check_val_losses(folder: Path, record: TrainingRecord, val_losses: Sequence[float]) -> None:
    """Compares the seeds' validation losses in nats, found with the weights in `folder`, with those of training.

    Raises:
        UserError: a loss differs by more than rounding can.
    """
    for seed, found in zip(record.seeds, val_losses, strict=True):
        if abs(found - seed.val_loss) > TOLERANCE:
            raise UserError(
                f"{folder}: seed {seed.seed}: found a validation loss of {found:.4f}, but training "
                f"recorded {seed.val_loss:.4f}: weights, windows and record do not belong together, or the "
                f"computation differs from training's; run `dvc repro --force train@{record.shape.num_layers}`"
            )


def load_tokens(path: Path) -> Tensor:
    """The windows in a file of the tokenize stage: ids [N, T + 1], int32, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    windows = load_windows(path)
    check_sha256(path, "tokenize")
    return torch.from_numpy(windows.astype("int32"))


def stacks(parameters: Parameters, device: torch.device) -> Iterator[tuple[slice, Parameters]]:
    """The seeds that are computed at once, as in training: all on a GPU, one by one on a CPU.

    Yields:
        Which of the S seeds, and their parameters on the device.
    """
    num_seeds = len(parameters["norm.weight"])
    size = num_seeds if device.type == "cuda" else 1
    for start in range(0, num_seeds, size):
        seeds = slice(start, start + size)
        yield seeds, {name: value[seeds].to(device) for name, value in parameters.items()}


def scores(
    parameters: Parameters, windows: Tensor, batch_size: int, dtype: torch.dtype, residual: bool = False
) -> list[tuple[float, float]]:
    """Loss in nats and accuracy as a fraction of every seed's `parameters` [S, ...], on the windows' device."""
    rows: list[tuple[float, float]] = []
    for _, stack in stacks(parameters, windows.device):
        losses, accuracies = loss_and_accuracy(stack, windows, batch_size, dtype, residual)
        rows += zip(losses.tolist(), accuracies.tolist(), strict=True)
    return rows
