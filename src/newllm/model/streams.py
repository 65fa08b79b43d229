"""Random streams: every random number is a function of (seed, purpose, index) and of nothing else.

A seed's initialisation, shuffling and dropout therefore do not depend on which seeds are trained beside it, nor on
where a training was interrupted.
"""

import hashlib

import torch
from torch import Tensor

_DECISIONS = 2**16  # a dropout decision takes 16 random bits


def random_stream(seed: int, purpose: str, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose ("initialisation", "shuffling", "dropout") and index (epoch or step)."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def dropout_masks(
    seeds: list[int], step: int, size: tuple[int, int, int, int], dropout: float, device: torch.device
) -> list[Tensor]:
    """Which hidden units to keep in one training step.

    Args:
        seeds: the S seeds of the stack.
        step: training step, counted from 0 over all epochs.
        size: (L, T, B, H): layers, positions, windows, hidden size.
        dropout: probability of dropping a unit, applied in multiples of 2^-16.
        device: where the masks are made; CPU and CUDA streams differ.

    Returns:
        L boolean tensors [S, T, B, H], True where a unit is kept.
    """
    num_layers, length, batch, hidden_size = size
    masks = [
        torch.empty(len(seeds), length, batch, hidden_size, dtype=torch.bool, device=device) for _ in range(num_layers)
    ]
    threshold = round(dropout * _DECISIONS) - _DECISIONS // 2
    count = length * batch * hidden_size
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    for index, seed in enumerate(seeds):
        generator = random_stream(seed, "dropout", step, device)
        for mask in masks:
            bits.random_(-(2**63), None, generator=generator)
            torch.ge(bits.view(torch.int16)[:count].view(length, batch, hidden_size), threshold, out=mask[index])
    return masks
