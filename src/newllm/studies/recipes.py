"""Part 1's recipe with one thing changed: what is trained for an entry of `recipes`, and what is measured on it."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from newllm.config import Config
from newllm.errors import UserError
from newllm.measurement.diagnostics import GRADIENT_WINDOWS, gradient_norms, sample_windows
from newllm.model.definition import ModelShape, initial_parameters
from newllm.runtime.resume import StateStore
from newllm.studies.continuation import ContinuedStore, train_continued
from newllm.training.records import Training
from newllm.training.rows import Row, study_rows
from newllm.training.trainer import train
from newllm.training.weights import scores, stacks

OF_THE_MODEL = ("num_layers", "residual", "initialisation", "dropout", "hidden_size")
OF_THE_TRAINING = ("schedule", "warmup_epochs", "epochs")


def changed(config: Config, name: str) -> Config:
    """The configuration with which the recipe of this name is trained.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in config.recipes:
        known = ", ".join(config.recipes) or "there are none"
        raise UserError(f"recipes.{name}: no such recipe in params.yaml ({known}); add it there")
    recipe = config.recipes[name]
    values = {"num_layers": recipe.num_layers} | recipe.changes()
    training = {key: values[key] for key in OF_THE_TRAINING if key in values}
    if recipe.learning_rate_factor is not None:
        training["base_learning_rate"] = recipe.learning_rate_factor * config.train.base_learning_rate
    if recipe.continued:
        training["epochs"] = sum(recipe.continued)
    model = config.model.model_copy(update={key: values[key] for key in OF_THE_MODEL if key in values})
    return config.model_copy(update={"model": model, "train": config.train.model_copy(update=training)})


def shape_of(config: Config) -> ModelShape:
    """The sizes of the configuration's model."""
    model = config.model
    return ModelShape(
        config.data.vocabulary_size,
        model.embedding_dim,
        model.context_dim,
        model.hidden_size,
        model.num_layers,
        residual=model.residual,
    )


def store_for(continued: Sequence[int] | None) -> type[StateStore]:
    """Who keeps the states of such a training."""
    return ContinuedStore if continued else StateStore


def train_recipe(
    config: Config, continued: Sequence[int] | None, windows: tuple[Tensor, Tensor], store: StateStore
) -> Training:
    """Trains every seed.

    Args:
        config: of `changed`.
        continued: epochs of the two parts, if there are two.
        windows: ids of the training split [N, T + 1] and the validation split [M, T + 1], on the device to train on.
        store: entered, of the kind that `store_for` tells.

    Raises:
        UserError: the models do not fit into memory, or one diverged.
    """
    shape, rows = shape_of(config), study_rows(config.model, config.train)
    if not continued:
        training = train(shape, rows, config.train, windows, store=store)
    elif isinstance(store, ContinuedStore):
        training = train_continued(shape, rows, config.train, windows, (continued[0], continued[1]), store)
    else:
        raise TypeError("a training in two parts needs a store that keeps both")
    training.check_converged()
    return training


def seed_figures(
    training: Training,
    shape: ModelShape,
    rows: Sequence[Row],
    windows: Sequence[Tensor],
    batch: int,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """What each seed came to, measured on its best weights.

    Args:
        training: of S rows.
        shape: the models' sizes.
        rows: the S rows.
        windows: ids of the training, validation and test splits [N, T + 1] on the device.
        batch: windows at a time.
        dtype: type of the matrix products for losses; gradients are computed in float32.

    Returns:
        For each seed figures by name: losses in nats, accuracies as fractions, the gap of the validation loss over the
        training loss without dropout (on as many training windows, chosen as for the diagnostics), and for each hidden
        layer in order the norm of the gradient with respect to its fresh weights.
    """
    sample = sample_windows(windows[0].cpu(), len(windows[1])).to(windows[0].device)
    splits = {"sample": sample, "val": windows[1], "test": windows[2]}
    found = {name: scores(training.parameters, split, batch, dtype, shape.residual) for name, split in splits.items()}
    fresh = initial_parameters(shape, [row.seed for row in rows], [row.recipe.initialisation for row in rows])
    norms = [
        [seed[f"hidden.{layer}.weight"] for layer in range(1, shape.num_layers + 1)]
        for _, stack in stacks(fresh, sample.device)
        for seed in gradient_norms(stack, sample[:GRADIENT_WINDOWS], shape.residual)
    ]
    figures = []
    for index, result in enumerate(training.results):
        seed: dict[str, Any] = asdict(result)
        for name in ("val", "test"):
            loss, accuracy = found[name][index]
            seed |= {f"{name}_loss": loss, f"{name}_ppl": math.exp(loss), f"{name}_accuracy": accuracy}
        without_dropout = found["sample"][index][0]
        seed |= {"train_loss_without_dropout": without_dropout, "gap": seed["val_loss"] - without_dropout}
        figures.append(seed | {"initial_norms": norms[index]})
    return figures
