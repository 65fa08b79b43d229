"""A training's task, its ledger of rows and the tensors of a stack, each against numbers by hand."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from newllm.model.definition import ModelShape, initial_parameters
from newllm.model.streams import dropout_keys
from newllm.runtime.resume import State
from newllm.training.optimiser import flatten, unflatten
from newllm.training.records import EpochRow
from newllm.training.rows import Recipe, Row
from newllm.training.stack import Ledger, Stack, Start, Task
from tests.training.test_trainer import settings

SHAPE = ModelShape(vocabulary_size=7, embedding_dim=3, context_dim=4, hidden_size=5, num_layers=2)
CONFIG = settings(epochs=4, batch_size=32, patience=5, min_improvement=0.25)
CLIPPING = ((1, 0.5),)
ROWS = [
    Row(8, Recipe(0.25, 0.1, CLIPPING, warmup_epochs=1)),
    Row(6, Recipe(0.5, 0.5, CLIPPING, "he", "linear", 1)),
    Row(4, Recipe(2.0, 0.0, CLIPPING, "normal", "linear", 4)),
]


def task(count: int = 33, rows: list[Row] = ROWS, start: Start | None = None, **changes: object) -> Task:
    windows = torch.ones(count, 10, dtype=torch.int32), torch.ones(5, 10, dtype=torch.int32)
    return Task(SHAPE, rows, CONFIG.model_copy(update=changes), windows, start)


@pytest.mark.parametrize(("count", "steps"), [(31, 1), (32, 1), (33, 2), (64, 2), (65, 3)])
def test_steps_and_positions_of_an_epoch(count: int, steps: int) -> None:
    assert task(count).steps_per_epoch == steps
    assert task(count).positions_per_epoch == 9 * count


def test_rows_begin_with_their_own_seed_and_initialisation_or_with_their_own_start() -> None:
    fresh = initial_parameters(SHAPE, [4, 6], ["normal", "he"])
    assert torch.equal(task().parameters([2, 1]), flatten(fresh, SHAPE))
    assert task().phase == 0
    given = {name: value + 1 for name, value in initial_parameters(SHAPE, [1, 2, 3]).items()}
    going_on = task(start=Start(given, phase=3))
    found = unflatten(going_on.parameters([2, 0]), SHAPE)
    assert all(torch.equal(found[name], value[[2, 0]]) for name, value in given.items())
    assert going_on.phase == 3
    assert Start(given).phase == 1


@pytest.mark.parametrize("phase", [0, 3])
def test_a_stack_has_each_rows_recipe_in_its_tensors(phase: int) -> None:
    start = Start(initial_parameters(SHAPE, [1, 2, 3]), phase=phase) if phase else None
    stack = Stack(task(start=start), [2, 0, 1])
    expected = {
        "rates": torch.tensor([2.0, 0.25, 0.5]),
        "warmup_steps": torch.tensor([8.0, 2.0, 2.0]),
        "decay_steps": torch.tensor([1.0, math.inf, 6.0]),  # at least one, should the warm-up take all epochs
        "thresholds": torch.tensor([0, 6554, 32768], dtype=torch.int32),  # 2^16 times the probabilities
        "scales": torch.tensor([1.0, 1 / 0.9, 2.0]),
        "steps": torch.zeros(3, dtype=torch.int32),
        "max_norms": torch.zeros(3),
        "keys": dropout_keys([4, 8, 6], torch.device("cpu"), phase),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(stack, name), value, msg=name)
    assert torch.equal(stack.flat, task(start=start).parameters([2, 0, 1]))
    assert torch.equal(stack.best, stack.flat)
    assert stack.best.data_ptr() != stack.flat.data_ptr()
    assert stack.scaler.scale.tolist() == [1] * 3
    assert Stack(task(precision="fp16"), [0, 1]).scaler.scale.tolist() == [2**16] * 2
    assert Stack(task(precision="bf16"), [0, 1]).scaler.scale.tolist() == [1] * 2


NAMES = {
    *(f"Stack.{name}" for name in ("flat", "best", "steps", "rates", "warmup_steps", "decay_steps", "max_norms")),
    *(f"Stack.{name}" for name in ("keys", "thresholds", "scales")),
    *(f"Adam.{name}" for name in ("first", "second", "steps")),
    *(f"LossScaler.{name}" for name in ("scale", "streak")),
}


def used_stack(numbers: list[int], seed: int) -> Stack:
    """A stack whose every entry is a number of its own, as after some training."""
    stack = Stack(task(), numbers)
    for value in stack.tensors().values():
        value.copy_(torch.arange(value.numel()).view_as(value) + 1000 * seed)
    return stack


def copies(stack: Stack) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in stack.tensors().items()}


def test_a_stack_keeps_only_some_rows() -> None:
    stack = used_stack([0, 1, 2], 1)
    before = copies(stack)
    assert before.keys() == NAMES
    stack.select([2, 0])
    assert stack.tensors().keys() == NAMES
    assert all(torch.equal(value, before[name][[2, 0]]) for name, value in stack.tensors().items())


def test_a_row_of_another_stack_takes_a_place_and_every_tensor_stays_where_it_is() -> None:
    stack, other = used_stack([0, 1, 2], 1), used_stack([1], 2)
    before, places = copies(stack), {name: value.data_ptr() for name, value in stack.tensors().items()}
    stack.put(1, other)
    assert stack.tensors().keys() == NAMES
    for name, value in stack.tensors().items():
        assert torch.equal(value[[0, 2]], before[name][[0, 2]]), name
        assert torch.equal(value[1], other.tensors()[name][0]), name
        assert value.data_ptr() == places[name], name


def test_a_stack_takes_tensors_as_copies() -> None:
    stack, before = Stack(task(), [0, 1, 2]), copies(used_stack([0, 1, 2], 3))
    stack.restore(before)
    assert stack.tensors().keys() == NAMES
    for name, value in stack.tensors().items():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() != before[name].data_ptr(), name


def test_a_row_without_decay_takes_the_place_of_one_with() -> None:
    stack = Stack(task(), [1, 2])
    stack.put(0, Stack(task(), [0]))
    assert stack.decay_steps.tolist() == [math.inf, 1]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_all_of_a_stack_lies_on_the_device_of_the_windows(precision: str) -> None:
    """On a device that has no numbers, so that a tensor elsewhere is seen where there is no GPU."""
    meta, kept = torch.device("meta"), copies(used_stack([0, 1, 2], 1))
    on_meta = replace(task(precision=precision), windows=(torch.ones(33, 10, device=meta),) * 2)
    stack = Stack(on_meta, [0, 1, 2])
    assert {value.device for value in stack.tensors().values()} == {meta}
    stack.restore(kept)
    assert {value.device for value in stack.tensors().values()} == {meta}


def epoch(number: int, val_loss: float) -> EpochRow:
    return EpochRow(2, 0, number, val_loss / 2, val_loss, math.exp(val_loss), 0.5, 1.0, 1.0, seconds=number + 0.25)


def trained(ledger: Ledger, number: int, losses: list[float], ended: Any = None, problem: str | None = None) -> None:
    """Enters what became of a row."""
    history = ledger.histories[number]
    for count, loss in enumerate(losses, start=1):
        history.curve.append(epoch(count, loss))
        history.stopping.update(count, loss)
    history.ended, history.problem = ended, problem
    if ended:
        ledger.best[number] = torch.full_like(ledger.task.parameters([number])[0], number)


def half_way() -> Ledger:
    """Five rows: the third and the first have ended, in this order; the second is in training, two wait."""
    ledger = Ledger(task(rows=[replace(ROWS[0], seed=seed) for seed in (8, 6, 4, 3, 1)]))
    assert ledger.begin(3) == [0, 1, 2]
    trained(ledger, 2, [3.0], "diverged", "a reason")
    trained(ledger, 0, [2.0, 1.0, 1.5], "rule")
    trained(ledger, 1, [2.0, 1.9])
    return ledger


def test_rows_wait_train_and_end() -> None:
    ledger = half_way()
    assert ledger.waiting == [3, 4]
    assert ledger.in_training == [1]
    assert ledger.is_unfinished
    assert ledger.epochs_behind == 2 * 4 + 2, "of rows that have ended all, of the other its own"
    ledger.begin_again()
    assert ledger.waiting == [1, 3, 4], "those that had begun first"
    assert ledger.histories.keys() == {0, 2}
    assert ledger.epochs_behind == 8
    assert ledger.begin(9) == [1, 3, 4]
    assert ledger.waiting == []
    assert ledger.in_training == [1, 3, 4]
    assert ledger.histories[1].curve == []
    assert vars(ledger.histories[1].stopping).items() >= {"patience": 5, "min_improvement": 0.25}.items()
    for number in (1, 3):
        trained(ledger, number, [1.0], "epochs")
    assert ledger.is_unfinished
    trained(ledger, 4, [1.0], "epochs")
    assert not ledger.is_unfinished


def test_a_state_brings_all_of_it_back() -> None:
    ledger = half_way()
    stack = used_stack([1], 2)
    state = ledger.state(3, stack, [1])
    expected = copies(stack)
    before = json.dumps(state.values)
    stack.flat.zero_()
    trained(ledger, 1, [0.5])
    ledger.begin(1)
    values = json.loads(json.dumps(state.values))
    assert values == json.loads(before), "what comes later does not change a state"
    assert (values["places"], values["members"]) == (3, [1])
    for name, value in expected.items():
        assert torch.equal(state.tensors[name], value), name
    assert state.tensors.keys() == {*NAMES, "ended"}
    found, whole = Ledger(ledger.task), half_way()
    found.restore(State(state.tensors, values, state.where))
    assert found.waiting == [3, 4]
    assert {number: history.values() for number, history in found.histories.items()} == {
        number: history.values() for number, history in whole.histories.items()
    }
    assert found.histories[0].curve == whole.histories[0].curve
    assert list(found.best) == [2, 0]
    assert all(torch.equal(found.best[number], value) for number, value in whole.best.items())
    assert found.histories[1].stopping.update(3, 1.85), "early stopping goes on from where it was"
    assert not found.histories[1].stopping.is_exhausted(5)
    assert found.histories[1].stopping.is_exhausted(6), "the last fall by 0.25 was in the first epoch"


def test_a_state_with_less_than_it_says_is_not_taken() -> None:
    ledger = half_way()
    state = ledger.state(3)
    with pytest.raises(ValueError, match="shorter"):
        Ledger(ledger.task).restore(State({"ended": state.tensors["ended"][:1]}, state.values, state.where))


def test_a_state_before_anything_has_begun_is_of_rows_alone() -> None:
    ledger = Ledger(task())
    state = ledger.state(2)
    assert state.tensors == {}
    assert state.values == {"waiting": [0, 1, 2], "histories": [], "ended": [], "places": 2, "members": []}
    found = Ledger(task())
    found.waiting = []
    found.restore(state)
    assert (found.waiting, found.histories, found.best) == ([0, 1, 2], {}, {})


def said(where: str) -> list[str]:
    return re.findall(r"\b(?:trained|epochs?|seeds?|\d+)\b", where)


def test_where_a_state_is() -> None:
    """Which rows have been trained, and which epochs of which others."""
    ledger = half_way()
    ended = ["seeds", "4", "8", "trained"]
    assert said(ledger.state(3, None, [1]).where) == [*ended, "epoch", "2", "seed", "6"]
    ledger.begin(2)
    trained(ledger, 3, [1.0, 1.0])
    trained(ledger, 4, [1.0] * 3)
    assert said(ledger.state(3, None, [4, 3, 1]).where) == [*ended, "epochs", "2", "3", "seeds", "1", "3", "6"]
    assert said(ledger.state(3).where) == ended
    begun = Ledger(task())
    assert "after" not in begun.state(3).where
    begun.begin(1)
    trained(begun, 0, [1.0])
    assert said(begun.state(3, None, [0]).where) == ["epoch", "1", "seed", "8"]


def test_rows_are_named_by_seeds_unless_a_seed_has_several() -> None:
    assert Ledger(task()).names([2]) == "seed 4"
    assert Ledger(task()).names([2, 0]) == "seeds 4, 8"
    twice = Ledger(task(rows=[ROWS[0], ROWS[1], ROWS[0]]))
    assert twice.names([1]) == "row 1"
    assert twice.names([2, 0]) == "rows 2, 0"


def test_what_rows_came_to() -> None:
    """In the order of the rows, though the first began again after the others had ended."""
    ledger = Ledger(task())
    ledger.begin(3)
    trained(ledger, 1, [], "diverged", "a reason")
    trained(ledger, 2, [2.0, 1.0, 1.5, 0.875], "epochs")  # the last is the lowest, yet no improvement by 0.25
    ledger.begin_again()
    assert ledger.begin(3) == [0]
    trained(ledger, 0, [2.0, 1.0, 1.5], "patience")
    found = ledger.training()
    assert [(row.epoch, row.val_loss) for row in found.curves] == [
        *[(1, 2.0), (2, 1.0), (3, 1.5)],
        *[(1, 2.0), (2, 1.0), (3, 1.5), (4, 0.875)],
    ]
    assert [(result.seed, result.best_epoch, result.epochs_run) for result in found.results] == [
        (8, 2, 3),
        (6, 0, 0),
        (4, 4, 4),
    ]
    assert [result.stopped_early for result in found.results] == [True, True, False]
    losses = [(result.train_loss, result.val_loss) for result in found.results]
    assert losses == [(0.5, 1), (math.inf, math.inf), (0.4375, 0.875)]
    assert [result.train_seconds for result in found.results] == [1.25 + 2.25 + 3.25, 0, 1.25 + 2.25 + 3.25 + 4.25]
    speeds = [result.tokens_per_second for result in found.results]
    assert speeds == pytest.approx([3 * 33 * 9 / 6.75, 0, 4 * 33 * 9 / 11])
    assert [(result.ended, result.problem) for result in found.results] == [
        ("patience", None),
        ("diverged", "a reason"),
        ("epochs", None),
    ]
    for row, number in enumerate(range(3)):
        assert found.parameters["output.bias"][row].tolist() == [number] * 7
