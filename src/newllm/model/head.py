"""The output layer with its cross-entropy: logits exist for a few thousand positions at a time, never for all."""

from typing import Any

import torch
from torch import Tensor

from newllm.model.definition import Parameters

CHUNK = 16_384  # positions whose logits exist at once


def cross_entropy(
    parameters: Parameters, hidden: Tensor, targets: Tensor, ignored: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the output layer, summed over positions.

    Args:
        parameters: stacked parameters; `output.weight` [S, V, H] and `output.bias` [S, V] are used.
        hidden: last hidden layer [S, T, B, H].
        targets: ids [S, B, T].
        ignored: the target that counts nowhere.
        scale: factor of each seed's loss [S]. It is applied before the gradients are rounded to the type of `hidden`,
            which is what loss scaling is for.

    Returns:
        The scaled loss [S] in nats, differentiable, and the number of correct predictions [S].
    """
    weight, bias = parameters["output.weight"].to(hidden.dtype), parameters["output.bias"]
    losses, correct = _CrossEntropy.apply(hidden, weight, bias, targets, ignored, scale)
    return losses, correct


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, chunk by chunk, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignored: int, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = any(ctx.needs_input_grad[:3])
        losses, correct = torch.zeros_like(scale), torch.zeros_like(scale)
        d_hidden = torch.empty_like(hidden) if wants_gradient else None
        d_weight, d_bias = torch.zeros_like(weight, dtype=bias.dtype), torch.zeros_like(bias)
        for seed in range(hidden.shape[0]):
            rows = hidden[seed].view(-1, hidden.shape[-1])
            ids = targets[seed].mT.flatten().long()
            for start in range(0, rows.shape[0], CHUNK):
                x, y = rows[start : start + CHUNK], ids[start : start + CHUNK]
                logits = (x @ weight[seed].mT).to(bias.dtype) + bias[seed]
                log_probabilities = logits.log_softmax(-1)
                counted = y != ignored
                picked = log_probabilities.gather(1, y[:, None])[:, 0]
                losses[seed] -= picked.mul(counted).sum() * scale[seed]
                correct[seed] += ((logits.argmax(-1) == y) & counted).sum()
                if d_hidden is None:
                    continue
                d_logits = log_probabilities.exp_()
                d_logits.scatter_add_(1, y[:, None], d_logits.new_full((y.shape[0], 1), -1.0))
                d_logits.mul_((counted * scale[seed])[:, None])
                d_bias[seed] += d_logits.sum(0)
                d_logits = d_logits.to(x.dtype)
                torch.mm(d_logits, weight[seed], out=d_hidden[seed].view(rows.shape)[start : start + CHUNK])
                d_weight[seed] += d_logits.mT @ x
        if d_hidden is not None:
            ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype), d_bias)
        ctx.mark_non_differentiable(correct)
        return losses, correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0]
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        factor16 = factor.to(d_hidden.dtype)
        return (
            d_hidden * factor16[:, None, None, None],
            d_weight * factor16[:, None, None],
            d_bias * factor[:, None],
            None,
            None,
            None,
        )
