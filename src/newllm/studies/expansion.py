"""Growing the context vector of trained models: the same function at first, with room to learn more.

The grown context is the old one followed by new dimensions. The columns of W1 that read the new dimensions start at
zero, so nothing depends on them yet; the rows of the update and of the gates that write them start as small random
numbers, so that gradients reach those columns. LayerNorm normalises blocks of the old size each on its own: over all
dimensions at once the new ones would change the old ones' scale.

Patterns: `freeze` grows the context and keeps every old weight; `finetune` grows it and trains everything; `longer`
trains the model as it is for as long again; `scratch` trains a fresh model of the grown size. The last two are what the
first two have to be compared with.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from newllm.config import ExpandConfig
from newllm.model.definition import INITIAL_STD, ModelShape, Parameters, initial_parameters
from newllm.model.streams import random_stream
from newllm.training.records import RowResult, Training
from newllm.training.rows import Row
from newllm.training.stack import Start

PATTERNS = ("freeze", "finetune", "longer", "scratch")
Score = tuple[float, float]
"""Loss in nats and accuracy as a fraction."""


def begin(
    pattern: str, base: Parameters, shape: ModelShape, rows: Sequence[Row], config: ExpandConfig
) -> tuple[ModelShape, Start]:
    """Sizes and start of a pattern's training.

    Args:
        pattern: one of PATTERNS.
        base: the best weights [S, ...] of the model of sizes `shape`.
        shape: the model's sizes.
        rows: the S rows that were trained to it.
        config: how it grows.
    """
    grown = grown_shape(shape, config.context_factor, config.joint_norm)
    seeds = [row.seed for row in rows]
    if pattern == "longer":
        return shape, Start(base)
    if pattern == "scratch":
        return grown, Start(initial_parameters(grown, seeds, [row.recipe.initialisation for row in rows]), phase=0)
    learns = is_new(shape, grown) if pattern == "freeze" else None
    return grown, Start(grow(base, shape, grown, seeds), learns)


def check_frozen(start: Start, parameters: Parameters) -> None:
    """Raises RuntimeError if an entry that does not learn has changed in any bit."""
    for name, learns in (start.learns or {}).items():
        frozen = ~learns.expand_as(parameters[name])
        if not torch.equal(start.parameters[name][frozen], parameters[name][frozen]):
            raise RuntimeError(f"{name}: a frozen weight has changed")


def seed_figures(
    training: Training, before: Sequence[Score], base: Sequence[RowResult], test: Sequence[Score]
) -> list[dict[str, Any]]:
    """What each seed came to.

    Args:
        training: of a pattern.
        before: of each seed on the validation split, before the first step.
        base: what the seeds' base models came to.
        test: of each seed's best weights on the test split.

    Returns:
        For each seed figures by name; losses in nats, accuracies as fractions.
    """
    best_epochs = {result.seed: result.best_epoch for result in training.results}
    best = {row.seed: row for row in training.curves if row.epoch == best_epochs[row.seed]}
    return [
        asdict(result)
        | {"start_val_loss": first[0], "base_val_loss": before_it.val_loss}
        | {"val_ppl": best[result.seed].val_ppl, "val_accuracy": best[result.seed].val_accuracy}
        | {"test_loss": loss, "test_ppl": math.exp(loss), "test_accuracy": accuracy}
        for result, first, before_it, (loss, accuracy) in zip(training.results, before, base, test, strict=True)
    ]


def grown_shape(shape: ModelShape, factor: int, joint_norm: bool) -> ModelShape:
    """The sizes after growth.

    Args:
        shape: the trained model's sizes.
        factor: of the context's size, 2 or more.
        joint_norm: LayerNorm over the whole context, which changes the function; else over blocks of the old size.
    """
    return replace(shape, context_dim=factor * shape.context_dim, norm_blocks=1 if joint_norm else factor)


def grow(parameters: Parameters, shape: ModelShape, grown: ModelShape, seeds: Sequence[int]) -> Parameters:
    """The parameters [S, ...] of `shape`, grown to `grown`; new rows are drawn from each seed's own stream."""
    result = {}
    streams = [random_stream(seed, "growth", 0) for seed in seeds]
    for name, size in grown.parameter_shapes().items():
        old = parameters[name]
        value = torch.zeros(len(seeds), *size)
        if name in ("update.weight", "forget.weight", "input.weight"):
            for one, stream in zip(value, streams, strict=True):
                one[shape.context_dim :].normal_(0, INITIAL_STD, generator=stream)
        if name == "norm.weight":
            value.fill_(1)
        value.flatten(1)[:, _places(name, shape, grown)] = old.flatten(1)
        result[name] = value
    return result


def is_new(shape: ModelShape, grown: ModelShape) -> Parameters:
    """Which entries growth has added: booleans [1, ...] by the parameters' names."""
    masks = {}
    for name, size in grown.parameter_shapes().items():
        mask = torch.ones(1, *size, dtype=torch.bool)
        mask.flatten(1)[:, _places(name, shape, grown)] = False
        masks[name] = mask
    return masks


def _places(name: str, shape: ModelShape, grown: ModelShape) -> Tensor:
    """Where the old parameter's entries, row by row, are in the grown one: old sizes come first in every dimension."""
    old, new = (torch.Size(one.parameter_shapes()[name]) for one in (shape, grown))
    if name.startswith("norm."):
        return torch.arange(old.numel())  # in one row whatever the blocks
    index = torch.arange(new.numel()).view(new)
    return index[tuple(slice(length) for length in old)].flatten()
