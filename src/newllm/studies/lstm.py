"""The control: a language model with torch's LSTM in the place of New-LLM, trained in the same way.

With token embedding e_t, dropout on the LSTM's input and output, and its own zero state at the start of a window::

    x_t = dropout(e_t)
    h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1})          one layer of torch.nn.LSTM
    logits_t = Wo dropout(h_t) + bo

The trainer of New-LLM trains it: batches, shuffling, Adam, clipping, schedules, loss scaling, early stopping, pruning,
graphs and states are the same code. What is here is the model: losses and gradients of a batch, and a split's scores.
Its recurrence is the function `torch.lstm` that torch.nn.LSTM calls (cuDNN's on a GPU), and its output layer is the
one of New-LLM. On a GPU each row of a stack has a stream of its own, for one LSTM leaves most of the GPU idle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import embedding

from newllm.config import TrainConfig
from newllm.errors import UserError
from newllm.model.definition import ModelShape, Parameters
from newllm.model.head import cross_entropy
from newllm.model.scan import pieces_for
from newllm.model.streams import Dropout, dropout_masks, random_stream
from newllm.runtime.device import is_out_of_memory
from newllm.runtime.graphs import Graphs
from newllm.runtime.progress import Progress
from newllm.runtime.resume import State, StateStore
from newllm.training.evaluation import PAD_ID, Batch, batches_by_length
from newllm.training.optimiser import flatten, unflatten
from newllm.training.records import Training
from newllm.training.rows import Row
from newllm.training.stack import Ledger, Start, Task
from newllm.training.trainer import Rule, StackTrainer

RECURRENT = ("lstm.weight_ih", "lstm.weight_hh", "lstm.bias_ih", "lstm.bias_hh")  # as torch.nn.LSTM has them


@dataclass(frozen=True)
class LstmShape(ModelShape):
    """The sizes of the LSTM; its context is its hidden state, so `context_dim` is `hidden_size`, of one layer."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of one model, without the leading S."""
        vocabulary, hidden, gates = self.vocabulary_size, self.hidden_size, 4 * self.hidden_size
        return {
            "embedding.weight": (vocabulary, self.embedding_dim),
            "lstm.weight_ih": (gates, self.embedding_dim),
            "lstm.weight_hh": (gates, hidden),
            "lstm.bias_ih": (gates,),
            "lstm.bias_hh": (gates,),
            "output.weight": (vocabulary, hidden),
            "output.bias": (vocabulary,),
        }

    @property
    def flops_per_position(self) -> int:
        """Floating-point operations to train one position: 6 for each weight that a token meets in a product."""
        return 6 * self.hidden_size * (4 * (self.embedding_dim + self.hidden_size) + self.vocabulary_size)


def lstm_shape(vocabulary_size: int, embedding_dim: int, hidden_size: int) -> LstmShape:
    """The sizes of the model with an LSTM of `hidden_size`."""
    return LstmShape(vocabulary_size, embedding_dim, context_dim=hidden_size, hidden_size=hidden_size, num_layers=1)


def initial_parameters(shape: LstmShape, seeds: Sequence[int]) -> Parameters:
    """Fresh parameters [S, ...] on the CPU in float32, as torch's own modules begin, for so a user would begin.

    The embedding is N(0, 1), all else uniform between ±1 / sqrt(hidden size). A small model on a part of WikiText-2
    learned sooner and better from it than from an embedding of N(0, 0.02), which is what New-LLM has.
    """
    bound = 1 / sqrt(shape.hidden_size)
    streams = [random_stream(seed, "initialisation", 0) for seed in seeds]
    parameters = {}
    for name, size in shape.parameter_shapes().items():
        stacked = torch.empty(len(seeds), *size)
        for one, stream in zip(stacked, streams, strict=True):
            if name == "embedding.weight":
                one.normal_(generator=stream)
            else:
                one.uniform_(-bound, bound, generator=stream)
        parameters[name] = stacked
    return parameters


def losses_and_gradients(
    parameters: Parameters,
    windows: Tensor,
    scale: Tensor,
    keep: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Parameters]:
    """Cross-entropy summed over the targets, and the gradients of scale * loss.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [S, B, T + 1]; the first T tokens of a window are inputs, the last T targets.
        scale: factor of each row's gradients [S].
        keep: dropout's factors [S, T, B, E + H] of the LSTM's inputs and then of its outputs: 0 for what is dropped,
            1 / (1 - probability) for the rest. None: no dropout.
        dtype: type of the recurrence and of the matrix products. On a GPU torch lets cuDNN round float32 to TF32 in
            them unless told otherwise.

    Returns:
        Loss of each row in nats, not scaled [S], and gradients in float32 or wider by the parameters' names [S, ...].
    """
    losses = torch.zeros_like(scale)
    gradients = {name: torch.empty_like(value) for name, value in parameters.items()}
    pieces = pieces_for(scale.new_empty(0, dtype=dtype))

    def lane(rows: slice) -> None:
        for row in range(len(losses))[rows]:
            own = {name: value[row : row + 1] for name, value in parameters.items()}
            loss, found = _of_one_row(
                own, windows[row], scale[row : row + 1], None if keep is None else keep[row], dtype
            )
            losses[row] = loss
            for name, value in found.items():
                gradients[name][row] = value

    pieces.in_lanes(len(losses), lane)
    return losses, gradients


