"""Loss and accuracy of stacked models on a split, weighted by token."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from newllm.model.head import cross_entropy
from newllm.model.scan import hidden_states, padded, rows_needed
from newllm.training.batches import lengths

PAD_ID = 0  # targets with this id count nowhere
Batch = tuple[Tensor, list[int]]


def loss_and_accuracy(
    parameters: Mapping[str, Tensor], windows: Tensor, batch_size: int, dtype: torch.dtype, residual: bool = False
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy over all targets of all windows that are not padding, without dropout.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [N, T + 1]; the first T tokens of a window are inputs, the last T targets.
        batch_size: windows at a time.
        dtype: type of the matrix products.
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        Loss in nats and accuracy as a fraction, each [S].
    """
    return of_batches(parameters, batches_by_length(windows, batch_size), dtype, residual)


def batches_by_length(windows: Tensor, batch_size: int) -> list[Batch]:
    """The windows [N, T + 1] in batches, the longest first, each with its `rows_needed`."""
    ordered = windows[lengths(windows, PAD_ID).argsort(descending=True, stable=True)]
    return [(batch, rows_needed(batch[None], PAD_ID)) for batch in ordered.split(batch_size)]


def of_batches(
    parameters: Mapping[str, Tensor], batches: Sequence[Batch], dtype: torch.dtype, residual: bool = False
) -> tuple[Tensor, Tensor]:
    """`loss_and_accuracy` of windows that `batches_by_length` has prepared; nothing here waits for the device."""
    detached = {name: value.detach() for name, value in parameters.items()}
    num_seeds = detached["norm.weight"].shape[0]
    totals = torch.zeros(2, num_seeds, dtype=torch.float64, device=batches[0][0].device)
    with torch.no_grad():
        for batch, needed in batches:
            stacked = padded(batch[None], PAD_ID, dtype).expand(num_seeds, -1, -1)
            hidden = hidden_states(detached, stacked[:, :, :-1], dtype=dtype, residual=residual, needed=needed)
            losses, correct, _ = cross_entropy(detached, hidden, stacked[:, :, 1:], PAD_ID)
            totals += torch.stack([losses, correct])
    loss, accuracy = totals / sum((batch[:, 1:] != PAD_ID).sum() for batch, _ in batches)
    return loss, accuracy
