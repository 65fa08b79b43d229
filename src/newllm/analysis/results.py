"""Reads and checks what the train and evaluate stages wrote about each depth."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from newllm.analysis.records import (
    Amount,
    Count,
    Fraction,
    Perplexity,
    Record,
    Seed,
    Text,
    problem,
    read_details,
    validate,
    write_again,
)
from newllm.errors import UserError
from newllm.files import read_json

CURVE_COLUMNS = (
    "num_layers",
    "seed",
    "epoch",
    "train_loss",
    "val_loss",
    "val_ppl",
    "val_accuracy",
    "gradient_norm",
    "loss_scale",
    "seconds",
)
ENERGY_COLUMN = "joules"
"""A last column that curves of earlier trainings lack; empty where the device did not tell."""


class LayerMetrics(Record):
    """The details in metrics/layers/<depth>.json: means over seeds; losses in nats, accuracies as fractions, seconds.

    The last four, sample standard deviation and half-width of the 95 % interval, are absent for one seed.
    """

    num_layers: Count
    num_params: Count
    num_seeds: Count
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    test_loss: Amount
    test_ppl: Perplexity
    test_accuracy: Fraction
    train_loss: Amount
    best_epoch: Amount
    epochs_run: Amount
    train_seconds: Amount
    tokens_per_second: Amount
    val_ppl_std: Amount | None = None
    val_ppl_ci95: Amount | None = None
    test_ppl_std: Amount | None = None
    test_ppl_ci95: Amount | None = None

    @model_validator(mode="after")
    def _spread(self) -> Self:
        names = ("val_ppl_std", "val_ppl_ci95", "test_ppl_std", "test_ppl_ci95")
        missing = [name for name in names if getattr(self, name) is None]
        if self.num_seeds > 1 and missing:
            raise ValueError(f"key {missing[0]} is missing, expected for {self.num_seeds} seeds")
        return self


class SeedRun(Record):
    """One seed in metrics/runs/<depth>.json; units as in LayerMetrics."""

    seed: Seed
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    test_loss: Amount
    test_ppl: Perplexity
    test_accuracy: Fraction
    train_loss: Amount
    best_epoch: Count
    epochs_run: Count
    train_seconds: Amount
    tokens_per_second: Amount
    stopped_early: bool
    ended: Text | None = None
    problem: Text | None = None

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.best_epoch > self.epochs_run:
            raise ValueError(f"best_epoch {self.best_epoch} is beyond epochs_run {self.epochs_run}")
        return self


class RunRecord(Record):
    """The record in metrics/runs/<depth>.json: what each seed reached, and how and where it was trained.

    `parameters` may be nested in the file and has one level of dotted names here.
    """

    num_layers: Count
    device: Text
    precision: Text
    torch_version: Text
    git_commit: Text | None
    git_dirty: bool | None
    git_problem: Text | None = None
    data_sha256: Text
    parameters: dict[Text, Any]
    seeds: Annotated[list[SeedRun], Field(min_length=1)]

    @field_validator("parameters")
    @classmethod
    def _plain(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """One level with dotted names, of values that a report can print."""
        try:
            json.dumps(parameters, allow_nan=False, ensure_ascii=False).encode()
            return flatten(parameters)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected finite numbers, texts and lists ({error})") from None

    @model_validator(mode="after")
    def _unique(self) -> Self:
        numbers = [run.seed for run in self.seeds]
        twice = [number for number in numbers if numbers.count(number) > 1]
        if twice:
            raise ValueError(f"seed {twice[0]} is listed twice")
        return self


class RunsFile(Record):
    """metrics/runs/<depth>.json as a whole: a list of one record, since DVC compares no figures inside lists."""

    runs: Annotated[list[RunRecord], Field(min_length=1, max_length=1)]


class CurveRow(BaseModel):
    """One seed's epoch in plots/curves/<depth>.csv; columns that the report does not use are not interpreted."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    num_layers: Count
    seed: Seed
    epoch: Count
    train_loss: Amount
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    seconds: Amount
    joules: Amount | None = None


@dataclass(frozen=True)
class DepthResult:
    """All that is known of one depth: means, seeds and provenance, and the curve rows by seed and epoch."""

    metrics: LayerMetrics
    runs: RunRecord
    curve: tuple[CurveRow, ...]

    @property
    def num_layers(self) -> int:
        """Depth."""
        return self.metrics.num_layers

    def over_seeds(self, name: str) -> list[float]:
        """A figure of every seed, in the order of the runs file; `name` is an attribute of SeedRun."""
        return [float(getattr(run, name)) for run in self.runs.seeds]