def _of_one_row(
    parameters: Parameters, windows: Tensor, scale: Tensor, keep: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Parameters]:
    """`losses_and_gradients` of one row: parameters [1, ...], windows [B, T + 1], keep [T, B, E + H]."""
    tokens, targets = windows[:, :-1], windows[:, 1:]
    weights = _recurrent_weights(parameters, dtype)
    inputs = _embedded(parameters, tokens, dtype)
    width = inputs.shape[-1]
    inputs = _dropped(inputs, keep, slice(width))
    leaves = [value.detach().requires_grad_() for value in (inputs, *weights)]
    with torch.enable_grad():
        hidden = _lstm(leaves[0], leaves[1:], train=True)
    outputs = _dropped(hidden.detach(), keep, slice(width, None))
    losses, _, head = cross_entropy(parameters, outputs[None], targets[None], PAD_ID, scale)
    assert head is not None  # noqa: S101 (a scale was given)
    d_hidden = _dropped(head[0][0], keep, slice(width, None))
    d_inputs, *d_weights = torch.autograd.grad(hidden, leaves, d_hidden)
    d_embedded = _dropped(d_inputs, keep, slice(width))[None]
    vocabulary_size = parameters["embedding.weight"].shape[1]
    d_table = pieces_for(d_embedded).table_gradient(d_embedded, tokens[None], vocabulary_size)
    found = {"embedding.weight": d_table[0], "output.weight": head[1][0], "output.bias": head[2][0]}
    return losses[0], found | dict(zip(RECURRENT, d_weights, strict=True))


