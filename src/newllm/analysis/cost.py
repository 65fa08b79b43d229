"""What a depth costs: seconds, energy and operations of a training, and of the way to a target perplexity.

Seconds count by the seed's median epoch: the first also compiles and captures graphs, and the depth that happens to be
trained first pays for the others. Joules count by the mean of the epochs of about that length: the counter of a GPU
moves in steps that can be a third of what an epoch takes, so that the median would be one of few values.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from newllm.analysis.expansion import Grown
from newllm.analysis.published import POINTS
from newllm.analysis.records import Count, Record, validate, write_again
from newllm.analysis.results import CurveRow, DepthResult
from newllm.analysis.summary import Comparison
from newllm.files import read_json
from newllm.measurement.intervals import mean_interval

TARGET_PPL = min(point.val_ppl for point in POINTS if point.complete)
"""The validation perplexity of the notebook's best complete run (5 layers), a target on its text."""

ORDINARY = 1.25
"""An epoch that takes longer than so many times the median also compiled or captured."""

LARGEST_SIZE = 65_536
"""As in the schema of params.yaml; a record that says more is not believed."""


class _Split(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    windows: Count
    unk_share_pct: Annotated[float, Field(ge=0, le=100)] | None = None


class _DataMetrics(BaseModel):
    """The list in metrics/data.json, as far as it is needed here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    vocabulary_size: Count
    train: _Split
    validation: _Split | None = None


class _DataFile(Record):
    data: Annotated[list[_DataMetrics], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class TrainingData:
    """What an epoch goes through.

    Attributes:
        vocabulary_size: number of entries.
        positions: of all training windows, padding included.
        unk_share_pct: how many of the validation words are `<unk>`, in percent; None if not known.
    """

    vocabulary_size: int
    positions: int
    unk_share_pct: float | None = None


@dataclass(frozen=True)
class Effort:
    """Epochs of one seed, and what they take without its start-up; joules None where the device did not tell."""

    epochs: float
    seconds: float
    joules: float | None


def load_training_data(path: Path, window: int) -> TrainingData:
    """Sizes from metrics/data.json; a window of `window` tokens has one position less. UserError if it is damaged."""
    data = validate(_DataFile, read_json(path, "tokenize"), path, write_again("tokenize")).data[0]
    share = data.validation.unk_share_pct if data.validation else None
    return TrainingData(data.vocabulary_size, data.train.windows * (window - 1), share)


def target(comparison: Comparison) -> float:
    """The validation perplexity to be reached.

    20.5 on the study's text; on any other the mean best perplexity of the worst depth, so that all can reach it.
    """
    if comparison.matches_published_data:
        return TARGET_PPL
    return max(mean_interval(result.over_seeds("val_ppl")).mean for result in comparison.results)


def trainings(result: DepthResult) -> list[Effort]:
    """The whole training of every seed, in the order of the runs file."""
    return [_effort(rows, len(rows)) for rows in _by_seed(result)]


def ways(result: DepthResult, target_ppl: float) -> list[Effort | None]:
    """Of every seed, up to the first epoch whose validation perplexity is at most the target; None if there is none."""
    found: list[Effort | None] = []
    for rows in _by_seed(result):
        reached = next((row.epoch for row in rows if row.val_ppl <= target_ppl), None)
        found.append(None if reached is None else _effort(rows, reached))
    return found


def startup_seconds(result: DepthResult) -> float:
    """What a seed's training took beyond its epochs at the median, mean over seeds; not below 0."""
    return fmean(
        max(0.0, sum(row.seconds for row in rows) - effort.seconds)
        for rows, effort in zip(_by_seed(result), trainings(result), strict=True)
    )


def total_seconds(trained: Sequence[DepthResult | Grown]) -> float:
    """What these trainings took one after the other, start-ups included; the stages' other work is not."""
    return sum(row.seconds for one in trained for row in one.curve)


def seeds_side_by_side(result: DepthResult) -> int:
    """The most seeds that were trained at once: they have equal shares of the time of an epoch, to the last digit."""
    return max(Counter(row.seconds for row in result.curve if row.epoch == 1).values())


def petaflop_per_epoch(result: DepthResult, data: TrainingData | None) -> float | None:
    """Floating-point operations of one seed's training in an epoch, in units of 10^15; None where sizes are unknown.

    6 for each weight that a position meets in a product (2 forward, 4 backward), at every position of every window:
    nominal, since the trainer skips some of the padding. The embedding's half of the first layer is a table computed
    once a step, and counts nothing; nor does validation.
    """
    weights = _weights(result, data)
    return None if data is None or weights is None else 6 * weights[1] * data.positions / 1e15


def embedding_share(result: DepthResult, data: TrainingData | None) -> float | None:
    """Of the operations of the definition as written, those of the embedding's half of the first layer; a fraction."""
    weights = _weights(result, data)
    return None if weights is None else weights[0] / sum(weights)


def _weights(result: DepthResult, data: TrainingData | None) -> tuple[int, int] | None:
    """The weights that a position meets in products: those that read the embedding, and the others."""
    names = ("embedding_dim", "context_dim", "hidden_size")
    sizes: Any = [result.runs.parameters.get(f"model.{name}") for name in names]
    if data is None or not all(isinstance(size, int) and 0 < size <= LARGEST_SIZE for size in sizes):
        return None
    embedding, context, hidden = map(int, sizes)
    outputs = data.vocabulary_size + 3 * context  # logits, update and the two gates
    return embedding * hidden, context * hidden + (result.num_layers - 1) * hidden**2 + outputs * hidden


def mean_effort(found: Sequence[Effort | None]) -> Effort | None:
    """The mean over the seeds that have one; None if none has."""
    known = [effort for effort in found if effort is not None]
    if not known:
        return None
    joules = [effort.joules for effort in known if effort.joules is not None]
    return Effort(
        fmean(effort.epochs for effort in known),
        fmean(effort.seconds for effort in known),
        fmean(joules) if len(joules) == len(known) else None,
    )


def _by_seed(result: DepthResult) -> list[list[CurveRow]]:
    return [[row for row in result.curve if row.seed == run.seed] for run in result.runs.seeds]


def _effort(rows: Sequence[CurveRow], epochs: int) -> Effort:
    seconds = median(row.seconds for row in rows)
    joules = [row.joules for row in rows if row.joules is not None and row.seconds <= ORDINARY * seconds]
    return Effort(epochs, epochs * seconds, epochs * fmean(joules) if joules else None)
