"""What a training comes to."""

from dataclasses import dataclass

from newllm.model.definition import Parameters


@dataclass(frozen=True)
class EpochRow:
    """One seed's epoch: losses in nats, accuracy as a fraction, the mean gradient norm before clipping.

    `seconds` is the seed's share of the stack's time, validation included, and `joules` its share of the GPU's energy;
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
class SeedResult:
    """What training one seed came to; tokens a second are those of its whole stack, padding included."""

    seed: int
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    train_loss: float
    val_loss: float
    train_seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Training:
    """The best epoch's parameters [S, ...] of every seed on the CPU, all epochs, and a summary of each seed."""

    parameters: Parameters
    curves: list[EpochRow]
    results: list[SeedResult]
