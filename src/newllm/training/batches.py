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


def rows_of_any_batch(order: Tensor, window_lengths: Tensor, batch_size: int, length: int) -> list[int]:
    """How many windows of a batch, longest first, reach each position, in the batch where they are the most.

    Args:
        order: permutations of the windows [S, N], cut into batches from the left.
        window_lengths: of `lengths` [N].
        batch_size: windows a batch.
        length: positions T of a window.

    Returns:
        Counts for the T positions. The host waits for the device.
    """
    positions = torch.arange(length, device=order.device)
    counts = [
        (batch[:, :, None] > positions).sum(1).amax(0) for batch in window_lengths[order].split(batch_size, dim=1)
    ]
    most: list[int] = torch.stack(counts).amax(0).tolist()
    return most
