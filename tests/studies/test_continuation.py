"""A training in two parts against a plain loop with torch's Adam, and killed, halved and short of memory."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.errors import UserError
from newllm.model.definition import initial_parameters, logits
from newllm.model.streams import dropout_masks, random_stream
from newllm.runtime import resume
from newllm.studies import continuation
from newllm.studies.continuation import ContinuedStore, train_continued
from newllm.training.batches import lengths, longest_first
from newllm.training.optimiser import max_gradient_norm
from newllm.training.records import Training
from newllm.training.trainer import StackTrainer
from tests.training.fitting import recipe_of, rows_of
from tests.training.test_trainer import DATA, SHAPE, settings

FEW = DATA[0][:60], DATA[1]
DROPOUT = 0.2
CLIPPING = [[1, 0.05], [3, 0.5]]  # would show in the second part if it did not begin again


class Killed(BaseException):
    """What no handler sees: as if the process ended here."""


@pytest.fixture(autouse=True)
def always_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings as short as these would write few states."""
    monkeypatch.setattr(resume, "LARGEST_SHARE", math.inf)


def run(folder: Path, epochs: tuple[int, int], places: int | None = None, **changes: object) -> Training:
    config = settings(gradient_clipping=CLIPPING, **changes)
    with ContinuedStore(folder, "recipes@test", {}, 1) as store:
        return train_continued(SHAPE, rows_of(config, DROPOUT), config, FEW, epochs, store, places)


def plain_loop(
    seed: int, rate: float, epochs: tuple[int, int], patience: int = 10
) -> tuple[list[list[tuple[float, float]]], dict[str, Tensor]]:
    """Both parts of one row by the definition with autograd, torch.optim.Adam and clip_grad_norm_.

    Returns:
        For each part of every epoch the training and the validation loss; and the best parameters of all epochs.
    """
    recipe = recipe_of(settings(base_learning_rate=rate, gradient_clipping=CLIPPING), DROPOUT)
    parameters = {name: value.requires_grad_() for name, value in initial_parameters(SHAPE, [seed]).items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=recipe.learning_rate)
    parts: list[list[tuple[float, float]]] = []
    best, best_loss = copy.deepcopy((parameters, optimizer.state_dict())), math.inf
    for part in (0, 1):
        with torch.no_grad():
            for name, value in best[0].items():
                parameters[name].copy_(value)
        optimizer.load_state_dict(copy.deepcopy(best[1]))
        curve: list[tuple[float, float]] = []
        reference, waited, step = math.inf, 0, 0
        for epoch in range(1, epochs[part] + 1):
            order = torch.randperm(len(FEW[0]), generator=random_stream(seed, "shuffling", epoch + 10**9 * part))
            order = longest_first(order[None], lengths(FEW[0], 0), 32)[0]
            total, count = 0.0, 0
            for batch in order.split(32):
                windows = FEW[0][batch].long()[None]
                size = (2, 9, len(batch), 12)
                keep = dropout_masks([seed], [step + 10**9 * part], size, [DROPOUT], torch.device("cpu"))
                outputs = logits(parameters, windows[:, :, :-1], keep, DROPOUT)
                targets = windows[:, :, 1:]
                loss = cross_entropy(outputs.flatten(0, 2), targets.flatten(), ignore_index=0)
                optimizer.zero_grad()
                loss.backward()
                limit = max_gradient_norm(recipe.gradient_clipping, epoch)
                torch.nn.utils.clip_grad_norm_(list(parameters.values()), limit)
                optimizer.step()
                known = int((targets != 0).sum())
                total, count, step = total + loss.item() * known, count + known, step + 1
            with torch.no_grad():
                outputs = logits(parameters, FEW[1].long()[None, :, :-1])[0]
            val_loss = cross_entropy(outputs.flatten(0, 1), FEW[1].long()[:, 1:].flatten(), ignore_index=0).item()
            curve.append((total / count, val_loss))
            if val_loss < best_loss:
                best, best_loss = copy.deepcopy((parameters, optimizer.state_dict())), val_loss
            reference, waited = (val_loss, 0) if val_loss <= reference - 0.001 else (reference, waited + 1)
            if part == 0 and waited >= patience:
                break
        parts.append(curve)
    return parts, {name: value.detach() for name, value in best[0].items()}


