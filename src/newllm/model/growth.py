"""Growing the context vector of trained models: the same function at first, with room to learn more.

The grown context is the old one followed by new dimensions. The columns of W1 that read the new dimensions start at
zero, so nothing depends on them yet; the rows of the update and of the gates that write them start as small random
numbers, so that gradients reach those columns. LayerNorm normalises blocks of the old size each on its own: over all
dimensions at once the new ones would change the old ones' scale.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from newllm.model.definition import INITIAL_STD, ModelShape, Parameters
from newllm.model.streams import random_stream


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