def load_results(depths: Iterable[int], metrics_dir: Path, curves_dir: Path) -> list[DepthResult]:
    """Reads the files of exactly these depths, shallowest first; a depth given twice counts once.

    Raises:
        UserError: a file is missing, malformed, or contradicts another; or two depths were trained with different
            parameters, seeds, precision or data, so that they cannot be compared.
    """
    results = [_load_depth(depth, metrics_dir, curves_dir) for depth in sorted(set(depths))]
    if not results:
        raise UserError("no depth to report on; give --num-layers one depth or more")
    for result in results[1:]:
        _check_comparable(results[0], result, metrics_dir)
    return results


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one level with dotted names, as DVC writes them."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _load_depth(depth: int, metrics_dir: Path, curves_dir: Path) -> DepthResult:
    stage = f"evaluate@{depth}"
    remedy = write_again(stage)
    metrics_path = metrics_dir / "layers" / f"{depth}.json"
    runs_path = metrics_dir / "runs" / f"{depth}.json"
    curve_path = curves_dir / f"{depth}.csv"
    metrics = validate(LayerMetrics, read_details(metrics_path, stage), metrics_path, remedy)
    runs = validate(RunsFile, read_json(runs_path, stage), runs_path, remedy).runs[0]
    for path, found in ((metrics_path, metrics.num_layers), (runs_path, runs.num_layers)):
        if found != depth:
            raise problem(path, f"found num_layers {found}, expected {depth}", remedy)
    check_means(metrics, runs.seeds, metrics_path, remedy)
    curve = load_curve(curve_path, depth, remedy)
    check_curve(curve, runs.seeds, curve_path, remedy)
    return DepthResult(metrics, runs, tuple(curve))


def check_means(
    metrics: LayerMetrics, seeds: Sequence[SeedRun], path: Path, remedy: str, where: str = "metrics/runs"
) -> None:
    """Raises UserError if means in `path` are not those of the seeds, which stand in `where`."""
    if metrics.num_seeds != len(seeds):
        raise problem(path, f"found num_seeds {metrics.num_seeds}, but {len(seeds)} seeds in {where}", remedy)
    for name in ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy"):
        mean = math.fsum(getattr(run, name) for run in seeds) / len(seeds)
        if not math.isclose(getattr(metrics, name), mean, rel_tol=1e-3):
            found = f"found {name} {getattr(metrics, name):g}"
            raise problem(path, f"{found}, but the mean of the seeds in {where} is {mean:g}", remedy)


def load_curve(path: Path, depth: int, remedy: str) -> list[CurveRow]:
    """The rows of one depth's curve file by seed and epoch; UserError if it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise problem(path, "no such file", remedy) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise problem(path, f"not valid CSV ({error})", remedy) from None
    columns = tuple(rows[0]) if rows else ()
    if columns not in (CURVE_COLUMNS, (*CURVE_COLUMNS, ENERGY_COLUMN)):
        found = ",".join(columns)[:200] or "nothing"
        raise problem(path, f"found the header {found!r}, expected {','.join(CURVE_COLUMNS)}", remedy)
    curve = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(columns):
            raise problem(path, f"row {number} has {len(cells)} cells, expected {len(columns)}", remedy)
        values = dict(zip(columns, cells, strict=True))
        if values.get(ENERGY_COLUMN) == "":
            del values[ENERGY_COLUMN]
        row = validate(CurveRow, values, path, remedy, f"row {number}: ")
        if row.num_layers != depth:
            raise problem(path, f"row {number}: found num_layers {row.num_layers}, expected {depth}", remedy)
        curve.append(row)
    return sorted(curve, key=lambda row: (row.seed, row.epoch))


def check_curve(
    curve: Sequence[CurveRow], seeds: Sequence[SeedRun], path: Path, remedy: str, where: str = "metrics/runs"
) -> None:
    """Raises UserError if the curve in `path` has other seeds or epochs than the results, which stand in `where`."""
    epochs: dict[int, list[int]] = {}
    for row in curve:
        epochs.setdefault(row.seed, []).append(row.epoch)
    expected = sorted(run.seed for run in seeds)
    if sorted(epochs) != expected:
        raise problem(path, f"found seeds {sorted(epochs)}, but {where} has {expected}", remedy)
    for run in seeds:
        found_epochs = epochs[run.seed]
        if len(found_epochs) != run.epochs_run or found_epochs != list(range(1, len(found_epochs) + 1)):
            found = f"seed {run.seed} has {len(found_epochs)} rows up to epoch {max(found_epochs)}"
            raise problem(path, f"{found}, but {where} says epochs 1 to {run.epochs_run}, once each", remedy)


def _check_comparable(first: DepthResult, second: DepthResult, metrics_dir: Path) -> None:
    ours, theirs = _conditions(first.runs), _conditions(second.runs)
    for name in sorted(ours.keys() | theirs.keys()):
        values = [conditions.get(name, "nothing") for conditions in (ours, theirs)]
        if values[0] != values[1]:
            path = metrics_dir / "runs" / f"{second.num_layers}.json"
            raise UserError(
                f"{path}: depth {second.num_layers} was run with {name} {values[1]!r}, but depth {first.num_layers} "
                f"with {values[0]!r}; such results cannot be compared: run "
                f"`dvc repro evaluate@{first.num_layers} evaluate@{second.num_layers}` to bring both up to date"
            )


def _conditions(runs: RunRecord) -> dict[str, Any]:
    """Everything that must agree between depths; the hardware need not, the report shows it."""
    parameters = {name: value for name, value in runs.parameters.items() if name.rpartition(".")[2] != "num_layers"}
    seeds = sorted(run.seed for run in runs.seeds)
    return {**parameters, "precision": runs.precision, "data_sha256": runs.data_sha256, "the seeds": seeds}
