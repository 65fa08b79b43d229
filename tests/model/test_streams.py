"""Random streams against BLAKE2b by another program, and dropout against the bits that it is drawn from."""

import pytest
import torch

from newllm.model.streams import Dropout, dropout_keys, dropout_masks, random_stream, threshold

CPU = torch.device("cpu")


def test_streams_are_a_function_of_seed_purpose_and_index() -> None:
    generator = random_stream(3, "shuffling", 5)
    # printf 3/shuffling/5 | b2sum -l 64 gives f66c40606ffd3ca0: a number from its lowest byte on, halved
    assert generator.initial_seed() == 0xA03CFD6F60406CF6 // 2
    for other in ((4, "shuffling", 5), (3, "dropout", 5), (3, "shuffling", 6)):
        assert random_stream(*other).initial_seed() != generator.initial_seed()


def test_keys_are_the_two_words_of_the_same_digest() -> None:
    # printf 0/dropout/2 | b2sum -l 64, and of seed 3, as signed words from their lowest bytes on
    digests = ["77a4a1d22f6e3496", "3ffc7feb45967f84"]
    words = [
        [int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4)]
        for digest in map(bytes.fromhex, digests)
    ]
    keys = dropout_keys([0, 3], CPU, 2)
    assert keys.dtype == torch.int32
    assert keys.tolist() == words


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.0, 0), (0.1, 6554), (0.5, 32_768), (0.75, 49_152), (0.999999, 65_535), (1.0, 65_535)],
)
def test_thresholds(probability: float, expected: int) -> None:
    assert threshold(probability) == expected


def test_masks_keep_units_whose_16_bits_reach_the_threshold() -> None:
    seeds, steps, probabilities = [5, 2], [7, 0], [0.1, 0.75]
    masks = dropout_masks(seeds, steps, (2, 3, 2, 5), probabilities, CPU)
    assert [mask.dtype for mask in masks] == [torch.int16] * 2
    for row, (seed, step, bound) in enumerate(zip(seeds, steps, (6554, 49_152), strict=True)):
        stream = random_stream(seed, "dropout", step)
        for mask in masks:  # of 30 units, in 8 numbers of 64 bits
            bits = torch.empty(8, dtype=torch.int64).random_(-(2**63), None, generator=stream).view(torch.int16)[:30]
            assert mask[row].flatten().tolist() == [int(number + 32_768 >= bound) for number in bits.tolist()]


def test_the_dropout_of_some_rows() -> None:
    tensors = [torch.arange(6).view(3, 2), *(torch.arange(3) + 10 * number for number in range(3))]
    masks = [torch.arange(3) + 100 * layer for layer in range(2)]
    found = Dropout([0.1, 0.2, 0.3], masks, *tensors).of(slice(1, 3))
    assert found.probabilities == [0.2, 0.3]
    assert [mask.tolist() for mask in found.masks] == [[1, 2], [101, 102]]
    of_rows = (found.keys, found.steps, found.thresholds, found.scales)
    assert [None if t is None else t.tolist() for t in of_rows] == [[[2, 3], [4, 5]], [1, 2], [11, 12], [21, 22]]
    assert Dropout([0.1, 0.2]).of(slice(1)) == Dropout([0.1], [])
