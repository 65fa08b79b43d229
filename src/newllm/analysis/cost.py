"""What a depth costs: seconds and operations of a training, and of the way to a target perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from newllm.analysis.records import Count, validate, write_again
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import mean_interval
from newllm.analysis.summary import Comparison
from newllm.files import read_json

TARGET_PPL = 20.5
"""The validation perplexity of the notebook's best complete run (5 layers), a target on its text."""

LARGEST_SIZE = 65_536
"""As in the schema of params.yaml; a record that says more is not believed."""


class _Split(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    windows: Count


class _DataMetrics(BaseModel):
    """metrics/data.json, as far as it is needed here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    vocabulary_size: Count
    train: _Split


@dataclass(frozen=True)
class TrainingData:
    """What an epoch goes through: entries of the vocabulary, and positions of all windows, padding included."""

    vocabulary_size: int
    positions: int


@dataclass(frozen=True)
class Way:
    """One seed's way to the target, up to the first epoch whose validation perplexity is at most it."""

    epochs: float
    seconds: float


def load_training_data(path: Path, window: int) -> TrainingData:
    """Sizes from metrics/data.json; a window of `window` tokens has one position less. UserError if it is damaged."""
    data = validate(_DataMetrics, read_json(path, "tokenize"), path, write_again("tokenize"))
    return TrainingData(data.vocabulary_size, data.train.windows * (window - 1))


def target(comparison: Comparison) -> float:
    """The validation perplexity to be reached.

    20.5 on the study's text; on any other the mean best perplexity of the worst depth, so that all can reach it.
    """
    if comparison.matches_published_data:
        return TARGET_PPL
    return max(mean_interval(result.over_seeds("val_ppl")).mean for result in comparison.results)


def ways(result: DepthResult, target_ppl: float) -> list[Way | None]:
    """How every seed came to the target, in the order of the runs file; None if it never did."""
    found: list[Way | None] = []
    for run in result.runs.seeds:
        rows = [row for row in result.curve if row.seed == run.seed]
        reached = next((row.epoch for row in rows if row.val_ppl <= target_ppl), None)
        seconds = sum(row.seconds for row in rows if reached is not None and row.epoch <= reached)
        found.append(None if reached is None else Way(reached, seconds))
    return found


def petaflop_per_epoch(result: DepthResult, data: TrainingData | None) -> float | None:
    """Floating-point operations of one seed's training in an epoch, in units of 10^15; None where sizes are unknown.

    6 for each weight that a position meets in a product (2 forward, 4 backward), at every position of every window. The
    embedding's half of the first layer is a table computed once a step, and counts nothing; nor does validation.
    """
    sizes: Any = [result.runs.parameters.get(f"model.{name}") for name in ("context_dim", "hidden_size")]
    if data is None or not all(isinstance(size, int) and 0 < size <= LARGEST_SIZE for size in sizes):
        return None
    context, hidden = sizes
    outputs = data.vocabulary_size + 3 * context  # logits, update and the two gates
    weights = context * hidden + (result.num_layers - 1) * hidden**2 + outputs * hidden
    return 6 * int(weights) * data.positions / 1e15


def mean_of_ways(found: Sequence[Way | None]) -> Way | None:
    """The mean over the seeds that reached the target; None if none did."""
    reached = [way for way in found if way is not None]
    if not reached:
        return None
    seconds = sum(way.seconds for way in reached) / len(reached)
    return Way(sum(way.epochs for way in reached) / len(reached), seconds)
