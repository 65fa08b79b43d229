"""Trained models for the stages after training: checked against parameters and losses, stacked as in training."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from newllm.config import Config
from newllm.data.windows import load_windows
from newllm.errors import UserError
from newllm.files import check_sha256
from newllm.model.definition import Parameters
from newllm.training.checkpoint import TrainingRecord, load

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
