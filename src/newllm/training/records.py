"""What a training comes to."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from newllm.errors import UserError
from newllm.model.definition import Parameters

Ended = Literal["epochs", "patience", "rule", "diverged"]


@dataclass(frozen=True)
class EpochRow:
    """One row's epoch: losses in nats, accuracy as a fraction, the mean gradient norm before clipping.

    `seconds` is the row's share of the stack's time, validation included, and `joules` its share of the GPU's energy;
    None where the device does not tell.
    """

    num_layers: int
    seed: int
    epoch: int
    train_loss: float
    val_loss: float
    val_ppl: float
    val_accuracy: float
    gradient_norm: float
    loss_scale: float
    seconds: float
    joules: float | None = None


@dataclass(frozen=True)
class RowResult:
    """What training one row came to; tokens a second are those of its whole stack, padding included.

    `ended` tells why it trained no longer: all epochs were trained, patience was exhausted, the caller's rule let it
    go, or it diverged, and then `problem` says how. A row that diverged within its first epoch has the best epoch 0
    and infinite losses.
    """

    seed: int
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    train_loss: float
    val_loss: float
    train_seconds: float
    tokens_per_second: float
    ended: Ended = "epochs"
    problem: str | None = None


@dataclass(frozen=True)
class Training:
    """The best epoch's parameters [S, ...] of every row on the CPU, all epochs, and a summary of each row."""

    parameters: Parameters
    curves: list[EpochRow]
    results: list[RowResult]

    def check_converged(self) -> None:
        """Raises UserError if a row diverged, where every one of them is needed."""
        for result in self.results:
            if result.problem:
                raise UserError(result.problem)


class EpochTotals:
    """Sums over the steps of an epoch, for each row, on the device."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._sums = torch.zeros(6, num_rows, dtype=torch.float64, device=device)
        self.loss, self.targets, self.norm, self.applied, self.steps, self.failed_step = self._sums

    def clear(self) -> None:
        """Starts an epoch."""
        self._sums.zero_()
        self.failed_step.fill_(-1)

    def add(self, losses: Tensor, counts: Tensor, norm: Tensor, failed: Tensor) -> None:
        """Adds a step: sums of losses, numbers of targets, gradient norms, and whether it failed beyond cure [S]."""
        finite = norm.isfinite()
        self.loss += losses
        self.targets += counts
        self.norm += norm.masked_fill(~finite, 0)
        self.applied += finite
        self.failed_step.copy_(torch.where(failed & (self.failed_step < 0), self.steps, self.failed_step))
        self.steps += 1

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token-weighted mean loss, mean gradient norm over steps that were not skipped, first failed step or -1."""
        return self.loss / self.targets, self.norm / self.applied.clamp(min=1), self.failed_step
