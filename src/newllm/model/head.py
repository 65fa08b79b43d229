"""The output layer with its cross-entropy: logits exist for one seed or less at a time, never for all."""

import torch
from torch import Tensor
from torch.nn.functional import pad

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
        Loss in nats, not scaled, and the number of correct predictions (0 where gradients are asked for), each [S] and
        detached; and the gradients of scale * loss with respect to `hidden` (its shape and type), the weight and the
        bias.
    """
    pieces = pieces_for(hidden)
    hidden = hidden.detach()
    bias = parameters["output.bias"].detach()
    vocabulary_size = bias.shape[1]
    padding = -vocabulary_size % pieces.ALIGNMENT  # columns that no target names and whose probability is 0
    weight = pad(parameters["output.weight"].detach().to(hidden.dtype), (0, 0, 0, padding))
    padded_bias = pad(bias, (0, padding), value=float("-inf"))
    losses, correct = bias.new_zeros(len(hidden)), bias.new_zeros(len(hidden))
    d_hidden = torch.empty_like(hidden) if scale is not None else hidden
    d_weight, d_bias = torch.zeros_like(weight, dtype=bias.dtype), torch.zeros_like(padded_bias)
    for seed in range(len(hidden)):
        rows, d_rows = hidden[seed].flatten(0, 1), d_hidden[seed].flatten(0, 1)
        ids = targets[seed].mT.flatten()
        for start in range(0, len(rows), pieces.CHUNK):
            part = slice(start, start + pieces.CHUNK)
            logits = rows[part] @ weight[seed].mT
            if scale is None:
                row_losses, hits = pieces.losses_and_hits(logits, padded_bias[seed], ids[part], ignored)
                correct[seed] += hits.sum()
            else:
                row_losses, d_logits_sum = pieces.losses_and_gradients_(
                    logits, padded_bias[seed], ids[part], ignored, scale[seed]
                )
                torch.mm(logits, weight[seed], out=d_rows[part])
                d_weight[seed] += logits.mT @ rows[part]
                d_bias[seed] += d_logits_sum
            losses[seed] += row_losses.sum()
    if scale is None:
        return losses, correct, None
    return losses, correct, (d_hidden, d_weight[:, :vocabulary_size], d_bias[:, :vocabulary_size])
