"""The rows of a stack: a seed and a recipe each; and when a row has its best epoch, and when it stops."""

import math
from dataclasses import dataclass
from typing import Literal

from newllm.config import ModelConfig, TrainConfig
from newllm.model.definition import Initialisation
from newllm.training.optimiser import scaled_learning_rate

Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class Recipe:
    """How a row is trained; rows of one stack may differ in all of it.

    Attributes:
        learning_rate: Adam's, where neither warm-up nor decay lowers it.
        dropout: probability of dropping a hidden unit.
        gradient_clipping: entries (from epoch, largest gradient norm), in their order, the first of epoch 1.
        initialisation: of the hidden layers' weights.
        schedule: of the learning rate: constant, or a linear decay to zero over the epochs.
        warmup_epochs: over which the learning rate grows linearly first.
    """

    learning_rate: float
    dropout: float
    gradient_clipping: tuple[tuple[float, float], ...]
    initialisation: Initialisation = "normal"
    schedule: Schedule = "constant"
    warmup_epochs: int = 0


@dataclass(frozen=True)
class Row:
    """One model of a stack: the seed of its random streams, and its recipe."""

    seed: int
    recipe: Recipe


def study_rows(model: ModelConfig, train: TrainConfig) -> list[Row]:
    """The rows of the study: every seed with the one recipe of params.yaml."""
    recipe = Recipe(
        learning_rate=scaled_learning_rate(train.base_learning_rate, train.batch_size, train.base_batch_size),
        dropout=model.dropout,
        gradient_clipping=tuple((epoch, norm) for epoch, norm in train.gradient_clipping),
        initialisation=model.initialisation,
        schedule=train.schedule,
        warmup_epochs=train.warmup_epochs,
    )
    return [Row(seed, recipe) for seed in train.seeds]


class EarlyStopping:
    """Follows one row's validation loss.

    The best epoch is the one with the lowest loss. Patience is counted in epochs since the loss last fell by at least
    `min_improvement` below the value of the previous such fall.
    """

    def __init__(self, patience: int, min_improvement: float) -> None:
        self.patience = patience
        self.min_improvement = min_improvement
        self.best_epoch = 0
        self.best_loss = math.inf
        self._reference = math.inf
        self._reference_epoch = 0

    def update(self, epoch: int, val_loss: float) -> bool:
        """Takes an epoch's validation loss in nats; true if it is the lowest so far."""
        if val_loss <= self._reference - self.min_improvement:
            self._reference, self._reference_epoch = val_loss, epoch
        is_best = val_loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = val_loss, epoch
        return is_best

    def is_exhausted(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return epoch - self._reference_epoch >= self.patience
