"""Loss and accuracy against the definition, and the sums that they come from."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.training import evaluation
from newllm.training.evaluation import batches_by_length, loss_and_accuracy

SHAPE = ModelShape(vocabulary_size=20, embedding_dim=8, context_dim=6, hidden_size=12, num_layers=3)


@pytest.fixture
def parameters() -> Parameters:
    """Two seeds with opinions."""
    return {name: v if "norm" in name else 15 * v for name, v in initial_parameters(SHAPE, [4, 7]).items()}


def windows() -> Tensor:
    rows = torch.randint(1, 20, (31, 10), generator=torch.Generator().manual_seed(1))
    for number, row in enumerate(rows):
        row[2 + number % 9 :] = 0
    return rows.int()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("batch_size", [31, 4])
def test_loss_and_accuracy_equal_the_definition(parameters: Parameters, residual: bool, batch_size: int) -> None:
    rows = windows().long()
    outputs = logits(parameters, rows[:, :-1].expand(2, -1, -1), residual=residual)
    counted = rows[:, 1:] != 0
    loss, accuracy = loss_and_accuracy(parameters, windows(), batch_size, torch.float32, residual)
    for seed in range(2):
        expected = cross_entropy(outputs[seed][counted], rows[:, 1:][counted]).item()
        assert loss[seed].item() == pytest.approx(expected, rel=1e-5)
        hits = outputs[seed].argmax(-1)[counted] == rows[:, 1:][counted]
        assert accuracy[seed].item() == pytest.approx(hits.double().mean().item(), rel=1e-12)


def test_batches_have_the_longest_windows_first_and_compute_no_more_than_is_needed() -> None:
    rows = torch.tensor([[2, 5, 0, 0], [2, 5, 6, 7], [2, 0, 0, 0], [2, 6, 0, 0], [2, 5, 5, 0]])
    batches = [(batch.tolist(), needed) for batch, needed in batches_by_length(rows, 2)]
    assert batches == [
        ([[2, 5, 6, 7], [2, 5, 5, 0]], [2, 2, 1]),
        ([[2, 5, 0, 0], [2, 6, 0, 0]], [2, 0, 0]),
        ([[2, 0, 0, 0]], [0, 0, 0]),
    ]


def test_sums_over_batches_are_exact(parameters: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter([2.0**24, 1.0])

    def known(*_: object) -> tuple[Tensor, Tensor, None]:
        value = torch.full((2,), next(sums))
        return value, value, None

    monkeypatch.setattr(evaluation, "cross_entropy", known)
    loss, accuracy = loss_and_accuracy(parameters, torch.tensor([[2, 5], [2, 6]]), 1, torch.float32)
    assert loss.tolist() == accuracy.tolist() == [(2**24 + 1) / 2] * 2
