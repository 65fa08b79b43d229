"""The trained models of a project's folder: which there are, which is best, and one of them ready for use."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from newllm.data.vocabulary import load_tokenizer
from newllm.errors import UserError
from newllm.files import check_sha256, read_json
from newllm.model.definition import ModelShape, Parameters
from newllm.training.weights import RECORD, TrainingRecord, load
from newllm.usage.recurrence import Recurrence

TOKENIZER = Path("data/tokenizer.json")


@dataclass(frozen=True)
class TrainedModel:
    """One trained model with its tokenizer: parameters stacked [1, ...], in float32 on the CPU."""

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


def training_records(project: Path) -> dict[int, TrainingRecord]:
    """The record of each depth that was trained in this project and is at hand; an empty dictionary where none is.

    Raises:
        UserError: a record is damaged.
    """
    folders = [path.parent for path in (project / "models").glob(f"*/{RECORD}") if path.parent.name.isdecimal()]
    records = {}
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        stage = f"train@{folder.name}"
        try:
            records[int(folder.name)] = TrainingRecord.model_validate(read_json(folder / RECORD, stage))
        except ValidationError as error:
            problem = f"not the record of a training ({error.error_count()} problems)"
            raise UserError(f"{folder / RECORD}: {problem}; run `dvc repro {stage}` to train again") from None
    return records


def mean_val_loss(record: TrainingRecord) -> float:
    """The mean of the seeds' validation losses, in nats."""
    return sum(result.val_loss for result in record.seeds) / len(record.seeds)


def best_depth(records: dict[int, TrainingRecord]) -> int:
    """The depth with the lowest mean validation loss."""
    return min(records, key=lambda depth: mean_val_loss(records[depth]))


def best_seed(record: TrainingRecord) -> int:
    """The seed with the lowest validation loss."""
    return min(record.seeds, key=lambda result: result.val_loss).seed


def open_model(project: Path, num_layers: int | None = None, seed: int | None = None) -> TrainedModel:
    """Reads one model; by default the best depth that is at hand, and its best seed.

    Raises:
        UserError: there is no such model, or a file is missing or damaged.
    """
    records = training_records(project)
    if not records or (num_layers is not None and num_layers not in records):
        there = f"only depths {', '.join(map(str, records))} are there" if records else "no model is there"
        raise UserError(
            f"{project / 'models' / str(num_layers or '')}: no trained model, {there}; {remedy(num_layers)}"
        )
    depth = best_depth(records) if num_layers is None else num_layers
    parameters, record = load(project / "models" / str(depth), depth)
    seeds = [result.seed for result in record.seeds]
    if seed is not None and seed not in seeds:
        raise UserError(f"seed {seed}: {project / 'models' / str(depth)} holds the seeds {', '.join(map(str, seeds))}")
    chosen = best_seed(record) if seed is None else seed
    tokenizer = load_tokenizer(project / TOKENIZER)
    check_sha256(project / TOKENIZER, "build_vocabulary")
    if tokenizer.get_vocab_size() != record.shape.vocabulary_size:
        raise UserError(
            f"{project / TOKENIZER}: found {tokenizer.get_vocab_size()} ids, but the model of depth {depth} has "
            f"{record.shape.vocabulary_size}; run `dvc repro train@{depth}` to train with this vocabulary"
        )
    place = slice(seeds.index(chosen), seeds.index(chosen) + 1)
    return TrainedModel(chosen, {name: value[place] for name, value in parameters.items()}, record, tokenizer)


def remedy(num_layers: int | None = None) -> str:
    """How to get trained weights."""
    depth = num_layers or "<depth>"
    return (
        f"fetch it by `dvc pull build_vocabulary train@{depth}` if the project has a DVC remote, train it by "
        f"`dvc repro train@{depth}`, or make small ones in a few minutes by `make demo` and add `--project build/demo`"
    )
