"""What a training goes through: its task, the rows that wait, train and have ended, and the stack on the device."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newllm.config import TrainConfig
from newllm.model.definition import ModelShape, Parameters, initial_parameters
from newllm.model.streams import dropout_keys, threshold
from newllm.runtime.resume import State
from newllm.training.optimiser import (
    Adam,
    LossScaler,
    flatten,
    unflatten,
)
from newllm.training.records import Ended, EpochRow, RowResult, Training
from newllm.training.rows import EarlyStopping, Row

PHASE = 10**9  # epochs and steps between the random streams of two phases


@dataclass(frozen=True)
class Start:
    """What a training goes on from.

    Attributes:
        parameters: stacked parameters [S, ...], in the order of the rows.
        learns: which entries learn [1, ...], by the parameters' names; None: all. The others keep their values.
        phase: counts the trainings of the same rows, so that each shuffles and drops out anew; 1 or more.
    """

    parameters: Parameters
    learns: Parameters | None = None
    phase: int = 1


@dataclass(frozen=True)
class Task:
    """What stays the same throughout a training."""

    shape: ModelShape
    rows: Sequence[Row]
    config: TrainConfig
    windows: tuple[Tensor, Tensor]
    start: Start | None = None

    @property
    def device(self) -> torch.device:
        return self.windows[0].device

    @property
    def phase(self) -> int:
        return self.start.phase if self.start else 0

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.windows[0]) / self.config.batch_size)

    @property
    def positions_per_epoch(self) -> int:
        """Of one row, padding included."""
        return len(self.windows[0]) * (self.windows[0].shape[1] - 1)

    def parameters(self, numbers: Sequence[int]) -> Tensor:
        """The flat parameters [S, P] on the device with which the rows of these numbers begin."""
        if self.start:
            begun = {name: value[list(numbers)] for name, value in self.start.parameters.items()}
        else:
            rows = [self.rows[number] for number in numbers]
            begun = initial_parameters(
                self.shape, [row.seed for row in rows], [row.recipe.initialisation for row in rows]
            )
        return flatten(begun, self.shape).to(self.device)


@dataclass
class History:
    """What a row has come to so far."""

    stopping: EarlyStopping
    curve: list[EpochRow]
    ended: Ended | None = None
    problem: str | None = None

    def values(self) -> dict[str, Any]:
        """A copy as JSON values."""
        return {
            "stopping": dict(vars(self.stopping)),
            "curve": [vars(row) for row in self.curve],
            "ended": self.ended,
            "problem": self.problem,
        }


class Ledger:
    """Which rows wait, which are in training, and what those that have ended came to."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.waiting = list(range(len(task.rows)))
        self.histories: dict[int, History] = {}
        self.best: dict[int, Tensor] = {}  # flat parameters [P] of rows that have ended, on the CPU

    @property
    def in_training(self) -> list[int]:
        """The rows that have begun and not ended."""
        return [number for number, history in self.histories.items() if history.ended is None]

    @property
    def is_unfinished(self) -> bool:
        """Whether a row has yet to be trained."""
        return len(self.best) < len(self.task.rows)

    @property
    def epochs_behind(self) -> int:
        """Epochs of all rows together that need not be trained any more, those that early stopping spared included."""
        ended = len(self.best) * self.task.config.epochs
        return ended + sum(len(self.histories[number].curve) for number in self.in_training)

    def begin(self, count: int) -> list[int]:
        """Takes the next rows that wait, `count` of them or as many as there are."""
        begun, self.waiting = self.waiting[:count], self.waiting[count:]
        self.histories |= {number: self._history() for number in begun}
        return begun

    def _history(self) -> History:
        return History(EarlyStopping(self.task.config.patience, self.task.config.min_improvement), [])

    def begin_again(self) -> None:
        """Those in training wait again, and have not begun."""
        stopped = self.in_training
        for number in stopped:
            del self.histories[number]
        self.waiting = [*stopped, *self.waiting]

    def state(self, places: int, stack: "Stack | None" = None, members: Sequence[int] = ()) -> State:
        """The whole training after an epoch, with `places` in a stack, or before one where there is no stack."""
        tensors = {} if stack is None else {name: value.clone() for name, value in stack.tensors().items()}
        if self.best:
            tensors["ended"] = torch.stack(list(self.best.values()))
        histories = [[number, history.values()] for number, history in self.histories.items()]
        values = {"waiting": self.waiting, "histories": histories, "ended": list(self.best)}
        return State(tensors, values | {"places": places, "members": list(members)}, self._where(members))

    def restore(self, state: State) -> None:
        """Goes on from a state."""
        self.waiting = state.values["waiting"]
        self.histories = {}
        for number, values in state.values["histories"]:
            self.histories[number] = history = self._history()
            vars(history.stopping).update(values["stopping"])
            history.curve = [EpochRow(**row) for row in values["curve"]]
            history.ended, history.problem = values["ended"], values["problem"]
        self.best = dict(zip(state.values["ended"], state.tensors.get("ended", ()), strict=True))

    def training(self) -> Training:
        """What all rows came to; all have ended."""
        numbers = range(len(self.task.rows))
        return Training(
            unflatten(torch.stack([self.best[number] for number in numbers]), self.task.shape),
            [row for number in numbers for row in self.histories[number].curve],
            [self._result(number) for number in numbers],
        )

    def _result(self, number: int) -> RowResult:
        history = self.histories[number]
        curve, stopping = history.curve, history.stopping
        seconds = sum(row.seconds for row in curve)
        return RowResult(
            seed=self.task.rows[number].seed,
            best_epoch=stopping.best_epoch,
            epochs_run=len(curve),
            stopped_early=len(curve) < self.task.config.epochs,
            train_loss=curve[stopping.best_epoch - 1].train_loss if curve else math.inf,
            val_loss=stopping.best_loss,
            train_seconds=seconds,
            tokens_per_second=len(curve) * self.task.positions_per_epoch / seconds if curve else 0.0,
            ended=history.ended or "epochs",
            problem=history.problem,
        )

    def names(self, numbers: Sequence[int]) -> str:
        """The rows for people: by their seeds, or by their numbers where a seed has several."""
        seeds = [row.seed for row in self.task.rows]
        are_seeds = len(set(seeds)) == len(seeds)
        what = "seed" if are_seeds else "row"
        listed = ", ".join(str(seeds[number] if are_seeds else number) for number in numbers)
        return f"{what}{'s' if len(numbers) > 1 else ''} {listed}"

    def _where(self, members: Sequence[int]) -> str:
        places = [f"{self.names(list(self.best))} trained"] if self.best else []
        if members:
            epochs = sorted({len(self.histories[number].curve) for number in members})
            listed = ", ".join(map(str, epochs))
            places.append(f"epoch{'s' if len(epochs) > 1 else ''} {listed} of {self.names(members)}")
        return f"after {' and '.join(places)}" if places else "from the beginning, with fewer rows at once"


