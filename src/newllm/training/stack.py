"""The parameters of S models in one matrix [S, P], and the optimiser that updates it.

One matrix makes gradient norm, clipping and Adam a handful of operations whatever the number of parameter tensors.
Every operation acts on each row alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from newllm.model.definition import ModelShape, Parameters

BETAS = (0.9, 0.999)
EPS = 1e-8


def flatten(tensors: Mapping[str, Tensor], shape: ModelShape) -> Tensor:
    """Puts tensors [S, ...], named as the parameters of `shape`, into one matrix [S, P]."""
    return torch.cat([tensors[name].flatten(1) for name in shape.parameter_shapes()], dim=1)


def unflatten(flat: Tensor, shape: ModelShape) -> Parameters:
    """The parameters [S, ...] as views into a matrix [S, P]."""
    sizes = shape.parameter_shapes()
    pieces = flat.split([torch.Size(size).numel() for size in sizes.values()], dim=1)
    return {name: piece.unflatten(1, size) for (name, size), piece in zip(sizes.items(), pieces, strict=True)}


class Adam:
    """Adam (Kingma and Ba, 2015) without weight decay on a matrix [S, P], with a step count for each row.

    torch.optim.Adam counts steps per tensor: it cannot skip the step of one seed in a stack.
    """

    def __init__(self, flat: Tensor, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat)
        self.steps = flat.new_zeros(flat.shape[0])

    def step(self, flat: Tensor, gradient: Tensor, applies: Tensor) -> None:
        """Updates the rows of `flat` [S, P] where `applies` [S] is true; the others stay as they are, bit for bit.

        The gradient's rows that do not apply must be finite.
        """
        weight = applies.to(flat.dtype)
        self.steps += weight
        steps = self.steps.clamp(min=1)
        self.first.lerp_(gradient, ((1 - BETAS[0]) * weight)[:, None])
        self.second.lerp_(gradient.square(), ((1 - BETAS[1]) * weight)[:, None])
        denominator = (self.second / (1 - BETAS[1] ** steps)[:, None]).sqrt_().add_(EPS)
        rate = weight * self.learning_rate / (1 - BETAS[0] ** steps)
        flat.sub_(self.first.div(denominator).mul_(rate[:, None]))

    def select(self, rows: Sequence[int]) -> None:
        """Keeps only some rows."""
        self.first, self.second, self.steps = (x[list(rows)] for x in (self.first, self.second, self.steps))


def clip_(gradient: Tensor, norm: Tensor, limit: Tensor | float) -> None:
    """Scales each row of `gradient` [S, P] down to the norm `limit`, given its `norm` [S]; clears rows not finite."""
    factor = (limit / (norm + 1e-6)).clamp(max=1)
    gradient.mul_(factor[:, None])
    gradient.masked_fill_(~norm.isfinite()[:, None], 0)
