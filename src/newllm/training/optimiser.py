"""The parameters of S models in one matrix [S, P], and all that updates it: Adam, its rates, clipping, loss scaling.

One matrix makes gradient norm, clipping and Adam a handful of operations whatever the number of parameter tensors.
Every operation acts on each row alone, on the device: the host never waits to learn of an overflow.
"""

import math
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

    def __init__(self, flat: Tensor) -> None:
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat)
        self.steps = flat.new_zeros(flat.shape[0])

    def step(self, flat: Tensor, gradient: Tensor, factor: Tensor, applies: Tensor, rate: Tensor) -> None:
        """Updates the rows of `flat` [S, P] where `applies` [S] is true; the others stay as they are, bit for bit.

        Args:
            flat: the parameters [S, P].
            gradient: [S, P]; may be overwritten.
            factor: of each row's gradient [S].
            applies: which rows to update [S]; the gradients of the others need not be finite.
            rate: each row's learning rate [S].
        """
        self.steps += applies
        steps = self.steps.clamp(min=1)
        rate = rate / (1 - BETAS[0] ** steps)
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


def clipping(norm: Tensor, limit: Tensor | float) -> Tensor:
    """The factor [S] that brings gradients of these norms [S] down to the norms `limit`, one number or [S]."""
    return (limit / (norm + 1e-6)).clamp(max=1)


INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000  # steps without overflow after which the scale doubles
SMALLEST_SCALE = 2.0**-14  # an overflow that even this scale does not cure is no matter of range


class LossScaler:
    """Loss scales [S] that halve at an overflow and double after a long run without one; fixed at 1 if not enabled."""

    def __init__(self, num_seeds: int, device: torch.device, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = torch.full((num_seeds,), INITIAL_SCALE if enabled else 1.0, device=device)
        self.streak = torch.zeros(num_seeds, device=device)

    def update(self, finite: Tensor) -> Tensor:
        """Adapts the scales to whether each seed's gradients were finite [S]; returns where no scale can help [S]."""
        if not self.enabled:
            return ~finite
        incurable = ~finite & (self.scale <= SMALLEST_SCALE)
        self.streak.add_(1).masked_fill_(~finite, 0)
        grows = self.streak >= GROWTH_INTERVAL
        self.streak.masked_fill_(grows, 0)
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5))
        return incurable


def scaled_learning_rate(base_rate: float, batch_size: int, base_batch_size: int) -> float:
    """The square-root rule: the base rate times the square root of the relative batch size."""
    return base_rate * math.sqrt(batch_size / base_batch_size)


def max_gradient_norm(schedule: Sequence[Sequence[float]], epoch: int) -> float:
    """The clipping threshold of an epoch (counted from 1) from entries [from epoch, largest norm] in their order."""
    return [norm for start, norm in schedule if start <= epoch][-1]


def rate_factor(steps: Tensor, warmup_steps: Tensor, decay_steps: Tensor) -> Tensor:
    """The factor of each row's learning rate in its training step.

    It grows linearly to 1 over the warm-up, and falls linearly from there so that it would be 0 after `decay_steps`.

    Args:
        steps: training steps, counted from 0 [S].
        warmup_steps: [S]; 0: none.
        decay_steps: from the warm-up's end [S]; infinite: none.
    """
    rising = (steps + 1) / warmup_steps.clamp(min=1)
    falling = 1 - (steps - warmup_steps) / decay_steps
    return torch.minimum(rising, falling).clamp(0, 1)
