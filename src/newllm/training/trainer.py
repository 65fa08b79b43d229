"""The training loop over a stack of seeds."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from newllm.config import TrainConfig
from newllm.errors import UserError
from newllm.model import plain
from newllm.model.definition import ModelShape, Parameters, initial_parameters
from newllm.model.gradients import losses_and_gradients
from newllm.model.scan import pieces_for
from newllm.model.streams import Dropout, dropout_keys, dropout_masks, random_stream
from newllm.training.batches import lengths, longest_first, rows_of_any_batch
from newllm.training.device import DTYPES, free_memory, is_out_of_memory, too_large, wait_for
from newllm.training.early_stopping import EarlyStopping
from newllm.training.energy import energy_counter
from newllm.training.evaluation import PAD_ID, batches_by_length, of_batches
from newllm.training.graphs import Graphs
from newllm.training.loss_scaling import LossScaler
from newllm.training.progress import Progress
from newllm.training.results import EpochRow, SeedResult, Training
from newllm.training.schedules import max_gradient_norm, scaled_learning_rate, warm_up
from newllm.training.stack import Adam, cast, clipping, flatten, unflatten
from newllm.training.state import StackState, State
from newllm.training.states import States
from newllm.training.totals import EpochTotals

PHASE = 10**9  # epochs and steps between the random streams of two phases
WARM_UP_WINDOWS, WARM_UP_POSITIONS = 128, 2  # next to nothing, and yet in whole tiles
VALIDATION_WINDOWS = 8192  # at once on a GPU, where few large batches leave less idle than many small ones
LARGEST_LOSS = 200.0  # nats; a validation loss beyond is a training gone wrong, and its perplexity no number to use


@dataclass(frozen=True)
class Start:
    """What a training goes on from.

    Attributes:
        parameters: stacked parameters [S, ...], in the order of the seeds.
        learns: which entries learn [1, ...], by the parameters' names; None: all. The others keep their values.
        phase: counts the trainings of the same seeds, so that each shuffles and drops out anew; 1 or more.
    """

    parameters: Parameters
    learns: Parameters | None = None
    phase: int = 1

    def of(self, places: Sequence[int]) -> "Start":
        """The start of some of the seeds."""
        parameters = {name: value[list(places)] for name, value in self.parameters.items()}
        return Start(parameters, self.learns, self.phase)


def train(
    shape: ModelShape,
    dropout: float,
    config: TrainConfig,
    windows: tuple[Tensor, Tensor],
    stack_size: int | None = None,
    start: Start | None = None,
    states: States | None = None,
) -> Training:
    """Trains one depth with all seeds.

    Args:
        shape: the model's sizes.
        dropout: probability of dropping a hidden unit.
        config: optimisation; `config.seeds` are trained.
        windows: ids of the training split [N, T + 1] and the validation split [M, T + 1], on the device to train on.
        stack_size: seeds to train at once. Default: all on a GPU; one on a CPU, where a stack gains nothing and a
            batched product's rounding could depend on the size of the stack. A stack that does not fit into the
            device's memory is halved.
        start: what to go on from. Default: fresh parameters.
        states: where the state is kept, and found if the same training was killed. Default: nowhere.

    Raises:
        UserError: not even one seed fits, or a loss is not finite and loss scaling cannot cure it.
    """
    size = stack_size or (len(config.seeds) if windows[0].is_cuda else 1)
    waiting = [config.seeds[first : first + size] for first in range(0, len(config.seeds), size)]
    steps = math.ceil(len(windows[0]) / config.batch_size)
    state = (states and states.resume()) or State([], waiting, None)
    trained, waiting, begun = list(state.finished), list(state.waiting), state.stack
    with Progress(shape.num_layers, config.epochs, len(waiting), steps) as progress:
        while waiting:
            seeds, resumed, begun = waiting.pop(0), begun, None
            try:
                begin = start and start.of([config.seeds.index(seed) for seed in seeds])
                keep = partial(states.keep, trained, [seeds, *waiting]) if states else None
                stack = StackTrainer(shape, dropout, config, windows, seeds, progress, begin).run(resumed, keep)
                trained = [*trained, stack]
                if states:
                    states.keep(trained, [*waiting])
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(seeds) == 1:
                    raise UserError(too_large(shape, config.batch_size, windows[0].device)) from error
            # outside of the handler: the error's traceback holds on to the tensors
            half = (len(seeds) + 1) // 2
            waiting[:0] = [seeds[:half], seeds[half:]]
            if states:
                states.keep(trained, [*waiting])
            progress.split(config.epochs)
            free_memory()
            print(f"{shape.num_layers} layers: {len(seeds)} seeds at once need more memory than there is; now {half}")
    return Training(
        {name: torch.cat([one.parameters[name] for one in trained]) for name in trained[0].parameters},
        [row for one in trained for row in one.curves],
        [result for one in trained for result in one.results],
    )


class StackTrainer:
    """The state of a stack of seeds in training; seeds that have stopped leave the stack.

    On CUDA a step is one captured graph: everything that it reads or changes lies on the device, but for `needed`,
    whose numbers are in the graph.
    """

    def __init__(
        self,
        shape: ModelShape,
        dropout: float,
        config: TrainConfig,
        windows: tuple[Tensor, Tensor],
        seeds: Sequence[int],
        progress: Progress,
        start: Start | None = None,
    ) -> None:
        self.shape, self.dropout, self.config, self.progress = shape, dropout, config, progress
        self.windows = windows[0]
        self.lengths = lengths(self.windows, PAD_ID)
        self.device, self.dtype = self.windows.device, DTYPES[config.precision]
        self.seeds = list(seeds)
        self.energy = energy_counter(self.device)
        self.epoch = 0  # the last that has ended
        self.phase = start.phase if start else 0
        self.flat = flatten(start.parameters if start else initial_parameters(shape, seeds), shape).to(self.device)
        self.learns = flatten(start.learns, shape).to(self.device) if start and start.learns else None  # [1, P], 0 or 1
        rate = scaled_learning_rate(config.base_learning_rate, config.batch_size, config.base_batch_size)
        self.adam = Adam(self.flat, rate)
        self.scaler = LossScaler(len(seeds), self.device, enabled=config.precision == "fp16")
        self.best = {seed: self.flat[index].clone() for index, seed in enumerate(seeds)}
        self.stopping = {seed: EarlyStopping(config.patience, config.min_improvement) for seed in seeds}
        self.curves: dict[int, list[EpochRow]] = {seed: [] for seed in seeds}
        self.steps_per_epoch = math.ceil(len(self.windows) / config.batch_size)
        self.steps_done = 0
        self.step = torch.zeros(1, dtype=torch.int32, device=self.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=self.device)  # in the order of an epoch
        self.batch_rows = torch.arange(config.batch_size, device=self.device)
        self.max_norm = torch.zeros((), device=self.device)
        self.draws_in_kernels = pieces_for(self.flat.new_empty(0, dtype=self.dtype)) is not plain
        self.graphs = Graphs(enabled=self.draws_in_kernels and self.device.type == "cuda")
        validation_windows = max(config.batch_size, VALIDATION_WINDOWS) if self.graphs.enabled else config.batch_size
        self.validation = batches_by_length(windows[1], validation_windows)
        self.needed = [0] * (self.windows.shape[1] - 1)  # for each position, windows of a batch to compute
        self._set_stack()

    def _set_stack(self) -> None:
        """Whatever depends on the number of seeds and is not carried over."""
        self.order = torch.empty(len(self.seeds), len(self.windows), dtype=torch.int64, device=self.device)
        self.totals = EpochTotals(len(self.seeds), self.device)
        self.scores = torch.zeros(2, len(self.seeds), dtype=torch.float64, device=self.device)
        self.keys = dropout_keys(self.seeds, self.device, self.phase)
        self.graphs.clear()
        self.is_warm = not self.graphs.enabled

    def run(self, resumed: StackState | None = None, keep: Callable[[StackState], None] | None = None) -> Training:
        """Trains until the last epoch or until all seeds have stopped.

        Args:
            resumed: a state of a stack of the same seeds to go on from.
            keep: gets the state after every epoch but the last.
        """
        if resumed:
            self._restore(resumed)
        for epoch in range(self.epoch + 1, self.config.epochs + 1):
            rows = self._epoch(epoch)
            self._keep_best(epoch, rows)
            going_on = [i for i, seed in enumerate(self.seeds) if not self.stopping[seed].is_exhausted(epoch)]
            if len(going_on) < len(self.seeds):
                self._select(going_on)
            if not self.seeds:
                self.progress.skip(self.config.epochs - epoch)
                break
            self.epoch = epoch
            if keep and epoch < self.config.epochs:
                keep(self._state())
        return Training(
            unflatten(torch.stack(list(self.best.values())).cpu(), self.shape),
            [row for curve in self.curves.values() for row in curve],
            [self._result(seed) for seed in self.best],
        )

    def _state(self) -> StackState:
        """Copies of all that the epochs to come depend on, and the results so far; nothing waits for the device."""
        tensors = {"best": torch.stack(list(self.best.values()))}
        for owner, names in self._tensors_of_state():
            tensors |= {name: getattr(owner, name).clone() for name in names}
        values = {name: getattr(self, name) for name in ("epoch", "seeds", "steps_done")}
        values["stopping"] = [dict(vars(stopping)) for stopping in self.stopping.values()]
        values["curves"] = [[vars(row) for row in curve] for curve in self.curves.values()]
        return StackState(tensors, values)

    def _restore(self, state: StackState) -> None:
        """Before the first epoch: graphs go on reading the tensors that were here when they were captured."""
        for owner, names in self._tensors_of_state():
            for name in names:
                setattr(owner, name, state.tensors[name].to(self.device, copy=True))
        for seed, best, stopping, curve in zip(
            self.best, state.tensors["best"], state.values["stopping"], state.values["curves"], strict=True
        ):
            self.best[seed].copy_(best)
            vars(self.stopping[seed]).update(stopping)
            self.curves[seed] = [EpochRow(**row) for row in curve]
        self.epoch, self.seeds, self.steps_done = (state.values[name] for name in ("epoch", "seeds", "steps_done"))
        self._set_stack()
        self.progress.resume(self.epoch)

    def _tensors_of_state(self) -> list[tuple[object, tuple[str, ...]]]:
        return [(self, ("flat", "step")), (self.adam, ("first", "second", "steps")), (self.scaler, ("scale", "streak"))]

    def start_epoch(self, epoch: int) -> None:
        """Shuffles and sets what changes from epoch to epoch."""
        count = len(self.windows)
        for row, seed in enumerate(self.seeds):
            self.order[row].copy_(
                torch.randperm(count, generator=random_stream(seed, "shuffling", epoch + PHASE * self.phase))
            )
        self.order.copy_(longest_first(self.order, self.lengths, self.config.batch_size))
        needed = rows_of_any_batch(self.order, self.lengths, self.config.batch_size, len(self.needed))
        if any(now > before for now, before in zip(needed, self.needed, strict=True)):
            # with room for the batches of the epochs to come: what is captured has these numbers in it
            room = self.config.batch_size // 32
            self.needed = [
                max(before, min(now + room, self.config.batch_size))
                for now, before in zip(needed, self.needed, strict=True)
            ]
            self.graphs.clear()
        self.position.zero_()
        self.max_norm.fill_(max_gradient_norm(self.config.gradient_clipping, epoch))
        self.totals.clear()
        if not self.is_warm:
            self._warm_up()

    def _warm_up(self) -> None:
        """What a capture cannot do: compiles the kernels and sets up libraries, by a step of a like stack.

        Kernels do not depend on the numbers of windows and of positions, so the step is a small one.
        """
        few = self.windows[:WARM_UP_WINDOWS, : WARM_UP_POSITIONS + 1]
        config = self.config.model_copy(update={"batch_size": len(few)})
        learns = None if self.learns is None else unflatten(self.learns, self.shape)
        start = Start(unflatten(self.flat, self.shape), learns)
        progress = Progress(self.shape.num_layers, 1, 1, 1, silent=True)
        like = StackTrainer(self.shape, self.dropout, config, (few, few), self.seeds, progress, start)
        like.graphs, like.is_warm = Graphs(enabled=False), True
        like.start_epoch(1)
        like.next_step(len(few))
        like.validate()
        self.is_warm = True

    def next_step(self, size: int) -> None:
        """Trains on the next `size` windows of the epoch; nothing here waits for the device."""
        self.graphs.call(size, lambda: self._train_step(size))
        self.steps_done += 1
        self.progress.step()

    def validate(self) -> None:
        """Scores the stack on the validation split; nothing here waits for the device."""
        self.graphs.call("validation", self._validate)

    def _epoch(self, epoch: int) -> list[EpochRow]:
        start, energy_before = time.perf_counter(), self.energy()
        self.start_epoch(epoch)
        for first in range(0, len(self.windows), self.config.batch_size):
            self.next_step(min(self.config.batch_size, len(self.windows) - first))
        self.validate()
        wait_for(self.device)  # the host is ahead by most of the epoch
        values = torch.stack([*self.totals.means(), *self.scores, self.scaler.scale.double()]).T.tolist()
        seconds, energy = time.perf_counter() - start, self.energy()
        joules = None if energy is None or energy_before is None else (energy - energy_before) / len(self.seeds)
        self._check(epoch, [row[2] for row in values], [row[3] for row in values])
        rows = []
        for seed, (train_loss, norm, _, val, accuracy, scale) in zip(self.seeds, values, strict=True):
            share = seconds / len(self.seeds)
            row = EpochRow(
                self.shape.num_layers, seed, epoch, train_loss, val, math.exp(val), accuracy, norm, scale, share, joules
            )
            rows.append(row)
            self.curves[seed].append(row)
        means = [sum(column) / len(rows) for column in zip(*((r.train_loss, r.val_loss) for r in rows), strict=True)]
        self.progress.epoch(self.seeds, epoch, (means[0], means[1]), self._tokens() * len(rows) / seconds)
        return rows

    def _train_step(self, size: int) -> None:
        rows = self.order.index_select(1, self.position + self.batch_rows[:size])
        batch = self.windows[rows]
        counts = (batch[:, :, 1:] != PAD_ID).sum((1, 2)).clamp(min=1)
        scale = self.scaler.scale
        parameters = cast(self.flat, self.shape, self.dtype)
        losses, gradients = losses_and_gradients(
            parameters,
            batch,
            PAD_ID,
            scale / counts,
            self._dropout(size),
            self.dtype,
            self.shape.residual,
            self._needed(size),
        )
        gradient = flatten(gradients, self.shape)
        if self.learns is not None:
            gradient *= self.learns
        norm = gradient.norm(dim=1) / scale
        finite = norm.isfinite()
        rate_factor = warm_up(self.step, self.config.warmup_epochs * self.steps_per_epoch)
        self.adam.step(self.flat, gradient, clipping(norm, self.max_norm) / scale, finite, rate_factor)
        failed = self.scaler.update(finite) | ~losses.isfinite()
        self.totals.add(losses, counts, norm, failed)
        self.position += size
        self.step += 1

    def _needed(self, batch: int) -> list[int] | None:
        """Rows of a batch to compute at each position.

        None on a CPU, which counts anew for each batch; and where kernels train a single seed, all of them: it waits
        for its longest chain and gains nothing by tiles that are skipped, and kernels that can skip begin later.
        """
        if self.device.type == "cpu" or (self.draws_in_kernels and len(self.seeds) == 1):
            return None
        return [min(count, batch) for count in self.needed]

    def _dropout(self, batch: int) -> Dropout | None:
        if not self.dropout:
            return None
        if self.draws_in_kernels:
            return Dropout(self.dropout, keys=self.keys, step=self.step)
        size = (self.shape.num_layers, self.windows.shape[1] - 1, batch, self.shape.hidden_size)
        step = self.steps_done + PHASE * self.phase
        return Dropout(self.dropout, dropout_masks(self.seeds, step, size, self.dropout, self.device))

    def _validate(self) -> None:
        parameters = cast(self.flat, self.shape, self.dtype)
        scores = of_batches(parameters, self.validation, self.dtype, self.shape.residual)
        self.scores.copy_(torch.stack(scores))

    def _check(self, epoch: int, failed_steps: list[float], val_losses: list[float]) -> None:
        for seed, step, val_loss in zip(self.seeds, failed_steps, val_losses, strict=True):
            if step >= 0 or not val_loss < LARGEST_LOSS:
                where = f"step {int(step) + 1}" if step >= 0 else "validation"
                raise UserError(
                    f"training of {self.shape.num_layers} layers, seed {seed}, epoch {epoch}, {where}: the loss or "
                    f"its gradients are not finite or beyond {LARGEST_LOSS:g} nats, and no loss scale cures it. Lower "
                    f"train.base_learning_rate (now {self.config.base_learning_rate:g}) or use another train.precision "
                    f"(now {self.config.precision})"
                )

    def _keep_best(self, epoch: int, rows: list[EpochRow]) -> None:
        for index, row in enumerate(rows):
            if self.stopping[row.seed].update(epoch, row.val_loss):
                self.best[row.seed].copy_(self.flat[index])

    def _select(self, rows: list[int]) -> None:
        self.seeds = [self.seeds[row] for row in rows]
        self.flat = self.flat[rows]
        self.adam.select(rows)
        self.scaler.select(rows)
        self._set_stack()

    def _tokens(self) -> int:
        """Positions that one seed trains in an epoch, padding included."""
        return self.windows.shape[0] * (self.windows.shape[1] - 1)

    def _result(self, seed: int) -> SeedResult:
        curve, stopping = self.curves[seed], self.stopping[seed]
        seconds = sum(row.seconds for row in curve)
        return SeedResult(
            seed=seed,
            best_epoch=stopping.best_epoch,
            epochs_run=len(curve),
            stopped_early=len(curve) < self.config.epochs,
            train_loss=curve[stopping.best_epoch - 1].train_loss,
            val_loss=stopping.best_loss,
            train_seconds=seconds,
            tokens_per_second=len(curve) * self._tokens() / seconds,
        )
