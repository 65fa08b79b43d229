"""Adam, clipping, loss scaling, early stopping and sums of an epoch, each against torch or by hand."""

import math

import pytest
import torch

from newllm.model.definition import ModelShape, initial_parameters
from newllm.training.batches import lengths, longest_first, rows_of_any_batch
from newllm.training.optimiser import (
    ALIGNMENT,
    Adam,
    LossScaler,
    cast,
    clipping,
    flatten,
    max_gradient_norm,
    rate_factor,
    scaled_learning_rate,
    unflatten,
)
from newllm.training.records import EpochTotals
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
    for dtype, wide in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert flatten({name: value.to(dtype) for name, value in parameters.items()}, shape).dtype == wide


def test_what_is_no_product_stays_in_full_precision() -> None:
    shape = ModelShape(11, 5, 4, 6, 2)
    parameters = {name: value + 1 / 3 for name, value in initial_parameters(shape, [0, 1]).items()}
    found = cast(flatten(parameters, shape), shape, torch.float16)
    assert found.keys() == parameters.keys()
    for name, value in parameters.items():
        full = name in ("norm.weight", "norm.bias", "output.bias")
        assert found[name].dtype == (torch.float32 if full else torch.float16), name
        assert torch.equal(found[name], value if full else value.half()), name


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


def test_clipping_by_hand() -> None:
    factors = clipping(torch.tensor([0.0, 1e-6, 1.0, 4.0], dtype=torch.float64), 1e-6)
    assert factors.tolist() == pytest.approx([1, 0.5, 1e-6 / 1.000001, 1e-6 / 4.000001], rel=1e-12)


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
    assert scaler.scale.tolist() == [65_536, 65_536]
    assert not scaler.update(torch.tensor([False, True])).any()
    assert scaler.scale.tolist() == [32_768, 65_536]
    expected = {1998: [32_768, 65_536], 1999: [32_768, 131_072], 2000: [65_536, 131_072], 3998: [65_536, 131_072]}
    expected |= {3999: [65_536, 262_144], 4000: [131_072, 262_144]}
    for step in range(1, 4001):
        assert not scaler.update(torch.tensor([True, True])).any()
        if step in expected:
            assert scaler.scale.tolist() == expected[step], step


def test_an_overflow_begins_a_new_run() -> None:
    scaler = LossScaler(1, CPU, enabled=True)
    scaler.streak.fill_(1999)
    scaler.update(torch.tensor([False]))
    scaler.update(torch.tensor([True]))
    assert (scaler.scale.item(), scaler.streak.item()) == (32_768, 1)


def test_an_overflow_at_the_smallest_scale_is_beyond_cure() -> None:
    scaler = LossScaler(2, CPU, enabled=True)
    halvings = 0
    while not scaler.update(torch.tensor([False, True])).any():
        halvings += 1
    assert halvings == 30  # from 2^16 to 2^-14
    assert scaler.update(torch.tensor([False, True])).tolist() == [True, False]


def test_without_loss_scaling_nothing_is_cured() -> None:
    scaler = LossScaler(2, CPU, enabled=False)
    assert scaler.update(torch.tensor([True, False])).tolist() == [False, True]
    assert scaler.scale.tolist() == [1, 1]


def test_totals_are_means_over_targets_and_over_steps_that_were_not_skipped() -> None:
    nan, inf = math.nan, math.inf
    totals = EpochTotals(4, CPU)
    for _ in range(2):  # nothing of an epoch is left in the next
        totals.clear()
        steps = [  # losses, targets, norms, failed; by seed
            ([4.0, 2.0, 1.0, 3.0], [2, 1, 1, 1], [1.0, inf, inf, nan], [False, False, False, True]),
            ([8.0, 7.0, 5.0, 3.0], [6, 2, 1, 1], [3.0, nan, 6.0, 9.0], [False, True, False, True]),
            ([0.0, 0.0, 0.0, 3.0], [2, 2, 2, 1], [5.0, inf, 2.0, inf], [False, True, True, True]),
        ]
        for losses, counts, norms, failed in steps:
            totals.add(torch.tensor(losses), torch.tensor(counts), torch.tensor(norms), torch.tensor(failed))
        loss, norm, failed_step = totals.means()
        assert loss.tolist() == [1.2, 1.8, 1.5, 3]
        assert norm.tolist() == [3, 0, 4, 9]
        assert failed_step.tolist() == [-1, 1, 2, 0]


def test_totals_of_many_steps_are_exact() -> None:
    totals = EpochTotals(1, CPU)
    totals.clear()
    for _ in range(2):
        totals.add(torch.tensor([2.0**24]), torch.tensor([2**24]), torch.tensor([2.0**24]), torch.tensor([False]))
        totals.add(torch.tensor([1.0]), torch.tensor([1]), torch.tensor([1.0]), torch.tensor([False]))
    assert totals.loss.tolist() == totals.targets.tolist() == totals.norm.tolist() == [2**25 + 2]


@pytest.mark.parametrize(
    ("losses", "best_epoch", "stops_at"),
    [
        ([5, 4, 3, 2, 1], 5, None),
        ([5, 4, 4.5, 4.5, 4.5], 2, 5),
        ([5, 4.9995, 4.9991, 4.9988], 4, None),  # slow progress adds up to an improvement
        ([5, 4.9998, 4.9997, 4.9996, 4.9995], 4, 4),  # too slow: stops, yet the lowest loss is the best
        ([5, 5, 5, 5], 1, 4),
        ([math.nan] * 3, 0, 3),
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
    assert stopping.best_loss == (losses[best_epoch - 1] if best_epoch else math.inf)


def test_an_improvement_by_exactly_the_least_counts() -> None:
    stopping = EarlyStopping(patience=1, min_improvement=0.5)
    assert [stopping.update(epoch, loss) for epoch, loss in enumerate([2.0, 1.5, 1.5], start=1)] == [True, True, False]
    assert [stopping.is_exhausted(epoch) for epoch in (2, 3)] == [False, True]


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
    assert factors(range(8), 2, 4) == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert factors(range(2), 0, math.inf) == [1, 1]


def test_batches_keep_their_windows_and_have_the_longest_first() -> None:
    windows = torch.tensor([[2, 5, 0, 0], [2, 5, 5, 5], [2, 0, 5, 0], [2, 5, 5, 3], [2, 0, 0, 0]])
    assert lengths(windows, 0).tolist() == [1, 3, 2, 3, 0]
    order = torch.tensor([[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
    assert longest_first(order, lengths(windows, 0), 3).tolist() == [[1, 2, 0, 3, 4], [2, 0, 4, 3, 1]]
    assert rows_of_any_batch(order, lengths(windows, 0), 3, 4) == [3, 2, 2, 0]
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(300, generator=generator) for _ in range(3)])
    long = torch.randint(0, 9, (300,), generator=generator)
    found = longest_first(order, long, 128)
    for before, after in zip(order.tolist(), found.tolist(), strict=True):
        for first in range(0, 300, 128):
            batch = before[first : first + 128]
            assert after[first : first + 128] == sorted(batch, key=lambda window: -long[window]), "stable"
