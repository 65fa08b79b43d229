"""The diagnostics against slow, obvious computations by the definition."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.measurement import diagnostics
from newllm.measurement.diagnostics import (
    context_gains,
    gradient_norms,
    overlapping,
    sample_windows,
    seed_diagnostics,
    target_losses,
    targets_by_position,
)
from newllm.model import plain
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.streams import random_stream
from newllm.training.evaluation import loss_and_accuracy

SHAPE = ModelShape(vocabulary_size=20, embedding_dim=8, context_dim=6, hidden_size=12, num_layers=3)
SEEDS = [4, 7]
STRIDE = 3
PAD, UNK, BOS, EOS = 0, 1, 2, 3


def windows(count: int, seed: int) -> Tensor:
    """Every third window short and padded, every third the beginning of a long row, every third from within one."""
    rows = torch.randint(3, 20, (count, 10), generator=torch.Generator().manual_seed(seed))
    rows[:, 1:][torch.rand(count, 9, generator=torch.Generator().manual_seed(seed + 1)) < 0.3] = UNK
    rows[::3, 0] = rows[1::3, 0] = BOS
    for number, row in enumerate(rows[::3]):
        row[4 + number % 6 :] = PAD
    return rows.int()


TRAIN, VALIDATION = windows(70, 1), windows(31, 2)


@pytest.fixture
def parameters() -> Parameters:
    """Large enough that seeds, positions and layers differ."""
    return {name: value if "norm" in name else 15 * value for name, value in initial_parameters(SHAPE, SEEDS).items()}


@pytest.fixture
def figures(parameters: Parameters) -> list[dict]:
    return seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, VALIDATION), STRIDE, 8, torch.float32)


def losses_by_definition(
    parameters: Parameters, seed: int, rows: Tensor, residual: bool = False
) -> dict[tuple[int, int], float]:
    """The loss of every target of a seed by window and position, 1 for the first target."""
    losses = {}
    for number, row in enumerate(rows.long()):
        one = {name: value[seed : seed + 1] for name, value in parameters.items()}
        outputs = logits(one, row[None, None, :-1], residual=residual)[0, 0]
        for position in range(1, len(row)):
            if row[position] != PAD:
                losses[number, position] = cross_entropy(outputs[position - 1], row[position]).item()
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_equal_the_definition(parameters: Parameters, figures: list[dict], seed: int) -> None:
    found = figures[seed]
    train = mean(list(losses_by_definition(parameters, seed, TRAIN).values()))
    losses = losses_by_definition(parameters, seed, VALIDATION)
    known = mean([loss for (row, t), loss in losses.items() if VALIDATION[row, t] != UNK])
    assert found["seed"] == SEEDS[seed]
    assert found["train_loss_without_dropout"] == pytest.approx(train, rel=1e-5)
    assert found["val_loss"] == pytest.approx(mean(list(losses.values())), rel=1e-5)
    assert found["gap"] == pytest.approx(found["val_loss"] - train, abs=1e-5)
    assert found["val_loss_without_unk"] == pytest.approx(known, rel=1e-5)
    assert found["val_ppl_without_unk"] == pytest.approx(math.exp(known), rel=1e-4)
    assert abs(known - found["val_loss"]) > 1e-3
    groups = {
        "": range(len(VALIDATION)),
        "_full_windows": [n for n, row in enumerate(VALIDATION) if row[-1] != PAD],
    }
    assert [len(group) for group in groups.values()] == [31, 20]
    for name, group in groups.items():
        expected = [mean([losses[n, t] for n in group if (n, t) in losses]) for t in range(1, 10)]
        assert found[f"val_loss_by_position{name}"] == pytest.approx(expected, rel=1e-5), name
        counts = [sum((n, t) in losses for n in group) for t in range(1, 10)]
        assert targets_by_position(VALIDATION)[f"targets_by_position{name}"] == counts


def cut(stride: int, lengths: Sequence[int] = (3, 26, 8, 9, 40, 13, 12, 31)) -> tuple[Tensor, list[tuple[int, int]]]:
    """Windows of ten tokens of rows of so many words, as the tokenize stage cuts them; the row of each and its start.

    The words repeat, so that neighbours of different rows look alike.
    """
    windows, places = [], []
    for number, length in enumerate(lengths):
        row = [BOS, *(4 + (word * word + length) % 7 for word in range(length)), EOS]
        row += [PAD] * (10 - len(row))
        for start in range(0, len(row) - 9, stride):
            windows.append(row[start : start + 10])
            places.append((number, start))
    return torch.tensor(windows).int(), places


@pytest.mark.parametrize("stride", [1, 3, 4, 7, 8])
def test_gain_is_of_the_same_tokens(parameters: Parameters, stride: int) -> None:
    """Every token of a row that two neighbouring windows predict, found by its place in the row."""
    rows, places = cut(stride)
    found = seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, rows), stride, 8, torch.float32)
    for seed in (0, 1):
        losses = losses_by_definition(parameters, seed, rows)
        gains: dict[int, list[float]] = {}
        for number, (row, start) in enumerate(places):
            if (row, start - stride) not in places:
                continue
            before = places.index((row, start - stride))
            for position in range(1, 10):
                if position + stride < 10:
                    assert rows[number, position] == rows[before, position + stride]
                    gain = losses[number, position] - losses[before, position + stride]
                    gains.setdefault(position, []).append(gain)
        assert len(overlapping(rows, stride)) == len(gains[1]) > 3
        expected = [mean(gains[position]) for position in range(1, 10 - stride)]
        assert found[seed]["context_gain_by_position"] == pytest.approx(expected, abs=1e-5)
        assert max(map(abs, expected)) > 1e-3


def test_without_overlap_there_is_no_gain(parameters: Parameters) -> None:
    for stride in (9, 10, 11):  # of 10 tokens 9 are targets
        rows, _ = cut(stride)
        found = seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, rows), stride, 8, torch.float32)
        assert [seed["context_gain_by_position"] for seed in found] == [[], []]
        assert len(overlapping(rows, stride)) == 0
    rows, _ = cut(3, [3, 8, 7])  # no row is longer than a window
    assert len(overlapping(rows, 3)) == 0
    assert context_gains(torch.zeros(2, len(rows), 9), rows, 3) == [[], []]
    assert len(overlapping(rows[:1], 3)) == 0
    assert len(overlapping(cut(3)[0], 4)) == 0, "the windows were cut at another stride"


def test_losses_by_position_sum_up_to_that_of_evaluation(parameters: Parameters, figures: list[dict]) -> None:
    expected, _ = loss_and_accuracy(parameters, VALIDATION, 8, torch.float32)
    counts = targets_by_position(VALIDATION)["targets_by_position"]
    assert counts[0] > counts[-1] > 0
    for seed, loss in zip(figures, expected.tolist(), strict=True):
        total = sum(mean * count for mean, count in zip(seed["val_loss_by_position"], counts, strict=True))
        assert total / sum(counts) == pytest.approx(loss, rel=1e-6)
        assert seed["val_loss"] == pytest.approx(loss, rel=1e-6)


def test_losses_do_not_depend_on_batches_and_chunks(parameters: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = target_losses(parameters, VALIDATION, 100, torch.float32)
    assert whole.shape == (2, 31, 9)
    assert torch.equal(whole == 0, (VALIDATION[:, 1:] == PAD).expand(2, -1, -1))
    monkeypatch.setattr(plain, "CHUNK", 5)  # of 63 positions and a last batch of 27
    torch.testing.assert_close(target_losses(parameters, VALIDATION, 7, torch.float32), whole)


def test_padding_rows_and_columns_of_the_kernels_count_nowhere(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = target_losses(parameters, VALIDATION, 7, torch.float32)
    monkeypatch.setattr(plain, "ROW_MULTIPLE", 4)
    monkeypatch.setattr(plain, "ALIGNMENT", 64)
    torch.testing.assert_close(target_losses(parameters, VALIDATION, 7, torch.float32), expected)


def test_a_position_without_targets_has_no_loss(parameters: Parameters) -> None:
    padded = VALIDATION[::3]
    for seed in seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, padded), STRIDE, 8, torch.float32):
        assert seed["val_loss_by_position"][-1] is None
        assert seed["val_loss_by_position"][0] > 0
        assert seed["val_loss_by_position_full_windows"] == [None] * 9


def norms_by_autograd(parameters: Parameters, seed: int, rows: Tensor, residual: bool = False) -> dict[str, float]:
    leaves = {name: value[seed : seed + 1].clone().requires_grad_() for name, value in parameters.items()}
    outputs = logits(leaves, rows[None, :, :-1].long(), residual=residual)[0]
    cross_entropy(outputs.flatten(0, 1), rows[:, 1:].flatten().long(), ignore_index=PAD).backward()
    norms = {name: value.grad.norm().item() for name, value in leaves.items() if value.grad is not None}
    return {name: norm for name, norm in norms.items() if name.endswith(".weight") and name != "norm.weight"}


@pytest.mark.parametrize("part", [16, 256])
def test_gradients_equal_those_of_the_definition(
    parameters: Parameters, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(diagnostics, "GRADIENT_PART", part)  # parts with different numbers of targets
    found = gradient_norms(parameters, TRAIN)
    for seed in (0, 1):
        expected = norms_by_autograd(parameters, seed, TRAIN)
        assert found[seed].keys() == expected.keys()
        assert {"embedding.weight", "hidden.1.weight", "hidden.3.weight", "forget.weight"} <= expected.keys()
        assert found[seed] == pytest.approx(expected, rel=1e-4)


def test_gradients_are_those_at_the_first_and_at_the_best_parameters(
    parameters: Parameters, figures: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, seed in enumerate(SEEDS):
        initial = norms_by_autograd(initial_parameters(SHAPE, [seed]), 0, TRAIN)
        assert figures[index]["gradient_norms"]["initial"] == pytest.approx(initial, rel=1e-4)
        assert figures[index]["gradient_norms"]["best"] == pytest.approx(
            norms_by_autograd(parameters, index, TRAIN), rel=1e-4
        )
    monkeypatch.setattr(diagnostics, "GRADIENT_WINDOWS", 20)
    first = seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, VALIDATION), STRIDE, 8, torch.float32)[0][
        "gradient_norms"
    ]
    assert first["best"] == pytest.approx(norms_by_autograd(parameters, 0, TRAIN[:20]), rel=1e-4)


def test_residual_connections_are_part_of_the_model(parameters: Parameters) -> None:
    shape = replace(SHAPE, residual=True)
    found = seed_diagnostics(shape, parameters, SEEDS, (TRAIN, VALIDATION), STRIDE, 8, torch.float32)
    for index, seed in enumerate(SEEDS):
        for name, rows in (("train_loss_without_dropout", TRAIN), ("val_loss", VALIDATION)):
            losses = losses_by_definition(parameters, index, rows, residual=True)
            assert found[index][name] == pytest.approx(mean(list(losses.values())), rel=1e-5)
        initial = norms_by_autograd(initial_parameters(SHAPE, [seed]), 0, TRAIN, residual=True)
        best = norms_by_autograd(parameters, index, TRAIN, residual=True)
        assert found[index]["gradient_norms"]["initial"] == pytest.approx(initial, rel=1e-4)
        assert found[index]["gradient_norms"]["best"] == pytest.approx(best, rel=1e-4)


def test_gradients_are_in_float32_whatever_the_losses_are_in(parameters: Parameters, figures: list[dict]) -> None:
    half = seed_diagnostics(SHAPE, parameters, SEEDS, (TRAIN, VALIDATION), STRIDE, 8, torch.bfloat16)
    for found, expected in zip(half, figures, strict=True):
        assert found["gradient_norms"] == expected["gradient_norms"]
        for name in ("val_loss", "train_loss_without_dropout", "val_loss_without_unk"):
            assert found[name] == pytest.approx(expected[name], rel=1e-2)
            assert found[name] != expected[name]


def test_the_sample_is_fixed_and_without_repetition() -> None:
    numbered = torch.arange(1000)[:, None]
    sample = sample_windows(numbered, 300).flatten().tolist()
    assert len(set(sample)) == 300
    assert max(sample) > 900, "from everywhere"
    assert min(sample) < 100
    assert sample == torch.randperm(1000, generator=random_stream(0, "diagnostics", 0))[:300].tolist()
    assert sample_windows(numbered, 100).flatten().tolist() == sample[:100]
    assert len(sample_windows(numbered, 2000)) == 1000


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 3e-3)])
def test_a_gpu_finds_the_same(
    figures: list[dict], parameters: Parameters, dtype: torch.dtype, tolerance: float
) -> None:
    on_gpu = {name: value.cuda() for name, value in parameters.items()}
    found = seed_diagnostics(SHAPE, on_gpu, SEEDS, (TRAIN.cuda(), VALIDATION.cuda()), STRIDE, 8, dtype)
    for gpu, cpu in zip(found, figures, strict=True):
        for name, value in cpu.items():
            if name == "gradient_norms":
                for point in ("initial", "best"):
                    assert gpu[name][point] == pytest.approx(value[point], rel=1e-3)
            elif name != "gap":
                assert gpu[name] == pytest.approx(value, rel=tolerance if name != "val_ppl_without_unk" else 2e-2), name
