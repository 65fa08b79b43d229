"""Adam, clipping, loss scaling and early stopping, each against torch or by hand."""

import math

import pytest
import torch

from newllm.model.definition import ModelShape, initial_parameters
from newllm.training.batches import lengths, longest_first, rows_of_any_batch
from newllm.training.optimiser import (
    ALIGNMENT,
    INITIAL_SCALE,
    SMALLEST_SCALE,
    Adam,
    LossScaler,
    clipping,
    flatten,
    max_gradient_norm,
    rate_factor,
    scaled_learning_rate,
    unflatten,
)
from newllm.training.rows import EarlyStopping

CPU = torch.device("cpu")


def test_flatten_and_back() -> None:
    shape = ModelShape(11, 5, 4, 6, 2)
    parameters = initial_parameters(shape, [0, 1])
    flat = flatten(parameters, shape)
    assert flat.shape[1] % ALIGNMENT == 0
    assert (flat != 0).sum() == sum((value != 0).sum() for value in parameters.values())
    views = unflatten(flat, shape)
    assert all(view.storage_offset() % ALIGNMENT == 0 for view in views.values())
    assert all(torch.equal(views[name], value) for name, value in parameters.items())
    views["output.bias"].fill_(3)
    assert (flat == 3).sum() == 2 * 11


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_adam_and_clipping_equal_torch(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(3, 50, generator=generator).to(device)
    references = [torch.nn.Parameter(row.clone()) for row in flat]
    optimizers = [torch.optim.Adam([row], lr=0.01) for row in references]
    adam = Adam(flat)
    for step in range(40):
        gradient = (torch.randn(3, 50, generator=generator) * 10 ** (step % 5 - 3)).to(device)
        for reference, optimizer, row in zip(references, optimizers, gradient, strict=True):
            reference.grad = row.clone()
            torch.nn.utils.clip_grad_norm_([reference], 0.5)
            optimizer.step()
        applies = torch.ones(3, dtype=torch.bool, device=device)
        norm = gradient.norm(dim=1)
        adam.step(flat, 8 * gradient, clipping(norm, 0.5) / 8, applies, torch.full((3,), 0.01, device=device))
    for row, reference in zip(flat, references, strict=True):
        torch.testing.assert_close(row, reference.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_skipped_step_changes_only_nothing(device: str) -> None:
    flat = torch.randn(2, 20, generator=torch.Generator().manual_seed(1)).to(device)
    alone = flat[1:].clone()
    adam, adam_alone = Adam(flat), Adam(alone)
    for step in range(6):
        gradient = torch.full((2, 20), 0.5 + step, device=device)
        applies = torch.tensor([True, True], device=device)
        if step in (0, 3):
            gradient[0, 3] = math.inf
            applies[0] = False
            before = flat[0].clone(), adam.first[0].clone(), adam.second[0].clone()
        factor = clipping(gradient.norm(dim=1), 1e9)
        rates = torch.full((2,), 0.1, device=device)
        adam.step(flat, gradient, factor, applies, rates)
        if not applies[0]:
            after = flat[0], adam.first[0], adam.second[0]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        single = torch.full((1, 20), 0.5 + step, device=device)
        adam_alone.step(alone, single, factor[1:], applies[1:], rates[1:])
    assert adam.steps.tolist() == [4, 6]
    assert torch.equal(flat[1], alone[0])


def test_loss_scale_halves_for_the_overflowing_seed_alone_and_doubles_after_a_long_run() -> None:
    scaler = LossScaler(2, CPU, enabled=True)
    scaler.update(torch.tensor([False, True]))
    assert scaler.scale.tolist() == [INITIAL_SCALE / 2, INITIAL_SCALE]
    for _ in range(1999):
        scaler.update(torch.tensor([True, True]))
    assert scaler.scale.tolist() == [INITIAL_SCALE / 2, INITIAL_SCALE * 2]
    scaler.update(torch.tensor([True, True]))
    assert scaler.scale.tolist() == [INITIAL_SCALE, INITIAL_SCALE * 2]


def test_an_overflow_at_the_smallest_scale_is_beyond_cure() -> None:
    scaler = LossScaler(1, CPU, enabled=True)
    halvings = 0
    while not scaler.update(torch.tensor([False])).item():
        halvings += 1
    assert halvings == math.log2(INITIAL_SCALE / SMALLEST_SCALE)


def test_without_loss_scaling_nothing_is_cured() -> None:
    scaler = LossScaler(2, CPU, enabled=False)
    assert scaler.update(torch.tensor([True, False])).tolist() == [False, True]
    assert scaler.scale.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("losses", "best_epoch", "stops_at"),
    [
        ([5, 4, 3, 2, 1], 5, None),
        ([5, 4, 4.5, 4.5, 4.5], 2, 5),
        ([5, 4.9995, 4.9991, 4.9988], 4, None),  # slow progress adds up to an improvement
        ([5, 4.9998, 4.9997, 4.9996, 4.9995], 4, 4),  # too slow: stops, yet the lowest loss is the best
        ([5, 5, 5, 5], 1, 4),
    ],
)
def test_early_stopping(losses: list[float], best_epoch: int, stops_at: int | None) -> None:
    stopping = EarlyStopping(patience=3, min_improvement=0.001)
    stopped = None
    for epoch, loss in enumerate(losses, start=1):
        stopping.update(epoch, loss)
        if stopping.is_exhausted(epoch):
            stopped = epoch
            break
    assert stopped == stops_at
    assert stopping.best_epoch == best_epoch


def test_schedules_of_the_study() -> None:
    assert scaled_learning_rate(1e-4, 2048, 32) == 8e-4
    norms = [max_gradient_norm([[1, 0.5], [11, 1.0], [31, 2.0]], epoch) for epoch in (1, 10, 11, 30, 31, 150)]
    assert norms == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def factors(steps: range, warmup_steps: float, decay_steps: float) -> list[float]:
    """The factors of one row's learning rate, beside another row that has neither warm-up nor decay."""
    settings = torch.tensor([warmup_steps, 0.0]), torch.tensor([decay_steps, math.inf])
    found = [rate_factor(torch.tensor([step, step], dtype=torch.int32), *settings).tolist() for step in steps]
    assert [other for _, other in found] == [1] * len(steps)
    return [factor for factor, _ in found]


def test_the_learning_rate_grows_linearly_and_falls_linearly() -> None:
    assert factors(range(6), 4, math.inf) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factors(range(5), 0, 4) == [1, 0.75, 0.5, 0.25, 0], "0 after the last step"
    assert factors(range(7), 2, 4) == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]
    assert factors(range(2), 0, math.inf) == [1, 1]


def test_batches_keep_their_windows_and_have_the_longest_first() -> None:
    windows = torch.tensor([[2, 5, 0, 0], [2, 5, 5, 5], [2, 0, 5, 0], [2, 5, 5, 3], [2, 0, 0, 0]])
    assert lengths(windows, 0).tolist() == [1, 3, 2, 3, 0]
    order = torch.tensor([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
    assert longest_first(order, lengths(windows, 0), 3).tolist() == [[1, 2, 0, 3, 4], [2, 0, 4, 3, 1]]
    assert rows_of_any_batch(order, lengths(windows, 0), 3, 4) == [3, 2, 2, 0]
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(100, generator=generator) for _ in range(3)])
    found = longest_first(order, torch.randint(0, 9, (100,), generator=generator), 32)
    for before, after in zip(order.split(32, dim=1), found.split(32, dim=1), strict=True):
        assert torch.equal(before.sort(dim=1).values, after.sort(dim=1).values)
