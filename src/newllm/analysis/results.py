"""Reads and checks what the train and evaluate stages wrote about each depth."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from newllm.errors import UserError
from newllm.files import read_json

# Bounds far beyond any real run keep sums of squares finite.
Amount = Annotated[float, Field(ge=0, le=1e100)]
Perplexity = Annotated[float, Field(ge=1, le=1e100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]

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


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LayerMetrics(_Record):
    """metrics/layers/<depth>.json: means over seeds; losses in nats, accuracies as fractions, times in seconds.

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


class SeedRun(_Record):
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

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.best_epoch > self.epochs_run:
            raise ValueError(f"best_epoch {self.best_epoch} is beyond epochs_run {self.epochs_run}")
        return self


class RunRecord(_Record):
    """The record in metrics/runs/<depth>.json: what each seed reached, and how and where it was trained.

    `parameters` may be nested in the file and has one level of dotted names here.
    """

    num_layers: Count
    device: Text
    precision: Text
    torch_version: Text
    git_commit: Text | None
    git_dirty: bool | None
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


class RunsFile(_Record):
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
    metrics_path = metrics_dir / "layers" / f"{depth}.json"
    runs_path = metrics_dir / "runs" / f"{depth}.json"
    curve_path = curves_dir / f"{depth}.csv"
    metrics = _validate(LayerMetrics, read_json(metrics_path, stage), metrics_path, stage)
    runs = _validate(RunsFile, read_json(runs_path, stage), runs_path, stage).runs[0]
    for path, found in ((metrics_path, metrics.num_layers), (runs_path, runs.num_layers)):
        if found != depth:
            raise _problem(path, stage, f"found num_layers {found}, expected {depth}")
    _check_means(metrics, runs, metrics_path, stage)
    curve = _load_curve(curve_path, depth, stage)
    _check_curve(curve, runs, curve_path, stage)
    return DepthResult(metrics, runs, tuple(curve))


_Model = TypeVar("_Model", bound=BaseModel)


def _validate(model: type[_Model], values: Mapping[str, Any], path: Path, stage: str, place: str = "") -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        raise _problem(path, stage, f"{place}key {name} is missing")
    if first["type"] == "extra_forbidden":
        raise _problem(path, stage, f"{place}unknown key {name}")
    if first["type"] == "value_error":
        raise _problem(path, stage, f"{place}{name}{': ' if name else ''}{message}")
    found = repr(first["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    raise _problem(path, stage, f"{place}{name}: found {found}; expected: {message[0].lower() + message[1:]}")


def _check_means(metrics: LayerMetrics, runs: RunRecord, path: Path, stage: str) -> None:
    if metrics.num_seeds != len(runs.seeds):
        raise _problem(path, stage, f"found num_seeds {metrics.num_seeds}, but {len(runs.seeds)} seeds in metrics/runs")
    for name in ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy"):
        mean = math.fsum(getattr(run, name) for run in runs.seeds) / len(runs.seeds)
        if not math.isclose(getattr(metrics, name), mean, rel_tol=1e-3):
            found = f"found {name} {getattr(metrics, name):g}"
            raise _problem(path, stage, f"{found}, but the mean of the seeds in metrics/runs is {mean:g}")


def _load_curve(path: Path, depth: int, stage: str) -> list[CurveRow]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise _problem(path, stage, "no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _problem(path, stage, f"not valid CSV ({error})") from None
    if not rows or tuple(rows[0]) != CURVE_COLUMNS:
        found = ",".join(rows[0])[:200] if rows else "nothing"
        raise _problem(path, stage, f"found the header {found!r}, expected {','.join(CURVE_COLUMNS)}")
    curve = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(CURVE_COLUMNS):
            raise _problem(path, stage, f"row {number} has {len(cells)} cells, expected {len(CURVE_COLUMNS)}")
        row = _validate(CurveRow, dict(zip(CURVE_COLUMNS, cells, strict=True)), path, stage, f"row {number}: ")
        if row.num_layers != depth:
            raise _problem(path, stage, f"row {number}: found num_layers {row.num_layers}, expected {depth}")
        curve.append(row)
    return sorted(curve, key=lambda row: (row.seed, row.epoch))


def _check_curve(curve: Sequence[CurveRow], runs: RunRecord, path: Path, stage: str) -> None:
    epochs: dict[int, list[int]] = {}
    for row in curve:
        epochs.setdefault(row.seed, []).append(row.epoch)
    expected = sorted(run.seed for run in runs.seeds)
    if sorted(epochs) != expected:
        raise _problem(path, stage, f"found seeds {sorted(epochs)}, but metrics/runs has {expected}")
    for run in runs.seeds:
        found_epochs = epochs[run.seed]
        if len(found_epochs) != run.epochs_run or found_epochs != list(range(1, len(found_epochs) + 1)):
            found = f"seed {run.seed} has {len(found_epochs)} rows up to epoch {max(found_epochs)}"
            raise _problem(path, stage, f"{found}, but metrics/runs says epochs 1 to {run.epochs_run}, once each")


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


def _problem(path: Path, stage: str, what: str) -> UserError:
    return UserError(f"{path}: {what}; run `dvc repro {stage}` to write it again")
