"""Random streams: every random number is a function of (seed, purpose, index) and of nothing else.

A seed's initialisation, shuffling and dropout therefore do not depend on which seeds are trained beside it, nor on
where a training was interrupted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DECISIONS = 2**16  # a dropout decision takes 16 random bits


def random_stream(seed: int, purpose: str, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose ("initialisation", "shuffling", "dropout") and index (epoch or step)."""
    return torch.Generator(device).manual_seed(_digest(seed, purpose, index) >> 1)


def _digest(seed: int, purpose: str, index: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Dropout:
    """Dropout of hidden units in one training step; a row's kept units are scaled by 1 / (1 - its probability).

    Attributes:
        probabilities: of dropping a unit, one for each row of the stack, applied in multiples of 2^-16.
        masks: for each layer which units to keep [S, T, B, H]; or none, where the kernels draw for themselves from
        keys: two words a row [S, 2],
        steps: the number of each row's training step [S], on the device, so that a captured graph can count it,
        thresholds: a unit is dropped if its 16 random bits are below this number [S], and
        scales: factors of the units that are kept [S].
    """

    probabilities: Sequence[float]
    masks: Sequence[Tensor] = ()
    keys: Tensor | None = None
    steps: Tensor | None = None
    thresholds: Tensor | None = None
    scales: Tensor | None = None

    def of(self, rows: slice) -> "Dropout":
        """The dropout of some rows of the stack."""
        tensors = (self.keys, self.steps, self.thresholds, self.scales)
        return Dropout(
            self.probabilities[rows],
            [mask[rows] for mask in self.masks],
            *(None if tensor is None else tensor[rows] for tensor in tensors),
        )

    def scale_(self, units: Tensor) -> None:
        """Multiplies the units [S, ...] of each row by its scale, in place."""
        for row, probability in zip(units, self.probabilities, strict=True):
            row.mul_(1 / (1 - probability))


def threshold(probability: float) -> int:
    """A unit is dropped with this probability if its 16 random bits are below this number."""
    return min(round(probability * DECISIONS), DECISIONS - 1)


def dropout_keys(seeds: Sequence[int], device: torch.device, phase: int = 0) -> Tensor:
    """The seeds' keys for dropout in the kernels in one of their trainings: two 32-bit words a seed, int32 [S, 2]."""
    words = [_digest(seed, "dropout", phase) for seed in seeds]
    halves = [[word & 0xFFFFFFFF, word >> 32] for word in words]
    return torch.tensor(halves, dtype=torch.int64).to(torch.int32).to(device)


def dropout_masks(
    seeds: Sequence[int],
    steps: Sequence[int],
    size: tuple[int, int, int, int],
    probabilities: Sequence[float],
    device: torch.device,
) -> list[Tensor]:
    """Which hidden units to keep in one training step, drawn by torch's generators.

    Args:
        seeds: of the S rows of the stack.
        steps: each row's training step, counted from 0 over all epochs.
        size: (L, T, B, H): layers, positions, windows, hidden size.
        probabilities: each row's, of dropping a unit, applied in multiples of 2^-16.
        device: where the masks are made; CPU and CUDA streams differ.

    Returns:
        L tensors [S, T, B, H] of int16, 1 where a unit is kept and 0 where not: made and applied ten times as fast as
        booleans on a CPU, whose vectors hold as many of the bits and of half-precision numbers.
    """
    num_layers, length, batch, hidden_size = size
    shape = (len(seeds), length, batch, hidden_size)
    masks = [torch.empty(shape, dtype=torch.int16, device=device) for _ in range(num_layers)]
    count = length * batch * hidden_size
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    for row, (seed, step, probability) in enumerate(zip(seeds, steps, probabilities, strict=True)):
        generator = random_stream(seed, "dropout", step, device)
        signed_threshold = threshold(probability) - DECISIONS // 2
        for mask in masks:
            bits.random_(-(2**63), None, generator=generator)
            torch.ge(bits.view(torch.int16)[:count].view(length, batch, hidden_size), signed_threshold, out=mask[row])
    return masks
