"""Loss and accuracy of stacked models on a split, weighted by token."""

from collections.abc import Mapping

import torch
from torch import Tensor

from newllm.model.head import cross_entropy
from newllm.model.scan import hidden_states, padded, rows_needed

PAD_ID = 0  # targets with this id count nowhere


def loss_and_accuracy(
    parameters: Mapping[str, Tensor],
    windows: Tensor,
    batch_size: int,
    dtype: torch.dtype,
    residual: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy over all targets of all windows that are not padding, without dropout.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [N, T + 1]; the first T tokens of a window are inputs, the last T targets.
        batch_size: windows at a time.
        dtype: type of the matrix products.
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        Loss in nats and accuracy as a fraction, each [S], on the device: nothing here waits for it.
    """
    detached = {name: value.detach() for name, value in parameters.items()}
    num_seeds = detached["norm.weight"].shape[0]
    totals = torch.zeros(2, num_seeds, dtype=torch.float64, device=windows.device)
    with torch.no_grad():
        for batch in windows.split(batch_size):
            stacked = padded(batch[None], PAD_ID, dtype).expand(num_seeds, -1, -1)
            needed = rows_needed(stacked, PAD_ID)
            hidden = hidden_states(detached, stacked[:, :, :-1], dtype=dtype, residual=residual, needed=needed)
            losses, correct, _ = cross_entropy(detached, hidden, stacked[:, :, 1:], PAD_ID)
            totals += torch.stack([losses, correct])
    loss, accuracy = totals / (windows[:, 1:] != PAD_ID).sum()
    return loss, accuracy
