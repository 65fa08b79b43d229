"""Losses and gradients of a stack of seeds on one batch: the whole of what training computes of the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from newllm.model.definition import Parameters
from newllm.model.head import cross_entropy
from newllm.model.scan import hidden_states, padded, rows_needed
from newllm.model.streams import Dropout


def losses_and_gradients(
    parameters: Parameters,
    windows: Tensor,
    ignored: int,
    scale: Tensor,
    dropout: Dropout | None = None,
    dtype: torch.dtype = torch.float32,
    residual: bool = False,
    needed: Sequence[int] | None = None,
) -> tuple[Tensor, Parameters]:
    """Cross-entropy summed over the targets, and the gradients of scale * loss.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [S, B, T + 1]; the first T tokens of a window are inputs, the last T targets.
        ignored: the target that counts nowhere.
        scale: factor of each seed's gradients [S].
        dropout: which hidden units to drop; None: no dropout.
        dtype: type of the matrix products.
        residual: whether hidden layers from the second on add to the one before.
        needed: for each position as many windows as `rows_needed` says or more; the others are not computed there.
            None: as many as it says on a CPU, all elsewhere, where the host would wait for the device.

    Returns:
        Loss of each seed in nats, not scaled [S], and gradients by the parameters' names [S, ...].
    """
    windows = padded(windows, ignored, dtype)
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.enable_grad():
        if needed is None and windows.is_cpu:
            needed = rows_needed(windows, ignored)
        hidden = hidden_states(leaves, windows[:, :, :-1], dropout, dtype, residual, needed)
    losses, _, head = cross_entropy(leaves, hidden, windows[:, :, 1:], ignored, scale)
    assert head is not None  # noqa: S101 (a scale was given)
    names = [name for name in leaves if not name.startswith("output.")]
    values = torch.autograd.grad(_Loss.apply(hidden, head[0]), [leaves[name] for name in names])
    gradients = dict(zip(names, values, strict=True))
    return losses, gradients | {"output.weight": head[1], "output.bias": head[2]}


class _Loss(torch.autograd.Function):
    """Stands for a loss whose gradient with respect to its argument is known.

    `torch.autograd.grad` would take it as `grad_outputs`, but then imports SymPy, which takes up to two seconds.
    """

    @staticmethod
    def forward(ctx: Any, argument: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return argument.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0], None
