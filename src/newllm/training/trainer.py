"""The training loop over a stack of rows."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from newllm.config import TrainConfig
from newllm.errors import UserError
from newllm.model import plain
from newllm.model.definition import ModelShape, Parameters
from newllm.model.gradients import losses_and_gradients
from newllm.model.scan import pieces_for
from newllm.model.streams import Dropout, dropout_masks, random_stream
from newllm.runtime.device import DTYPES, free_memory, is_out_of_memory, too_large, wait_for
from newllm.runtime.energy import energy_counter
from newllm.runtime.graphs import Graphs
from newllm.runtime.progress import Progress
from newllm.runtime.resume import State, StateStore
from newllm.training.batches import lengths, longest_first, rows_of_any_batch
from newllm.training.evaluation import PAD_ID, batches_by_length, of_batches
from newllm.training.optimiser import (
    cast,
    clipping,
    flatten,
    max_gradient_norm,
    rate_factor,
    unflatten,
)
from newllm.training.records import EpochRow, EpochTotals, Training
from newllm.training.rows import Row
from newllm.training.stack import PHASE, Ledger, Stack, Start, Task

WARM_UP_WINDOWS, WARM_UP_POSITIONS = 128, 2  # next to nothing, and yet in whole tiles
VALIDATION_WINDOWS = 8192  # at once on a GPU, where few large batches leave less idle than many small ones
LARGEST_LOSS = 200.0  # nats; a validation loss beyond is a training gone wrong, and its perplexity no number to use

Rule = Callable[[Mapping[int, Sequence[EpochRow]], Collection[int]], Collection[int]]
"""Gets, after an epoch, the curves of all rows that have begun, by their numbers, and the numbers of those that may go
on; returns the numbers of those that are to leave."""


def train(
    shape: ModelShape,
    rows: Sequence[Row],
    config: TrainConfig,
    windows: tuple[Tensor, Tensor],
    places: int | None = None,
    start: Start | None = None,
    store: StateStore | None = None,
    rule: Rule | None = None,
) -> Training:
    """Trains models of one shape, each with its own seed and recipe.

    A row trains until its last epoch, until its patience is exhausted, until the rule lets it go, or until it diverges.
    The next row that waits then takes its place in the stack.

    Args:
        shape: the models' sizes.
        rows: seeds and recipes. A row's result does not depend on the others (on a GPU: beyond rounding).
        config: all else: batch size, epochs, precision and patience; the rows take the place of its seeds and rates.
        windows: ids of the training split [N, T + 1] and the validation split [M, T + 1], on the device to train on.
        places: rows to train at once. Default: all on a GPU; one on a CPU, where a stack gains nothing and a batched
            product's rounding could depend on the size of the stack. A stack that does not fit into the device's
            memory is halved.
        start: what to go on from. Default: fresh parameters.
        store: where the state is kept, and found if the same training was killed. Default: nowhere.
        rule: which rows leave after an epoch, numbered as in `rows`, beside those that early stopping ends. Default:
            none.

    Raises:
        UserError: not even one row fits into the device's memory.
    """
    task = Task(shape, rows, config, windows, start)
    ledger = Ledger(task)
    places = min(places or (len(rows) if windows[0].is_cuda else 1), len(rows))
    state = store.resume() if store else None
    if state:
        ledger.restore(state)
        places = state.values["places"]
    with Progress(shape.num_layers, config.epochs, len(rows), task.steps_per_epoch) as progress:
        progress.resume(ledger.epochs_behind)
        while ledger.is_unfinished:
            try:
                StackTrainer(task, ledger, places, progress, state).run(rule, store)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(ledger.in_training) == 1:
                    raise UserError(too_large(shape, config.batch_size, windows[0].device)) from error
            # outside of the handler: the error's traceback holds on to the tensors
            state = None
            in_use = len(ledger.in_training)
            places = (in_use + 1) // 2
            ledger.begin_again()
            if store:
                store.keep(ledger.state(places))
            progress.resume(ledger.epochs_behind)
            free_memory()
            print(f"{shape.num_layers} layers: {in_use} rows at once need more memory than there is; now {places}")
    return ledger.training()


class StackTrainer:
    """Trains a stack; a row that has ended makes room for the next that waits, or leaves the stack.

    On CUDA a step is one captured graph: everything that it reads or changes lies on the device, but for `needed`,
    whose numbers are in the graph.
    """

    def __init__(self, task: Task, ledger: Ledger, places: int, progress: Progress, state: State | None = None) -> None:
        self.task, self.ledger, self.places, self.progress = task, ledger, places, progress
        self.config, self.device, self.dtype = task.config, task.device, DTYPES[task.config.precision]
        self.energy = energy_counter(self.device)
        self.members = list(state.values["members"]) if state else []  # the rows' numbers, by their places
        self.members = self.members or ledger.begin(places)
        self.stack = Stack(task, self.members)
        if state and state.values["members"]:
            self.stack.restore(state.tensors)
        self.learns = None  # [1, P], 0 or 1
        if task.start and task.start.learns:
            self.learns = flatten(task.start.learns, task.shape).to(self.device)
        self.draws_in_kernels = pieces_for(self.stack.flat.new_empty(0, dtype=self.dtype)) is not plain
        self.graphs = Graphs(enabled=self.draws_in_kernels and self.device.type == "cuda")
        self.windows = task.windows[0]
        self.num_windows = len(self.windows)  # without those that fill the last batch
        self.filling = -self.num_windows % self.config.batch_size if self.graphs.enabled else 0
        if self.filling:  # with windows of nothing but padding, so that one graph serves all batches
            self.windows = pad(self.windows, (0, 0, 0, 1), value=PAD_ID)
        self.lengths = lengths(self.windows, PAD_ID)
        self.batch_rows = torch.arange(self.config.batch_size, device=self.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=self.device)  # in the order of an epoch
        self.steps_done = 0  # of the epoch
        validation_windows = max(self.config.batch_size, VALIDATION_WINDOWS)
        self.validation = batches_by_length(
            task.windows[1], validation_windows if self.graphs.enabled else self.config.batch_size
        )
        self.needed = [0] * (self.windows.shape[1] - 1)  # for each position, windows of a batch to compute
        self._set_stack()

    def _set_stack(self) -> None:
        """Whatever depends on the number of rows and is not carried over."""
        count = len(self.members)
        self.order = torch.full(
            (count, self.num_windows + self.filling), self.num_windows, dtype=torch.int64, device=self.device
        )
        self.totals = EpochTotals(count, self.device)
        self.scores = torch.zeros(2, count, dtype=torch.float64, device=self.device)
        self.graphs.clear()
        self.is_warm = not self.graphs.enabled

    def run(self, rule: Rule | None = None, store: StateStore | None = None) -> None:
        """Trains until every row has ended; what they come to is in the ledger.

        Args:
            rule: which rows leave after an epoch.
            store: gets the state after every epoch but the last.
        """
        while self.members:
            problems = self._epoch()
            self._end_rows(problems, rule)
            if store and self.members:
                store.keep(self.ledger.state(self.places, self.stack, self.members))

    def _end_rows(self, problems: Mapping[int, str], rule: Rule | None) -> None:
        """Lets rows leave, and others take their places."""
        histories = {number: self.ledger.histories[number] for number in self.members}
        for number, history in histories.items():
            epoch = len(history.curve)
            if number in problems:
                history.ended, history.problem = "diverged", problems[number]
            elif epoch == self.config.epochs:
                history.ended = "epochs"
            elif history.stopping.is_exhausted(epoch):
                history.ended = "patience"
        going_on = self.ledger.in_training
        if rule and going_on:
            for number in rule({number: history.curve for number, history in self.ledger.histories.items()}, going_on):
                histories[number].ended = "rule"
        free = [place for place, number in enumerate(self.members) if histories[number].ended]
        for place in free:
            number = self.members[place]
            self.ledger.best[number] = self.stack.best[place].to("cpu", copy=True)
            self.progress.skip(self.config.epochs - len(histories[number].curve))
        dropped = self._drops
        for number in self.ledger.begin(len(free)):
            place = free.pop(0)
            self.stack.put(place, Stack(self.task, [number]))
            self.members[place] = number
        if self._drops != dropped:  # by other kernels
            self.is_warm = not self.graphs.enabled
        if free:
            self.leave(free)

    def leave(self, places: Collection[int]) -> None:
        """Makes the stack smaller by these places."""
        kept = [place for place in range(len(self.members)) if place not in places]
        self.members = [self.members[place] for place in kept]
        if self.members:
            self.stack.select(kept)
            self._set_stack()

    def train_epoch(self) -> None:
        """Trains on every window once; nothing here waits for the device after the first step."""
        self.start_epoch()
        for first in range(0, self.order.shape[1], self.config.batch_size):
            self.next_step(min(self.config.batch_size, self.order.shape[1] - first))

    def start_epoch(self) -> None:
        """Shuffles and sets what changes from epoch to epoch."""
        for place, number in enumerate(self.members):
            row, epoch = self.task.rows[number], len(self.ledger.histories[number].curve) + 1
            stream = random_stream(row.seed, "shuffling", epoch + PHASE * self.task.phase)
            self.order[place, : self.num_windows].copy_(torch.randperm(self.num_windows, generator=stream))
            self.stack.max_norms[place] = max_gradient_norm(row.recipe.gradient_clipping, epoch)
        self.order[:, self.num_windows :] = self.num_windows
        self.order.copy_(longest_first(self.order, self.lengths, self.config.batch_size))
        needed = rows_of_any_batch(self.order, self.lengths, self.config.batch_size, len(self.needed))
        if any(now > before for now, before in zip(needed, self.needed, strict=True)):
            # with room for the batches of the epochs to come: what is captured has these numbers in it. By chance the
            # most of all epochs exceed those of one by less than this, and a little more would cost whole tiles
            room = math.isqrt(self.config.batch_size) // 2
            self.needed = [
                max(before, min(now + room, self.config.batch_size))
                for now, before in zip(needed, self.needed, strict=True)
            ]
            self.graphs.clear()
        self.steps_done = 0
        self.position.zero_()
        self.totals.clear()
        if not self.is_warm:
            self._warm_up()

    def _warm_up(self) -> None:
        """What a capture cannot do: compiles the kernels and sets up libraries, by a step of a like stack.

        Kernels do not depend on the numbers of windows and of positions, so the step is a small one.
        """
        few = self.task.windows[0][:WARM_UP_WINDOWS, : WARM_UP_POSITIONS + 1]
        learns = None if self.learns is None else unflatten(self.learns, self.task.shape)
        task = Task(
            self.task.shape,
            [self.task.rows[number] for number in self.members],
            self.config.model_copy(update={"batch_size": len(few)}),
            (few, few),
            Start(unflatten(self.stack.flat, self.task.shape), learns),
        )
        progress = Progress(self.task.shape.num_layers, 1, len(task.rows), 1, silent=True)
        like = StackTrainer(task, Ledger(task), len(task.rows), progress)
        like.graphs, like.is_warm = Graphs(enabled=False), True
        like.start_epoch()
        like.next_step(len(few))
        like.validate()
        self.is_warm = True

    def next_step(self, size: int) -> None:
        """Trains on the next `size` windows of the epoch; nothing here waits for the device."""
        self.graphs.call((size, self._drops), lambda: self._train_step(size))
        self.steps_done += 1
        self.progress.step(len(self.members))

    def validate(self) -> None:
        """Scores the stack on the validation split; nothing here waits for the device."""
        self.graphs.call("validation", self._validate)

    def _epoch(self) -> dict[int, str]:
        """Trains an epoch; returns what befell the rows that diverged in it, by their numbers."""
        start, energy_before = time.perf_counter(), self.energy()
        self.train_epoch()
        self.validate()
        wait_for(self.device)  # the host is ahead by most of the epoch
        values = torch.stack([*self.totals.means(), *self.scores, self.stack.scaler.scale.double()]).T.tolist()
        seconds, energy = time.perf_counter() - start, self.energy()
        joules = None if energy is None or energy_before is None else (energy - energy_before) / len(self.members)
        problems, rows = {}, []
        for place, (number, figures) in enumerate(zip(self.members, values, strict=True)):
            train_loss, norm, failed_step, val_loss, accuracy, scale = figures
            history, row = self.ledger.histories[number], self.task.rows[number]
            epoch = len(history.curve) + 1
            if failed_step >= 0 or not val_loss < LARGEST_LOSS:
                problems[number] = self._problem(row, epoch, int(failed_step))
                continue
            rows.append(
                EpochRow(
                    num_layers=self.task.shape.num_layers,
                    seed=row.seed,
                    epoch=epoch,
                    train_loss=train_loss,
                    val_loss=val_loss,
                    val_ppl=math.exp(val_loss),
                    val_accuracy=accuracy,
                    gradient_norm=norm,
                    loss_scale=scale,
                    seconds=seconds / len(self.members),
                    joules=joules,
                )
            )
            history.curve.append(rows[-1])
            if history.stopping.update(epoch, val_loss):
                self.stack.best[place].copy_(self.stack.flat[place])
        speed = self.task.positions_per_epoch * len(self.members) / seconds
        self.progress.epoch(self.ledger.names(self.members), rows, speed)
        return problems

    def _train_step(self, size: int) -> None:
        stack = self.stack
        rows = self.order.index_select(1, self.position + self.batch_rows[:size])
        batch = self.windows[rows]
        counts = (batch[:, :, 1:] != PAD_ID).sum((1, 2)).clamp(min=1)
        scale = stack.scaler.scale
        losses, gradients = self._losses_and_gradients(batch, scale / counts)
        gradient = flatten(gradients, self.task.shape)
        if self.learns is not None:
            gradient *= self.learns
        norm = gradient.norm(dim=1) / scale
        finite = norm.isfinite()
        rates = stack.rates * rate_factor(stack.steps, stack.warmup_steps, stack.decay_steps)
        stack.adam.step(stack.flat, gradient, clipping(norm, stack.max_norms) / scale, finite, rates)
        failed = stack.scaler.update(finite) | ~losses.isfinite()
        self.totals.add(losses, counts, norm, failed)
        self.position += size
        stack.steps += 1

    def _losses_and_gradients(self, batch: Tensor, scale: Tensor) -> tuple[Tensor, Parameters]:
        """Each row's loss [S], summed over the targets of its windows [S, B, T + 1], and gradients of scale * loss."""
        return losses_and_gradients(
            cast(self.stack.flat, self.task.shape, self.dtype),
            batch,
            PAD_ID,
            scale,
            self._dropout(batch.shape[1]),
            self.dtype,
            self.task.shape.residual,
            self._needed(batch.shape[1]),
        )

    def _needed(self, batch: int) -> list[int] | None:
        """Rows of a batch to compute at each position.

        None on a CPU, which counts anew for each batch; and where kernels train a single row of the stack, all of them:
        it waits for its longest chain and gains nothing by tiles that are skipped, and kernels that can skip begin
        later.
        """
        if self.device.type == "cpu" or (self.draws_in_kernels and len(self.members) == 1):
            return None
        return [min(count, batch) for count in self.needed]

    @property
    def _drops(self) -> bool:
        """Whether any row has dropout."""
        return any(self.task.rows[number].recipe.dropout for number in self.members)

    def _dropout(self, batch: int) -> Dropout | None:
        if not self._drops:
            return None
        rows, stack = [self.task.rows[number] for number in self.members], self.stack
        probabilities = [row.recipe.dropout for row in rows]
        if self.draws_in_kernels:
            return Dropout(probabilities, (), stack.keys, stack.steps, stack.thresholds, stack.scales)
        size = (self.task.shape.num_layers, self.windows.shape[1] - 1, batch, self.task.shape.hidden_size)
        before = [len(self.ledger.histories[number].curve) * self.task.steps_per_epoch for number in self.members]
        steps = [done + self.steps_done + PHASE * self.task.phase for done in before]
        masks = dropout_masks([row.seed for row in rows], steps, size, probabilities, self.device)
        return Dropout(probabilities, masks)

    def _validate(self) -> None:
        parameters = cast(self.stack.flat, self.task.shape, self.dtype)
        scores = of_batches(parameters, self.validation, self.dtype, self.task.shape.residual)
        self.scores.copy_(torch.stack(scores))

    def _problem(self, row: Row, epoch: int, failed_step: int) -> str:
        where = f"step {failed_step + 1}" if failed_step >= 0 else "validation"
        return (
            f"training of {self.task.shape.num_layers} layers, seed {row.seed}, epoch {epoch}, {where}: the loss or "
            f"its gradients are not finite or beyond {LARGEST_LOSS:g} nats, and no loss scale cures it. Lower "
            f"train.base_learning_rate (the rate is {row.recipe.learning_rate:g}) or use another train.precision "
            f"(now {self.config.precision})"
        )
