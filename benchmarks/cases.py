"""What is timed: one training step of each case, ready to be called again and again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from newllm.config import TrainConfig
from newllm.model.definition import ModelShape, initial_parameters, logits
from newllm.model.streams import dropout_masks
from newllm.runtime.device import DTYPES
from newllm.runtime.progress import Progress
from newllm.training.rows import Recipe, Row
from newllm.training.stack import Ledger, Task
from newllm.training.trainer import StackTrainer

LENGTH = 63  # positions of a window
VOCABULARY_SIZE = 1000
# of WikiText-2's training windows a fifth is padded; tokens of these at every twentieth of their number
SHORT_EVERY = 5
SHORT_LENGTHS = (7, 7, 7, 7, 8, 8, 9, 9, 9, 10, 10, 11, 12, 13, 15, 20, 27, 37, 47, 56)
DROPOUT = 0.1
LEARNING_RATE = 8e-4
STUDY = Recipe(LEARNING_RATE, DROPOUT, ((1, 0.5),))


@dataclass(frozen=True)
class Case:
    """One row of the benchmark; `prepare` builds the state and returns the step to time."""

    name: str
    num_layers: int
    num_seeds: int
    hidden_size: int
    precision: str
    flops_per_position: int
    prepare: Callable[[], Callable[[], None]]


def study_shape(num_layers: int, hidden_size: int = 512) -> ModelShape:
    """The study's sizes at a depth."""
    return ModelShape(VOCABULARY_SIZE, 256, 256, hidden_size, num_layers)


def random_windows(batch: int, device: torch.device, padding: bool = True) -> Tensor:
    """Ids [B, T + 1] like the corpus: about a third of all words are `<unk>` (1), and a fifth of the windows is short.

    Without `padding` every window is full.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY_SIZE, (batch, LENGTH + 1), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.3] = 1
    if padding:
        for index in range(0, batch, SHORT_EVERY):
            ids[index, SHORT_LENGTHS[index // SHORT_EVERY % len(SHORT_LENGTHS)] :] = 0
    return ids.int().to(device)


def plain_loop(num_layers: int, batch: int, device: torch.device, precision: str) -> Case:
    """The definition, position by position, with autograd, autocast and torch's own Adam: one seed."""
    shape = study_shape(num_layers)

    def prepare() -> Callable[[], None]:
        parameters = {name: p.to(device).requires_grad_() for name, p in initial_parameters(shape, [0]).items()}
        weights = list(parameters.values())
        size = (num_layers, LENGTH, batch, shape.hidden_size)
        windows = random_windows(batch, device).long()[None]
        optimise = _torch_optimiser(weights, device, precision)
        step = 0

        def run() -> None:
            nonlocal step
            keep = dropout_masks([0], [step], size, [DROPOUT], device)
            step += 1
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):  # type: ignore[index]
                outputs = logits(parameters, windows[:, :, :-1], keep, DROPOUT)
                loss = cross_entropy(outputs.flatten(0, 2), windows[:, :, 1:].flatten(), ignore_index=0)
            optimise(loss)

        return run

    return Case("plain_loop", num_layers, 1, shape.hidden_size, precision, shape.flops_per_position, prepare)


def lstm(batch: int, device: torch.device, precision: str) -> Case:
    """torch.nn.LSTM with one layer of 512 (2.35 M parameters), the same head and optimiser: one seed."""
    embedding_dim, hidden_size = 256, 512

    def prepare() -> Callable[[], None]:
        embedding = nn.Embedding(VOCABULARY_SIZE, embedding_dim).to(device)
        recurrent = nn.LSTM(embedding_dim, hidden_size, batch_first=True).to(device)
        head = nn.Linear(hidden_size, VOCABULARY_SIZE).to(device)
        weights = [p for module in (embedding, recurrent, head) for p in module.parameters()]
        windows = random_windows(batch, device).long()
        optimise = _torch_optimiser(weights, device, precision)

        def run() -> None:
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):  # type: ignore[index]
                hidden = nn.functional.dropout(recurrent(embedding(windows[:, :-1]))[0], DROPOUT)
                loss = cross_entropy(head(hidden).flatten(0, 1), windows[:, 1:].flatten(), ignore_index=0)
            optimise(loss)

        return run

    products = 4 * hidden_size * (embedding_dim + hidden_size) + VOCABULARY_SIZE * hidden_size
    return Case("lstm", 1, 1, hidden_size, precision, 6 * products, prepare)


def engine(
    num_layers: int,
    num_seeds: int,
    batch: int,
    device: torch.device,
    precision: str,
    hidden_size: int = 512,
    padding: bool = True,
    recipes: bool = False,
) -> Case:
    """This project's trainer with a stack of seeds, or of recipes that all differ."""
    shape = study_shape(num_layers, hidden_size)

    def prepare() -> Callable[[], None]:
        trainer = stack_trainer(shape, num_seeds, batch, (batch, batch), device, precision, padding, recipes)
        trainer.start_epoch()

        def run() -> None:
            trainer.position.zero_()
            trainer.next_step(batch)

        return run

    name = "engine, recipes" if recipes else "engine"
    return Case(name, num_layers, num_seeds, hidden_size, precision, shape.flops_per_position, prepare)


def stack_trainer(
    shape: ModelShape,
    num_seeds: int,
    batch: int,
    sizes: tuple[int, int],
    device: torch.device,
    precision: str,
    padding: bool = True,
    recipes: bool = False,
) -> StackTrainer:
    """This project's trainer on random windows, as many for training and for validation as `sizes` says."""
    config = TrainConfig(
        seeds=list(range(num_seeds)),
        epochs=10,
        batch_size=batch,
        base_learning_rate=LEARNING_RATE,
        base_batch_size=batch,
        schedule="constant",
        warmup_epochs=0,
        precision=precision,  # type: ignore[arg-type]
        gradient_clipping=[[1, 0.5]],
        patience=1,
        min_improvement=0,
    )
    rows = [Row(seed, recipe(seed) if recipes else STUDY) for seed in range(num_seeds)]
    windows = random_windows(sizes[0], device, padding), random_windows(sizes[1], device, padding)
    progress = Progress(shape.num_layers, 1, 1, 1, silent=True)
    task = Task(shape, rows, config, windows)
    return StackTrainer(task, Ledger(task), num_seeds, progress)


def recipe(number: int) -> Recipe:
    """One of many that differ in everything."""
    return Recipe(
        learning_rate=LEARNING_RATE * 2 ** (number % 5 - 2),
        dropout=0.1 * (number % 7),
        gradient_clipping=((1, 0.5 + number),),
        initialisation="he" if number % 2 else "normal",
        schedule="linear" if number % 3 else "constant",
        warmup_epochs=number % 4,
    )


def _torch_optimiser(weights: Sequence[Tensor], device: torch.device, precision: str) -> Callable[[Tensor], None]:
    """Backward, loss scaling, clipping and Adam as torch offers them."""
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def optimise(loss: Tensor) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(weights, 0.5)
        scaler.step(optimizer)
        scaler.update()

    return optimise
