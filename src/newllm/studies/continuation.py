"""Training in two parts, as the notebook trained its 6 layers: the second goes on from the best epoch of the first.

Each row begins the second part with its weights and Adam's moments and step count of its best epoch. All else begins
again: clipping, the loss scale and the count of epochs without improvement. The best epoch of both parts is the row's
result. In the second part shuffling and dropout draw from the streams of a second training of the same row (phase 1),
of which the first part used none.

The trainer hands its state to its store after every epoch but a row's last. So the first part trains each row for an
epoch too many, of which nothing is used, and the store keeps each row as it was at its best epoch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from newllm.config import TrainConfig
from newllm.errors import UserError
from newllm.model.definition import ModelShape
from newllm.runtime.resume import State, StateStore
from newllm.training.optimiser import flatten, unflatten
from newllm.training.records import EpochRow, RowResult, Training
from newllm.training.rows import EarlyStopping, Row
from newllm.training.stack import Ledger, Stack, Start, Task
from newllm.training.trainer import Rule, train

FIRST_PATIENCE = 10  # epochs; the notebook's in the first part
CARRIED = ("Stack.flat", "Adam.first", "Adam.second", "Adam.steps")  # tensors of a stack's state


@dataclass(frozen=True)
class Part:
    """What a row came to in one part: its epochs, their summary, and the best epoch's flat parameters [P]."""

    curve: list[EpochRow]
    result: RowResult
    best: Tensor


class ContinuedStore(StateStore):
    """Keeps the states of both parts; the trainer meets it as the store of the part that it trains.

    Attributes:
        carried: rows that have begun the first part, by number: the tensors CARRIED at the best epoch so far [1, ...].
        first: all rows' epochs in the first part, by number, once it is over; empty before.
        second: rows that have ended the second part, by number.
        places: rows that are trained at once.
    """

    def __init__(self, root: Path, stage: str, identity: Mapping[str, Any], every: int) -> None:
        """As for any store; nothing is touched yet."""
        super().__init__(root, stage, identity, every)
        self.carried: dict[int, dict[str, Tensor]] = {}
        self.first: dict[int, list[EpochRow]] = {}
        self.second: dict[int, Part] = {}
        self.places = 1
        self.next: State | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        if found := super().resume():
            values, tensors = found.values, found.tensors
            self.carried = {n: {name: tensors[f"{n}.{name}"] for name in CARRIED} for n in values["carried"]}
            self.first = {n: [EpochRow(**row) for row in curve] for n, curve in values["first"]}
            self.second = {
                n: Part([EpochRow(**row) for row in curve], RowResult(**result), tensors[f"{n}.best"])
                for n, curve, result in values["second"]
            }
            self.places = values["places"]
            self.next = State(tensors, values["training"], found.where)
        return self

    def resume(self) -> State | None:
        """The state from which a part goes on: `next`, which is on the disk, or composed for the second part."""
        state, self.next = self.next, None
        return state

    def keep(self, state: State) -> None:
        """Takes the trainer's state after an epoch, and with it what both parts have come to.

        Raises:
            UserError: a stack of the second part does not fit into memory, though one of that size did in the first.
        """
        is_first = not self.first
        if is_first:
            self._carry(state)
        elif not state.values["members"]:  # rows that begin again would do so without Adam's state
            raise UserError(
                f"{self.stage}: {self.places} rows at once fitted into memory in the first part and do not now; wait "
                "until nothing else uses the device, then run again"
            )
        tensors = {f"{n}.{name}": value for n, carried in self.carried.items() for name, value in carried.items()}
        tensors |= {f"{n}.best": part.best for n, part in self.second.items()}
        values = {
            "training": state.values,
            "carried": list(self.carried),
            "first": [[n, [asdict(row) for row in curve]] for n, curve in self.first.items()],
            "second": [
                [n, [asdict(row) for row in part.curve], asdict(part.result)] for n, part in self.second.items()
            ],
            "places": self.places,
        }
        where = f"{state.where} in the {'first' if is_first else 'second'} part"
        super().keep(State({**state.tensors, **tensors}, values, where))

    def _carry(self, state: State) -> None:
        """Takes the rows of which the last epoch is the best so far."""
        self.places = state.values["places"]
        histories = dict(state.values["histories"])
        for place, n in enumerate(state.values["members"]):
            epochs = len(histories[n]["curve"])
            if epochs and histories[n]["stopping"]["best_epoch"] == epochs:
                self.carried[n] = {name: state.tensors[name][place : place + 1].clone() for name in CARRIED}


