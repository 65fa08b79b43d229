"""Random streams: every random number is a function of (seed, purpose, index) and of nothing else.

A seed's initialisation, shuffling and dropout therefore do not depend on which seeds are trained beside it, nor on
where a training was interrupted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    """Dropout of hidden units in one training step; kept units are scaled by 1 / (1 - probability).

    Attributes:
        probability: of dropping a unit, applied in multiples of 2^-16.
        masks: for each layer which units to keep [S, T, B, H]; or none, where the kernels draw for themselves from
        keys: two words a seed [S, 2], and
        step: the number of the training step [1], on the device, so that a captured graph can count it.
    """

    probability: float
    masks: Sequence[Tensor] = field(default=())
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    step: Tensor = field(default_factory=lambda: torch.empty(0))

    def of(self, seeds: slice) -> "Dropout":
        """The dropout of some seeds of the stack."""
        return Dropout(self.probability, [mask[seeds] for mask in self.masks], self.keys[seeds], self.step)

    @property
    def threshold(self) -> int:
        """A unit is dropped if its 16 random bits are below this number."""
        return _threshold(self.probability)

    @property
    def scale(self) -> float:
        """Factor of the units that are kept."""
        return 1 / (1 - self.probability)


def _threshold(probability: float) -> int:
    return min(round(probability * DECISIONS), DECISIONS - 1)


def dropout_keys(seeds: Sequence[int], device: torch.device, phase: int = 0) -> Tensor:
    """The seeds' keys for dropout in the kernels in one of their trainings: two 32-bit words a seed, int32 [S, 2]."""
    words = [_digest(seed, "dropout", phase) for seed in seeds]
    halves = [[word & 0xFFFFFFFF, word >> 32] for word in words]
    return torch.tensor(halves, dtype=torch.int64).to(torch.int32).to(device)


def dropout_masks(
    seeds: Sequence[int], step: int, size: tuple[int, int, int, int], probability: float, device: torch.device
) -> list[Tensor]:
    """Which hidden units to keep in one training step, drawn by torch's generators.

    Args:
        seeds: the S seeds of the stack.
        step: training step, counted from 0 over all epochs.
        size: (L, T, B, H): layers, positions, windows, hidden size.
        probability: of dropping a unit, applied in multiples of 2^-16.
        device: where the masks are made; CPU and CUDA streams differ.

    Returns:
        L tensors [S, T, B, H] of int16, 1 where a unit is kept and 0 where not: made and applied ten times as fast as
        booleans on a CPU, whose vectors hold as many of the bits and of half-precision numbers.
    """
    num_layers, length, batch, hidden_size = size
    shape = (len(seeds), length, batch, hidden_size)
    masks = [torch.empty(shape, dtype=torch.int16, device=device) for _ in range(num_layers)]
    threshold = _threshold(probability) - DECISIONS // 2  # as a signed number
    count = length * batch * hidden_size
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    for index, seed in enumerate(seeds):
        generator = random_stream(seed, "dropout", step, device)
        for mask in masks:
            bits.random_(-(2**63), None, generator=generator)
            torch.ge(bits.view(torch.int16)[:count].view(length, batch, hidden_size), threshold, out=mask[index])
    return masks
