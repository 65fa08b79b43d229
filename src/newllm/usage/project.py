"""The trained models of a project's folder: which there are, which is best, and one of them ready for use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from tokenizers import Tokenizer

from newllm.data.vocabulary import load_tokenizer
from newllm.errors import UserError
from newllm.files import check_sha256, read_json
from newllm.model.definition import ModelShape, Parameters
from newllm.training.weights import RECORD, TrainingRecord, load
from newllm.usage.recurrence import Recurrence

TOKENIZER = Path("data/tokenizer.json")


class Name(NamedTuple):
    """Which training: of this depth, with the notebook's recipe or tuned, with the best one that a search found."""

    num_layers: int
    tuned: bool = False

    def __str__(self) -> str:
        return f"{'tuned ' if self.tuned else ''}depth {self.num_layers}"

    @property
    def folder(self) -> Path:
        """Of its weights, in the project."""
        return Path("models", *(["tuned"] if self.tuned else []), str(self.num_layers))

    @property
    def stage(self) -> str:
        """Which trains it."""
        return f"{'confirm' if self.tuned else 'train'}@{self.num_layers}"


@dataclass(frozen=True)
class TrainedModel:
    """One trained model with its tokenizer: parameters stacked [1, ...], in float32 on the CPU."""

    name: Name
    seed: int
    parameters: Parameters
    record: TrainingRecord
    tokenizer: Tokenizer

    @property
    def shape(self) -> ModelShape:
        """The model's sizes, its depth among them."""
        return self.record.shape

    def recurrence(self) -> Recurrence:
        """The model as it reads and writes, a word at a time."""
        return Recurrence(self.parameters, self.shape.residual)


def training_records(project: Path) -> dict[Name, TrainingRecord]:
    """The record of each training in this project whose weights are at hand, by depth; empty where none are.

    Raises:
        UserError: a record is damaged.
    """
    names = [
        Name(int(path.parent.name), tuned)
        for tuned in (False, True)
        for path in (project / Name(0, tuned).folder.parent).glob(f"*/{RECORD}")
        if path.parent.name.isdecimal()
    ]
    records = {}
    for name in sorted(names):
        path = project / name.folder / RECORD
        try:
            records[name] = TrainingRecord.model_validate(read_json(path, name.stage))
        except ValidationError as error:
            problem = f"not the record of a training ({error.error_count()} problems)"
            raise UserError(f"{path}: {problem}; run `dvc repro {name.stage}` to train again") from None
    return records


def mean_val_loss(record: TrainingRecord) -> float:
    """The mean of the seeds' validation losses, in nats."""
    return sum(result.val_loss for result in record.seeds) / len(record.seeds)


def best_of(records: Mapping[Name, TrainingRecord]) -> Name:
    """The training with the lowest mean validation loss."""
    return min(records, key=lambda name: mean_val_loss(records[name]))


def best_seed(record: TrainingRecord) -> int:
    """The seed with the lowest validation loss."""
    return min(record.seeds, key=lambda result: result.val_loss).seed


def open_model(
    project: Path, num_layers: int | None = None, seed: int | None = None, tuned: bool | None = None
) -> TrainedModel:
    """Reads one model: of those of this depth, tuned or not, the best training that is at hand, and its best seed.

    Raises:
        UserError: there is no such model, or a file is missing or damaged.
    """
    every = training_records(project)
    records = {
        name: record
        for name, record in every.items()
        if num_layers in (None, name.num_layers) and tuned in (None, name.tuned)
    }
    if not records:
        wanted = f" of {Name(num_layers, bool(tuned))}" if num_layers else ""
        there = f"there is {', '.join(map(str, every))}" if every else "no model is there"
        raise UserError(f"{project / 'models'}: no trained model{wanted}, {there}; {remedy(num_layers, bool(tuned))}")
    name = best_of(records)
    folder = project / name.folder
    try:
        parameters, record = load(folder, name.num_layers)
    except UserError as error:  # which knows of part 1 alone
        raise UserError(str(error).replace(Name(name.num_layers).stage, name.stage)) from None
    seeds = [result.seed for result in record.seeds]
    if seed is not None and seed not in seeds:
        raise UserError(f"seed {seed}: {folder} holds the seeds {', '.join(map(str, seeds))}")
    chosen = best_seed(record) if seed is None else seed
    tokenizer = load_tokenizer(project / TOKENIZER)
    check_sha256(project / TOKENIZER, "build_vocabulary")
    if tokenizer.get_vocab_size() != record.shape.vocabulary_size:
        raise UserError(
            f"{project / TOKENIZER}: found {tokenizer.get_vocab_size()} ids, but the model of {name} has "
            f"{record.shape.vocabulary_size}; run `dvc repro {name.stage}` to train with this vocabulary"
        )
    place = slice(seeds.index(chosen), seeds.index(chosen) + 1)
    return TrainedModel(name, chosen, {key: value[place] for key, value in parameters.items()}, record, tokenizer)


def remedy(num_layers: int | None = None, tuned: bool = False) -> str:
    """How to get trained weights."""
    stage = Name(num_layers, tuned).stage if num_layers else f"{'confirm' if tuned else 'train'}@<depth>"
    ways = [
        f"fetch it by `dvc pull build_vocabulary {stage}` if the project has a DVC remote",
        f"train it by `dvc repro {stage}`",
    ]
    if not tuned:  # which the demo does not do
        ways.append("make small ones in a few minutes by `make demo` and add `--project build/demo`")
    return ", or ".join(ways)
