"""The output layer with its cross-entropy: logits exist for one seed or less at a time, never for all."""

import torch
from torch import Tensor

from newllm.model.definition import Parameters
from newllm.model.scan import pieces_for

HeadGradients = tuple[Tensor, Tensor, Tensor]


def cross_entropy(
    parameters: Parameters, hidden: Tensor, targets: Tensor, ignored: int, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, HeadGradients | None]:
    """Cross-entropy of the output layer summed over positions, with its gradients while the logits are there.

    Args:
        parameters: stacked parameters; `output.weight` [S, V, H] and `output.bias` [S, V] are used.
        hidden: last hidden layer [S, T, B, H].
        targets: ids [S, B, T].
        ignored: the target that counts nowhere.
        scale: factor of each seed's gradients [S], applied before they are rounded to the type of `hidden`, which is
            what loss scaling is for. None: no gradients.

    Returns:
        Loss in nats, not scaled, and the number of correct predictions, each [S] and detached; and the gradients of
        scale * loss with respect to `hidden` (its shape and type), the weight and the bias.
    """
    pieces = pieces_for(hidden)
    weight = parameters["output.weight"].detach().to(hidden.dtype)
    bias = parameters["output.bias"].detach()
    hidden = hidden.detach()
    losses, correct = bias.new_zeros(len(hidden)), bias.new_zeros(len(hidden))
    d_hidden = torch.empty_like(hidden) if scale is not None else None
    d_weight, d_bias = torch.zeros_like(weight, dtype=bias.dtype), torch.zeros_like(bias)
    factors = torch.ones_like(losses) if scale is None else scale
    for seed in range(len(hidden)):
        rows = hidden[seed].view(-1, hidden.shape[-1])
        ids = targets[seed].mT.flatten()
        for start in range(0, len(rows), pieces.CHUNK):
            part = slice(start, start + pieces.CHUNK)
            logits = rows[part] @ weight[seed].mT
            row_losses, hits = pieces.cross_entropy_rows(
                logits, bias[seed], ids[part], ignored, factors[seed], gradient=scale is not None
            )
            losses[seed] += row_losses.sum()
            correct[seed] += hits.sum()
            if d_hidden is not None:
                torch.mm(logits, weight[seed], out=d_hidden[seed].view(rows.shape)[part])
                d_weight[seed] += logits.mT @ rows[part]
                d_bias[seed] += pieces.column_sums(logits[None, None], bias.dtype)[0]
    return losses, correct, None if d_hidden is None else (d_hidden, d_weight, d_bias)