@pytest.mark.parametrize(
    ("seed", "rate", "epochs", "patience", "first", "best"),
    [
        (2, 0.01, (5, 3), 10, 5, 8),  # begins again from epoch 4
        (1, 0.05, (5, 1), 10, 5, 5),  # the first part's last epoch stays the best
        (0, 0.05, (6, 1), 1, 2, 3),  # patience ends the first part after its best epoch
        (0, 0.01, (6, 2), 1, 4, 5),  # patience ends it with its best epoch
    ],
)
def test_two_parts_equal_a_plain_loop(
    seed: int,
    rate: float,
    epochs: tuple[int, int],
    patience: int,
    first: int,
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(continuation, "FIRST_PATIENCE", patience)
    trained = run(tmp_path, epochs, seeds=[seed], base_learning_rate=rate)
    parts, parameters = plain_loop(seed, rate, epochs, patience)
    losses = [*parts[0], *parts[1]]
    for row, (train_loss, val_loss) in zip(trained.curves, losses, strict=True):
        assert row.train_loss == pytest.approx(train_loss, rel=1e-4)
        assert row.val_loss == pytest.approx(val_loss, rel=1e-4)
    assert len(parts[0]) == first
    assert [row.epoch for row in trained.curves] == list(range(1, len(losses) + 1))
    for name, value in parameters.items():
        torch.testing.assert_close(trained.parameters[name], value, rtol=1e-3, atol=1e-3)
    (result,) = trained.results
    assert result.best_epoch == best == 1 + min(range(len(losses)), key=lambda index: losses[index][1])
    assert result.val_loss == trained.curves[best - 1].val_loss
    assert result.train_loss == trained.curves[best - 1].train_loss
    assert result.epochs_run == len(losses)
    assert result.stopped_early == (len(losses) < sum(epochs))
    assert result.train_seconds == pytest.approx(sum(row.seconds for row in trained.curves))


def killed_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Trainings end after so many steps."""
    original, left = StackTrainer.next_step, iter(range(steps))

    def next_step(self: StackTrainer, size: int) -> None:
        if next(left, None) is None:
            raise Killed
        original(self, size)

    patch.setattr(StackTrainer, "next_step", next_step)


def refusing(patch: pytest.MonkeyPatch, refused: Callable[[StackTrainer], bool]) -> None:
    """Some stacks do not fit into memory."""
    original = StackTrainer.next_step

    def next_step(self: StackTrainer, size: int) -> None:
        if refused(self):
            raise torch.OutOfMemoryError("no memory")
        original(self, size)

    patch.setattr(StackTrainer, "next_step", next_step)


def assert_same(found: Training, expected: Training) -> None:
    """Bit for bit, times apart."""
    for name, value in expected.parameters.items():
        assert torch.equal(found.parameters[name], value), name
    assert [(row.seed, row.epoch, row.val_loss) for row in found.curves] == [
        (row.seed, row.epoch, row.val_loss) for row in expected.curves
    ]
    for ours, theirs in zip(found.results, expected.results, strict=True):
        assert (ours.best_epoch, ours.val_loss, ours.train_loss) == (
            theirs.best_epoch,
            theirs.val_loss,
            theirs.train_loss,
        )


@pytest.mark.parametrize("places", [1, 2])
def test_a_training_killed_again_and_again_ends_with_the_same_bits(
    places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill every seven steps, in which a row has three epochs: in both parts, at their ends, and between rows."""
    monkeypatch.setattr(continuation, "FIRST_PATIENCE", 1)
    expected = run(tmp_path / "whole", (4, 3), places, base_learning_rate=0.05)
    assert len({result.epochs_run for result in expected.results}) > 1, "one row's first part ends early"
    for _ in range(20):
        try:
            with monkeypatch.context() as patch:
                killed_after(patch, 7)
                found = run(tmp_path / "killed", (4, 3), places, base_learning_rate=0.05)
            break
        except Killed:
            continue
    assert_same(found, expected)
    assert not [*(tmp_path / "killed").iterdir()], "no states are left"


def test_a_seed_alone_comes_to_the_same(tmp_path: Path) -> None:
    together = run(tmp_path, (3, 2), base_learning_rate=0.05)
    alone = run(tmp_path, (3, 2), base_learning_rate=0.05, seeds=[1])
    for name, value in alone.parameters.items():
        assert torch.equal(together.parameters[name][1:2], value), name


def test_rows_that_do_not_fit_at_once_are_trained_in_smaller_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tmp_path, (3, 2), 1)
    refusing(monkeypatch, lambda trainer: len(trainer.members) > 1)
    assert_same(run(tmp_path, (3, 2), 3), expected)


def test_the_second_part_does_not_begin_without_adams_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refusing(patch, lambda trainer: trainer.task.phase == 1 and len(trainer.members) > 1)
        with pytest.raises(UserError, match="2 rows at once"):
            run(tmp_path, (3, 2), 2)
    assert_same(run(tmp_path, (3, 2), 2), run(tmp_path / "whole", (3, 2), 2))


def test_a_row_that_diverges_is_an_error_but_not_in_the_epoch_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tmp_path, (3, 1), seeds=[0])
    original = StackTrainer.train_epoch

    def spoiled(epochs_before: int) -> Callable[[StackTrainer], None]:
        def train_epoch(self: StackTrainer) -> None:
            original(self)
            if self.task.phase == 0 and len(self.ledger.histories[0].curve) == epochs_before:
                self.stack.flat.fill_(math.nan)

        return train_epoch

    monkeypatch.setattr(StackTrainer, "train_epoch", spoiled(3))
    assert_same(run(tmp_path, (3, 1), seeds=[0]), expected)
    monkeypatch.setattr(StackTrainer, "train_epoch", spoiled(2))
    with pytest.raises(UserError, match="seed 0, epoch 3"):
        run(tmp_path, (3, 1), seeds=[0])