class Stack:
    """The rows in training: whatever of them lies on the device, each tensor [S, ...]."""

    def __init__(self, task: Task, numbers: Sequence[int]) -> None:
        device, steps = task.device, task.steps_per_epoch
        recipes = [task.rows[number].recipe for number in numbers]
        warmup_steps = [recipe.warmup_epochs * steps for recipe in recipes]
        decay_steps = [
            math.inf if recipe.schedule == "constant" else max(task.config.epochs * steps - warmup, 1)
            for recipe, warmup in zip(recipes, warmup_steps, strict=True)
        ]
        self.flat = task.parameters(numbers)
        self.best = self.flat.clone()
        self.adam = Adam(self.flat)
        self.scaler = LossScaler(len(recipes), device, enabled=task.config.precision == "fp16")
        self.steps = torch.zeros(len(recipes), dtype=torch.int32, device=device)
        self.rates = torch.tensor([recipe.learning_rate for recipe in recipes], device=device)
        self.warmup_steps = torch.tensor(warmup_steps, dtype=torch.float32, device=device)
        self.decay_steps = torch.tensor(decay_steps, dtype=torch.float32, device=device)
        self.max_norms = torch.zeros(len(recipes), device=device)
        self.keys = dropout_keys([task.rows[number].seed for number in numbers], device, task.phase)
        thresholds = [threshold(recipe.dropout) for recipe in recipes]
        self.thresholds = torch.tensor(thresholds, dtype=torch.int32, device=device)
        self.scales = torch.tensor([1 / (1 - recipe.dropout) for recipe in recipes], device=device)

    def _places(self) -> Iterator[tuple[object, str]]:
        """Who holds a tensor, and by which name."""
        for owner in (self, self.adam, self.scaler):
            for name, value in vars(owner).items():
                if isinstance(value, Tensor):
                    yield owner, name

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by names that are theirs alone."""
        return {f"{type(owner).__name__}.{name}": getattr(owner, name) for owner, name in self._places()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes all tensors from those that `tensors` returned."""
        for owner, name in list(self._places()):
            value = tensors[f"{type(owner).__name__}.{name}"]
            setattr(owner, name, value.to(self.flat.device, copy=True))

    def select(self, rows: list[int]) -> None:
        """Keeps only some rows."""
        for owner, name in list(self._places()):
            setattr(owner, name, getattr(owner, name)[rows])

    def put(self, place: int, other: "Stack") -> None:
        """Puts the one row of another stack into a place of this one; every tensor stays where it is."""
        for ours, theirs in zip(self.tensors().values(), other.tensors().values(), strict=True):
            ours[place] = theirs[0]
