"""Small trainings for tests: rows of one recipe, from a configuration."""

from typing import Any

from torch import Tensor

from newllm.config import TrainConfig
from newllm.model.definition import ModelShape
from newllm.training.optimiser import scaled_learning_rate
from newllm.training.records import Training
from newllm.training.rows import Recipe, Row
from newllm.training.trainer import train


def recipe_of(config: TrainConfig, dropout: float = 0.0, **changes: Any) -> Recipe:
    """The recipe of the configuration, with changes."""
    values = {
        "learning_rate": scaled_learning_rate(config.base_learning_rate, config.batch_size, config.base_batch_size),
        "dropout": dropout,
        "gradient_clipping": tuple((epoch, norm) for epoch, norm in config.gradient_clipping),
        "schedule": config.schedule,
        "warmup_epochs": config.warmup_epochs,
    }
    return Recipe(**values | changes)


def rows_of(config: TrainConfig, dropout: float = 0.0) -> list[Row]:
    """The configuration's seeds, all with its recipe."""
    return [Row(seed, recipe_of(config, dropout)) for seed in config.seeds]


def fit(
    shape: ModelShape, dropout: float, config: TrainConfig, data: tuple[Tensor, Tensor], **options: Any
) -> Training:
    """Trains the rows of the configuration; UserError if one of them diverges."""
    training = train(shape, rows_of(config, dropout), config, data, **options)
    training.check_converged()
    return training