def train_continued(
    shape: ModelShape,
    rows: Sequence[Row],
    config: TrainConfig,
    windows: tuple[Tensor, Tensor],
    epochs: tuple[int, int],
    store: ContinuedStore,
    places: int | None = None,
) -> Training:
    """Trains every row in two parts.

    Args:
        shape: the models' sizes.
        rows: seeds and recipes, of a constant learning rate without warm-up.
        config: all else; its patience is that of the second part, and its epochs do not count.
        windows: ids of the training split [N, T + 1] and the validation split [M, T + 1], on the device to train on.
        epochs: of the two parts.
        store: an entered store, which has read how far the training is.
        places: rows to train at once, as for `train`.

    Returns:
        The epochs of both parts, numbered through, without the one too many; results over both parts.

    Raises:
        UserError: rows do not fit into memory, or one diverged in the first part.
    """
    if not store.first:
        longer = config.model_copy(update={"epochs": epochs[0] + 1, "patience": epochs[0] + 1})
        one_late = _one_epoch_after(config.min_improvement)
        training = train(shape, rows, longer, windows, places, store=store, rule=one_late)
        store.first = {
            n: _counted(curve, result, epochs[0], config.min_improvement)
            for n, (curve, result) in enumerate(zip(_by_row(training), training.results, strict=True))
        }
    again = config.model_copy(update={"epochs": epochs[1]})
    while left := [n for n in range(len(rows)) if n not in store.second]:
        group = left[: store.places]
        task = Task(shape, [rows[n] for n in group], again, windows)
        carried = {name: torch.cat([store.carried[n][name].to(task.device) for n in group]) for name in CARRIED}
        start = Start(unflatten(carried["Stack.flat"], shape), phase=1)
        store.next = store.next or _begun(replace(task, start=start), carried)
        training = train(shape, task.rows, again, windows, places=len(group), start=start, store=store)
        best = flatten(training.parameters, shape)
        for n, curve, result, flat in zip(group, _by_row(training), training.results, best, strict=True):
            store.second[n] = Part(curve, result, flat.clone())
    ended = [
        _joined(store.first[n], store.carried[n]["Stack.flat"][0].cpu(), store.second[n]) for n in range(len(rows))
    ]
    return Training(
        unflatten(torch.stack([part.best for part in ended]), shape),
        [row for part in ended for row in part.curve],
        [_summed(part, sum(epochs), Task(shape, rows, again, windows).positions_per_epoch) for part in ended],
    )


def _first_length(curve: Sequence[EpochRow], min_improvement: float) -> int | None:
    """After how many epochs of this curve the first part's patience is exhausted; None: not within it."""
    stopping = EarlyStopping(FIRST_PATIENCE, min_improvement)
    for row in curve:
        stopping.update(row.epoch, row.val_loss)
        if stopping.is_exhausted(row.epoch):
            return row.epoch
    return None


def _one_epoch_after(min_improvement: float) -> Rule:
    """Lets a row leave the first part an epoch after its patience is exhausted."""

    def leaving(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> Collection[int]:
        return [n for n in going_on if _first_length(curves[n][:-1], min_improvement)]

    return leaving


def _counted(curve: list[EpochRow], result: RowResult, epochs: int, min_improvement: float) -> list[EpochRow]:
    """A row's epochs of the first part without the one too many, which may diverge without harm."""
    length = _first_length(curve, min_improvement) or epochs
    if result.problem and len(curve) < length:
        raise UserError(result.problem)
    return curve[:length]


def _begun(task: Task, carried: Mapping[str, Tensor]) -> State:
    """The state of a training before its first epoch, but for what is carried over to it."""
    ledger, numbers = Ledger(task), list(range(len(task.rows)))
    stack = Stack(task, ledger.begin(len(numbers)))
    stack.restore({**stack.tensors(), **carried})
    return ledger.state(len(numbers), stack, numbers)


def _by_row(training: Training) -> list[list[EpochRow]]:
    """The curves of each row."""
    curves, rest = [], training.curves
    for result in training.results:
        curves.append(rest[: result.epochs_run])
        rest = rest[result.epochs_run :]
    return curves


def _joined(first: Sequence[EpochRow], first_best: Tensor, second: Part) -> Part:
    """Both parts of a row as one, with the better of their best epochs; its result has that epoch and loss."""
    curve = [*first, *(replace(row, epoch=len(first) + row.epoch) for row in second.curve)]
    best = min(first, key=lambda row: row.val_loss)
    if best.val_loss <= second.result.val_loss:
        found = replace(second.result, best_epoch=best.epoch, val_loss=best.val_loss)
        return Part(curve, found, first_best)
    return Part(curve, replace(second.result, best_epoch=len(first) + second.result.best_epoch), second.best)


def _summed(part: Part, epochs: int, positions: int) -> RowResult:
    """The result of a row's two parts, of `epochs` in all and so many positions an epoch."""
    seconds = sum(row.seconds for row in part.curve)
    return replace(
        part.result,
        epochs_run=len(part.curve),
        stopped_early=len(part.curve) < epochs,
        train_loss=part.curve[part.result.best_epoch - 1].train_loss,
        train_seconds=seconds,
        tokens_per_second=len(part.curve) * positions / seconds,
    )
