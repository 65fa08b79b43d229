"""The order of an epoch's windows."""

import torch
from torch import Tensor


def lengths(windows: Tensor, ignored: int) -> Tensor:
    """How many positions of each window [N, T + 1] there are up to its last target that counts: [N]."""
    places = torch.arange(windows.shape[1], device=windows.device)
    return torch.where(windows != ignored, places, 0).amax(1)


def longest_first(order: Tensor, window_lengths: Tensor, batch_size: int) -> Tensor:
    """The same batches with their longest windows first, so that short ones are at an end where nothing is computed.

    Args:
        order: a permutation of the windows for each seed [S, N], cut into batches from the left.
        window_lengths: of `lengths` [N].
        batch_size: windows a batch.

    Returns:
        Permutations [S, N]; windows of one length keep their order.
    """
    batch = torch.arange(order.shape[1], device=order.device) // batch_size
    shortest_last = batch * (int(window_lengths.max()) + 1) - window_lengths[order]
    return order.gather(1, shortest_last.argsort(dim=1, stable=True))
