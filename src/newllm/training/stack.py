"""The parameters of S models in one matrix [S, P], and the optimiser that updates it.

One matrix makes gradient norm, clipping and Adam a handful of operations whatever the number of parameter tensors.
Every operation acts on each row alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from newllm.model.definition import ModelShape, Parameters
from newllm.model.scan import has_triton_for

ALIGNMENT = 64  # elements; 128 bytes in half precision
BETAS = (0.9, 0.999)
EPS = 1e-8


def flatten(tensors: Mapping[str, Tensor], shape: ModelShape) -> Tensor:
    """Puts tensors [S, ...], named as the parameters of `shape`, into one matrix [S, P] of float32 or wider.

    Zeros fill each up to a multiple of `ALIGNMENT`, so that every tensor of every seed starts where a product reads it
    fastest, in half precision too.
    """
    first = next(iter(tensors.values()))
    dtype = torch.promote_types(first.dtype, torch.float32)
    length = sum(_padded(torch.Size(size).numel()) for size in shape.parameter_shapes().values())
    flat = torch.zeros(len(first), length, dtype=dtype, device=first.device)
    for name, place in unflatten(flat, shape).items():
        place.copy_(tensors[name])
    return flat


def unflatten(flat: Tensor, shape: ModelShape) -> Parameters:
    """The parameters [S, ...] as views into a matrix [S, P]."""
    sizes = shape.parameter_shapes()
    lengths = [torch.Size(size).numel() for size in sizes.values()]
    pieces = flat.split([_padded(length) for length in lengths], dim=1)
    return {
        name: piece[:, :length].unflatten(1, size)
        for (name, size), length, piece in zip(sizes.items(), lengths, pieces, strict=True)
    }


def _padded(length: int) -> int:
    return length + -length % ALIGNMENT


def cast(flat: Tensor, shape: ModelShape, dtype: torch.dtype) -> Parameters:
    """The parameters [S, ...] with those of the matrix products in `dtype`, all cast at once."""
    products, full = unflatten(flat.to(dtype), shape), unflatten(flat, shape)
    return products | {name: full[name] for name in ("norm.weight", "norm.bias", "output.bias")}


class Adam:
    """Adam (Kingma and Ba, 2015) without weight decay on a matrix [S, P], with a step count for each row.

    torch.optim.Adam counts steps per tensor: it cannot skip the step of one seed in a stack.
    """

    def __init__(self, flat: Tensor, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat)
        self.steps = flat.new_zeros(flat.shape[0])

    def step(self, flat: Tensor, gradient: Tensor, factor: Tensor, applies: Tensor, rate_factor: Tensor) -> None:
        """Updates the rows of `flat` [S, P] where `applies` [S] is true; the others stay as they are, bit for bit.

        Args:
            flat: the parameters [S, P].
            gradient: [S, P]; may be overwritten.
            factor: of each row's gradient [S].
            applies: which rows to update [S]; the gradients of the others need not be finite.
            rate_factor: of the learning rate, one number.
        """
        self.steps += applies
        steps = self.steps.clamp(min=1)
        rate = self.learning_rate * rate_factor / (1 - BETAS[0] ** steps)
        correction = 1 - BETAS[1] ** steps
        if has_triton_for(flat):
            from newllm.training import adam_kernel  # noqa: PLC0415 (imports Triton)

            means = self.first, self.second
            adam_kernel.update(flat, *means, gradient, factor, applies, rate, correction, BETAS, EPS)
            return
        gradient.mul_(factor[:, None]).masked_fill_(~applies[:, None], 0)
        weight = applies.to(flat.dtype)
        self.first.lerp_(gradient, ((1 - BETAS[0]) * weight)[:, None])
        self.second.lerp_(gradient.square(), ((1 - BETAS[1]) * weight)[:, None])
        denominator = (self.second / correction[:, None]).sqrt_().add_(EPS)
        flat.sub_(self.first.div(denominator).mul_((weight * rate)[:, None]))

    def select(self, rows: Sequence[int]) -> None:
        """Keeps only some rows."""
        self.first, self.second, self.steps = (x[list(rows)] for x in (self.first, self.second, self.steps))


def clipping(norm: Tensor, limit: Tensor | float) -> Tensor:
    """The factor [S] that brings gradients of these norms [S] down to the norm `limit`."""
    return (limit / (norm + 1e-6)).clamp(max=1)