def _recurrent_weights(parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
    """The LSTM's weights and biases of one row in `dtype`: views into one piece of memory, as cuDNN wants them."""
    values = [parameters[name][0] for name in RECURRENT]
    whole = torch.cat([value.flatten() for value in values]).to(dtype)
    pieces = whole.split([value.numel() for value in values])
    return [piece.view_as(value) for piece, value in zip(pieces, values, strict=True)]


def _embedded(parameters: Parameters, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """The embeddings [T, B, E] of tokens [B, T]."""
    return embedding(tokens.mT, parameters["embedding.weight"][0].to(dtype))


def _dropped(units: Tensor, keep: Tensor | None, columns: slice) -> Tensor:
    """Units [T, B, N] after dropout by these columns of its factors."""
    return units if keep is None else units * keep[:, :, columns]


def _lstm(inputs: Tensor, weights: Sequence[Tensor], train: bool) -> Tensor:
    """Hidden states [T, B, H] from inputs [T, B, E]: torch.nn.LSTM with one layer, from a state of zeros."""
    state = inputs.new_zeros(1, inputs.shape[1], weights[1].shape[1])
    hidden: Tensor = torch.lstm(inputs, (state, state), list(weights), True, 1, 0.0, train, False, False)[
        0
    ]  # with biases, layers, dropout between them, training, both directions, batch first
    return hidden


def loss_and_accuracy(
    parameters: Parameters, windows: Tensor, batch_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats and accuracy as a fraction [S], over all targets that are not padding, without dropout.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [N, T + 1].
        batch_size: windows at a time.
        dtype: type of the recurrence and of the matrix products.
    """
    return _of_batches(parameters, batches_by_length(windows, batch_size), dtype)


def _of_batches(parameters: Parameters, batches: Sequence[Batch], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    num_rows = len(parameters["output.bias"])
    totals = torch.zeros(2, num_rows, dtype=torch.float64, device=batches[0][0].device)
    with torch.no_grad():
        for row in range(num_rows):
            own = {name: value[row : row + 1] for name, value in parameters.items()}
            weights = _recurrent_weights(own, dtype)
            for batch, _ in batches:
                hidden = _lstm(_embedded(own, batch[:, :-1], dtype), weights, train=False)
                losses, correct, _ = cross_entropy(own, hidden[None], batch[None, :, 1:], PAD_ID)
                totals[:, row] += torch.cat([losses, correct])
    loss, accuracy = totals / sum((batch[:, 1:] != PAD_ID).sum() for batch, _ in batches)
    return loss, accuracy


class LstmTask(Task):
    """A training of LSTMs, whose rows begin with LSTMs' parameters."""

    def parameters(self, numbers: Sequence[int]) -> Tensor:
        """The flat parameters [S, P] on the device with which the rows of these numbers begin."""
        if self.start:
            return super().parameters(numbers)
        assert isinstance(self.shape, LstmShape)  # noqa: S101 (`train_lstm` takes no other)
        begun = initial_parameters(self.shape, [self.rows[number].seed for number in numbers])
        return flatten(begun, self.shape).to(self.device)


class LstmTrainer(StackTrainer):
    """Trains a stack of LSTMs: the trainer of New-LLM with another model."""

    def _losses_and_gradients(self, batch: Tensor, scale: Tensor) -> tuple[Tensor, Parameters]:
        parameters = unflatten(self.stack.flat, self.task.shape)
        return losses_and_gradients(parameters, batch, scale, self._keep(batch.shape[1]), self.dtype)

    def _keep(self, batch: int) -> Tensor | None:
        """Dropout's factors for a batch, drawn from each row's own stream for its own step."""
        if not self._drops:
            return None
        shape, stack = self.task.shape, self.stack
        length, width = self.windows.shape[1] - 1, shape.embedding_dim + shape.hidden_size
        rows = [self.task.rows[number] for number in self.members]
        probabilities = [row.recipe.dropout for row in rows]
        mask: Tensor
        if self.draws_in_kernels:
            from newllm.model.kernels import keep_mask  # noqa: PLC0415 (imports Triton)

            drawn = Dropout(probabilities, (), stack.keys, stack.steps, stack.thresholds, stack.scales)
            mask = keep_mask(drawn, 0, length * batch, width).unflatten(1, (length, batch))
        else:
            before = [len(self.ledger.histories[number].curve) * self.task.steps_per_epoch for number in self.members]
            steps = [done + self.steps_done for done in before]
            seeds = [row.seed for row in rows]
            (mask,) = dropout_masks(seeds, steps, (1, length, batch, width), probabilities, self.device)
        return mask * stack.scales.to(self.dtype)[:, None, None, None]

    def _validate(self) -> None:
        parameters = unflatten(self.stack.flat, self.task.shape)
        self.scores.copy_(torch.stack(_of_batches(parameters, self.validation, self.dtype)))

    def _warm_up(self) -> None:
        """A step and a validation of a like stack, of their full sizes, by which cuDNN chooses what it sets up."""
        begun = Start(unflatten(self.stack.flat, self.task.shape))
        windows = self.task.windows[0][: self.config.batch_size], self.task.windows[1]
        rows = [self.task.rows[number] for number in self.members]
        task = LstmTask(self.task.shape, rows, self.config, windows, begun)
        like = LstmTrainer(task, Ledger(task), len(rows), Progress(1, 1, len(rows), 1, silent=True))
        like.graphs, like.is_warm = Graphs(enabled=False), True
        like.start_epoch()
        like.next_step(self.config.batch_size)
        like.validate()
        self.is_warm = True

    def _problem(self, row: Row, epoch: int, failed_step: int) -> str:
        return (
            super()
            ._problem(row, epoch, failed_step)
            .replace(
                f"training of {self.task.shape.num_layers} layers",
                f"training of an LSTM of {self.task.shape.hidden_size}",
            )
        )


def train_lstm(
    shape: LstmShape,
    rows: Sequence[Row],
    config: TrainConfig,
    windows: tuple[Tensor, Tensor],
    places: int,
    store: StateStore | None = None,
    rule: Rule | None = None,
) -> Training:
    """Trains LSTMs of one size, each with its own seed and recipe, as `newllm.training.trainer.train` does New-LLM.

    Of a recipe all but the initialisation counts.

    Args:
        shape: the models' sizes.
        rows: seeds and recipes. A row's result does not depend on the others (on a GPU: beyond rounding).
        config: all else: batch size, epochs, precision and patience.
        windows: ids of the training split [N, T + 1] and the validation split [M, T + 1], on the device to train on.
        places: rows to train at once on a GPU; on a CPU it is one.
        store: where the state is kept, and found if the same training was killed. Default: nowhere.
        rule: which rows leave after an epoch, numbered as in `rows`. Default: none.

    Raises:
        UserError: the rows do not fit into the device's memory.
    """
    task = LstmTask(shape, rows, config, windows)
    ledger = Ledger(task)
    places = min(places, len(rows)) if windows[0].is_cuda else 1
    state: State | None = store.resume() if store else None
    if state:
        ledger.restore(state)
        places = state.values["places"]
    title = f"LSTM of {shape.hidden_size}"
    with Progress(shape.num_layers, config.epochs, len(rows), task.steps_per_epoch, title=title) as progress:
        progress.resume(ledger.epochs_behind)
        try:
            LstmTrainer(task, ledger, places, progress, state).run(rule, store)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{places} LSTMs of {shape.hidden_size} at once, with train.batch_size = {config.batch_size}, need "
                "more memory than the device has. Lower lstm.places or train.batch_size, or free the memory that "
                "other programs use"
            ) from error
    return ledger.training()
