"""What the stages wrote, read and checked: each file against its schema, and the files against one another."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from newllm.errors import UserError
from newllm.files import read_json
from newllm.measurement.intervals import Estimate, mean_interval

# Bounds far beyond any real run keep sums of squares finite.
Amount = Annotated[float, Field(ge=0, le=1e100)]
Perplexity = Annotated[float, Field(ge=1, le=1e100)]
Loss = Annotated[float, Field(ge=0, le=230)]  # its exponential is within the bounds of a perplexity
Gap = Annotated[float, Field(ge=-230, le=230)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]

LOSS_TOLERANCE = 0.001
"""Nats between two stages' losses of the same weights; rounding makes some 1e-4."""
GROWN_DEPTHS = (1, 4)
PATTERNS = ("freeze", "finetune", "longer", "scratch")
"""As the expand stage names them: the two ways of growing, then what they have to be compared with."""
COLUMNS = ["num_layers", "seed", "epoch", "train_loss", "val_loss", "val_ppl", "val_accuracy", "gradient_norm"]
COLUMNS += ["loss_scale", "seconds"]
ENERGY_COLUMN = "joules"
"""A last column that curves of earlier trainings lack; empty where the device did not tell."""


class Record(BaseModel):
    """A part of a metrics file: no unknown key, no conversion of types, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LayerMetrics(Record):
    """Means over the seeds of one model: losses in nats, accuracies as fractions, seconds.

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
    """One seed; units as in LayerMetrics."""

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


class Provenance(Record):
    """What a training ran on; None where a file does not say."""

    device: Text
    torch_version: Text | None = None
    git_commit: Text | None = None
    git_dirty: bool | None = None
    git_problem: Text | None = None


class RunRecord(Provenance):
    """The record in metrics/runs/<depth>.json; `parameters` has one level of dotted names here."""

    num_layers: Count
    precision: Text
    torch_version: Text
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


class GrownSeed(SeedRun):
    """One seed; also the validation loss before the first step, and that of the base model of this seed."""

    start_val_loss: Loss
    base_val_loss: Amount


class GrownRun(Provenance):
    """One pattern at one depth."""

    pattern: Text
    context_dim: Count
    norm_blocks: Count
    seeds: Annotated[list[GrownSeed], Field(min_length=1)]


class GrownFile(LayerMetrics):
    """The details in metrics/expand/<depth>-<pattern>.json."""

    start_val_loss: Amount
    base_val_loss: Amount
    runs: Annotated[list[GrownRun], Field(min_length=1, max_length=1)]


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


class GradientNorms(Record):
    """Norms of the gradient by weight, of fresh weights and of the best ones."""

    initial: dict[Text, Amount]
    best: dict[Text, Amount]


class SeedDiagnosis(Record):
    """One seed; losses in nats, by position None where no target is.

    The gain is what `context_stride` more tokens of context are worth, by position in the later of two windows.
    """

    seed: Seed
    train_loss_without_dropout: Loss
    val_loss: Loss
    gap: Gap
    val_loss_without_unk: Loss
    val_ppl_without_unk: Perplexity
    val_loss_by_position: list[Loss | None]
    val_loss_by_position_full_windows: list[Loss | None]
    context_gain_by_position: list[Gap]
    gradient_norms: GradientNorms


class Continuation(Record):
    """What one seed's model writes after a prompt."""

    prompt: str
    greedy: str
    sampled: str


class Samples(Record):
    """Continuations by the model of one seed."""

    seed: Seed
    texts: list[Continuation]


class Diagnosis(Record):
    """metrics/diagnostics/<depth>.json: what was looked into at one depth; targets by position are numbers of them.

    `context_pairs` are the pairs of windows that overlap, `context_stride` tokens apart.
    """

    num_layers: Count
    device: Text
    precision: Text
    train_windows: Count
    val_windows: Count
    gradient_windows: Count
    targets_by_position: list[int]
    targets_by_position_full_windows: list[int]
    context_stride: Count
    context_pairs: Annotated[int, Field(ge=0, le=10**15)]
    seeds: Annotated[list[SeedDiagnosis], Field(min_length=1)]
    samples: Samples

    @model_validator(mode="after")
    def _complete(self) -> Self:
        layers = {f"hidden.{layer}.weight" for layer in range(1, self.num_layers + 1)}
        gains = len(self.targets_by_position) - self.context_stride if self.context_pairs else 0
        for seed in self.seeds:
            if len(seed.context_gain_by_position) != gains:
                raise ValueError(f"seed {seed.seed}: context_gain_by_position has not the {gains} positions of overlap")
            for name in ("", "_full_windows"):
                targets = getattr(self, f"targets_by_position{name}")
                losses = getattr(seed, f"val_loss_by_position{name}")
                if [loss is not None for loss in losses] != [count > 0 for count in targets]:
                    raise ValueError(
                        f"seed {seed.seed}: val_loss_by_position{name} has values elsewhere than where targets are"
                    )
            for norms in (seed.gradient_norms.initial, seed.gradient_norms.best):
                if missing := sorted(layers - norms.keys()):
                    raise ValueError(f"seed {seed.seed}: gradient_norms lack {missing[0]}")
        return self

    def layer_norms(self, weights: str) -> tuple[float, ...]:
        """By hidden layer the norm of its weights' gradient, mean over seeds; `weights` is initial or best."""
        names = [f"hidden.{layer}.weight" for layer in range(1, self.num_layers + 1)]
        norms = [getattr(seed.gradient_norms, weights) for seed in self.seeds]
        return tuple(math.fsum(one[name] for one in norms) / len(norms) for name in names)


class DiagnosticsFile(Record):
    """metrics/diagnostics/<depth>.json as a whole."""

    diagnostics: Annotated[list[Diagnosis], Field(min_length=1, max_length=1)]


class Split(BaseModel):
    """A split in metrics/data.json, as far as it is needed here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    windows: Count
    unk_share_pct: Annotated[float, Field(ge=0, le=100)] | None = None


class TrainingData(BaseModel):
    """The list in metrics/data.json, as far as it is needed here; shares of `<unk>` in percent of the words."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    vocabulary_size: Count
    train: Split
    validation: Split | None = None


class DataFile(Record):
    """metrics/data.json as a whole."""

    data: Annotated[list[TrainingData], Field(min_length=1, max_length=1)]


@dataclass(frozen=True, eq=False)
class Group:
    """Models that were trained alike but for their seeds.

    Attributes:
        kind: notebook (the study's own recipe), grown, changed, tuned, equal or lstm.
        name: of the recipe or the pattern.
        num_layers: depth.
        num_params: parameters of one model.
        seeds: a row a seed, in the order of the file: the fields of SeedRun, and of what else was measured.
        curve: a row a seed and epoch, in that order: the fields of CurveRow; empty where no curve is kept.
        about: where and with which code it was trained: the fields of Provenance, precision and data_sha256.
        parameters: dotted name → value.
        changes: what differs from the study's recipe, or the recipe that a search chose.
        norms: `initial` and `best`: by hidden layer the norm of its gradient; empty if not measured.
        diagnosis: what else was looked into.
    """

    kind: str
    name: str
    num_layers: int
    num_params: int
    seeds: pd.DataFrame
    curve: pd.DataFrame
    about: Mapping[str, Any]
    parameters: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    diagnosis: Diagnosis | None = None

    def values(self, name: str) -> list[float]:
        """A figure of every seed, in the order of the file."""
        return [float(value) for value in self.seeds[name]]

    def has(self, name: str) -> bool:
        """Whether a figure was measured of every seed."""
        return name in self.seeds and bool(self.seeds[name].notna().all())

    def estimate(self, name: str) -> Estimate:
        """A figure's mean over seeds, with its interval."""
        return mean_interval(self.values(name))

    def mean(self, name: str) -> float:
        """A figure's mean over seeds."""
        return self.estimate(name).mean

    def rows(self) -> list[dict[str, Any]]:
        """The seeds as mappings."""
        return [{str(name): value for name, value in row.items()} for row in self.seeds.to_dict("records")]

    def curves(self) -> list[pd.DataFrame]:
        """The curve of every seed, in the order of the file."""
        return [self.curve[self.curve["seed"] == seed] for seed in self.seeds["seed"]]


_Model = TypeVar("_Model", bound=BaseModel)


def load_results(depths: Iterable[int], metrics_dir: Path, curves_dir: Path) -> list[Group]:
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


def load_diagnoses(results: Sequence[Group], folder: Path) -> list[Group]:
    """The results, with what the diagnose stage found of those depths of which it wrote a file in `folder`.

    Raises:
        UserError: a file is malformed, or is not of these results.
    """
    paths = [(result, folder / f"{result.num_layers}.json") for result in results]
    return [_diagnosed(result, path) if path.exists() else result for result, path in paths]


def load_grown(results: Sequence[Group], metrics_dir: Path, curves_dir: Path) -> list[Group]:
    """What there is of each depth and pattern, its seeds in the order of the base's.

    Raises:
        UserError: a file is malformed, or is not of these results.
    """
    pairs = [(base, pattern) for base in results if base.num_layers in GROWN_DEPTHS for pattern in PATTERNS]
    found = [(base, pattern, f"{base.num_layers}-{pattern}") for base, pattern in pairs]
    return [
        _load_grown(base, pattern, metrics_dir / f"{name}.json", curves_dir / f"{name}.csv")
        for base, pattern, name in found
        if (metrics_dir / f"{name}.json").exists()
    ]


def load_training_data(path: Path) -> TrainingData:
    """metrics/data.json; UserError if it is missing or damaged."""
    return validate(DataFile, read_json(path, "tokenize"), path, write_again("tokenize")).data[0]


def read_details(path: Path, stage: str) -> dict[str, Any]:
    """What stands in the list of a metrics file, whose plain figures, for DVC to compare, must say the same.

    Raises:
        UserError: the file is missing or damaged, or its plain figures are not those of the list.
    """
    plain = read_json(path, stage)
    details = plain.pop("details", None)
    remedy = write_again(stage)
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise problem(path, f"found {repr(details)[:60]} as details, expected a list of one object", remedy)
    figures: dict[str, Any] = details[0]
    for name, value in plain.items():
        if name not in figures or figures[name] != value:
            raise problem(path, f"found {name} {value!r}, but {figures.get(name)!r} in its details", remedy)
    return figures


def validate(model: type[_Model], values: Mapping[str, Any], path: Path, remedy: str, place: str = "") -> _Model:
    """The values as a record.

    Args:
        model: the record's type.
        values: what was read.
        path: the file, for the error.
        remedy: what to do, for the error.
        place: where in the file, for the error; ends with a space.

    Raises:
        UserError: a value is missing, unknown, or of another type or range than the record allows.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        raise problem(path, f"{place}key {name} is missing", remedy)
    if first["type"] == "extra_forbidden":
        raise problem(path, f"{place}unknown key {name}", remedy)
    if first["type"] == "value_error":
        raise problem(path, f"{place}{name}{': ' if name else ''}{message}", remedy)
    found = repr(first["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    raise problem(path, f"{place}{name}: found {found}; expected: {message[0].lower() + message[1:]}", remedy)


def problem(path: Path, what: str, remedy: str) -> UserError:
    """The error for a file: what is wrong with it and what to do."""
    return UserError(f"{path}: {what}; {remedy}")


def write_again(stage: str) -> str:
    """The remedy for a file that a stage writes."""
    return f"run `dvc repro {stage}` to write it again"


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one level with dotted names, as DVC writes them."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def table_of(rows: Sequence[BaseModel]) -> pd.DataFrame:
    """A row a record, a column a field."""
    return pd.DataFrame([row.model_dump() for row in rows])


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


def load_curve(
    path: Path, depth: int, seeds: Sequence[SeedRun], remedy: str, where: str = "metrics/runs"
) -> pd.DataFrame:
    """The rows of one depth's curve file by seed and epoch.

    Raises:
        UserError: it is missing or damaged, or has other seeds or epochs than the results, which stand in `where`.
    """
    curve = _read_curve(path, depth, remedy)
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
    return table_of(curve)


def _read_curve(path: Path, depth: int, remedy: str) -> list[CurveRow]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        raise problem(path, "no such file", remedy) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise problem(path, f"not valid CSV ({error})", remedy) from None
    columns = rows[0] if rows else []
    if columns not in (COLUMNS, [*COLUMNS, ENERGY_COLUMN]):
        found = ",".join(columns)[:200] or "nothing"
        raise problem(path, f"found the header {found!r}, expected {','.join(COLUMNS)}", remedy)
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


def _load_depth(depth: int, metrics_dir: Path, curves_dir: Path) -> Group:
    stage = f"evaluate@{depth}"
    remedy = write_again(stage)
    metrics_path = metrics_dir / "layers" / f"{depth}.json"
    runs_path = metrics_dir / "runs" / f"{depth}.json"
    metrics = validate(LayerMetrics, read_details(metrics_path, stage), metrics_path, remedy)
    runs = validate(RunsFile, read_json(runs_path, stage), runs_path, remedy).runs[0]
    for path, found in ((metrics_path, metrics.num_layers), (runs_path, runs.num_layers)):
        if found != depth:
            raise problem(path, f"found num_layers {found}, expected {depth}", remedy)
    check_means(metrics, runs.seeds, metrics_path, remedy)
    curve = load_curve(curves_dir / f"{depth}.csv", depth, runs.seeds, remedy)
    about = runs.model_dump(exclude={"seeds", "parameters", "num_layers"})
    return Group(
        "notebook", "notebook", depth, metrics.num_params, table_of(runs.seeds), curve, about, runs.parameters
    )  # fmt: skip


def _check_comparable(first: Group, second: Group, metrics_dir: Path) -> None:
    """Everything but the hardware must agree between depths; the report shows that."""

    def conditions(group: Group) -> dict[str, Any]:
        names = [name for name in group.parameters if name.rpartition(".")[2] != "num_layers"]
        about = {name: group.about[name] for name in ("precision", "data_sha256")}
        return {name: group.parameters[name] for name in names} | about | {"the seeds": sorted(group.seeds["seed"])}

    ours, theirs = conditions(first), conditions(second)
    for name in sorted(ours.keys() | theirs.keys()):
        values = [found.get(name, "nothing") for found in (ours, theirs)]
        if values[0] != values[1]:
            path = metrics_dir / "runs" / f"{second.num_layers}.json"
            raise UserError(
                f"{path}: depth {second.num_layers} was run with {name} {values[1]!r}, but depth {first.num_layers} "
                f"with {values[0]!r}; such results cannot be compared: run "
                f"`dvc repro evaluate@{first.num_layers} evaluate@{second.num_layers}` to bring both up to date"
            )


def _diagnosed(result: Group, path: Path) -> Group:
    stage = f"diagnose@{result.num_layers}"
    remedy = write_again(stage)
    found = validate(DiagnosticsFile, read_json(path, stage), path, remedy).diagnostics[0]
    if found.num_layers != result.num_layers:
        raise problem(path, f"found num_layers {found.num_layers}, expected {result.num_layers}", remedy)
    by_seed = {seed.seed: seed for seed in found.seeds}
    expected = list(result.seeds["seed"])
    if sorted(seed.seed for seed in found.seeds) != sorted(expected):
        raise problem(path, f"found the seeds {sorted(by_seed)}, but metrics/runs has {sorted(expected)}", remedy)
    for seed, val_loss in zip(expected, result.values("val_loss"), strict=True):
        if abs(by_seed[seed].val_loss - val_loss) > LOSS_TOLERANCE:
            values = f"found a validation loss of {by_seed[seed].val_loss:.4f}, but metrics/runs has {val_loss:.4f}"
            raise problem(path, f"seed {seed}: {values}", remedy)
    found = found.model_copy(update={"seeds": [by_seed[seed] for seed in expected]})
    names = ("train_loss_without_dropout", "val_loss_without_unk", "val_ppl_without_unk")
    seeds = result.seeds.assign(**{name: [getattr(seed, name) for seed in found.seeds] for name in names})
    norms = {weights: found.layer_norms(weights) for weights in ("initial", "best")}
    return replace(result, seeds=seeds, norms=norms, diagnosis=found)


def _load_grown(base: Group, pattern: str, path: Path, curve_path: Path) -> Group:
    stage = f"expand@{base.num_layers}-{pattern}"
    remedy = write_again(stage)
    metrics = validate(GrownFile, read_details(path, stage), path, remedy)
    run = metrics.runs[0]
    for name, found, expected in (
        ("num_layers", metrics.num_layers, base.num_layers),
        ("pattern", run.pattern, pattern),
        ("the seeds", sorted(seed.seed for seed in run.seeds), sorted(base.seeds["seed"])),
    ):
        if found != expected:
            raise problem(path, f"found {name} {found}, expected {expected}", remedy)
    check_means(metrics, run.seeds, path, remedy, "its list")
    by_seed = {seed.seed: seed for seed in run.seeds}
    for number, val_loss in zip(base.seeds["seed"], base.values("val_loss"), strict=True):
        loss = by_seed[number].base_val_loss
        if abs(loss - val_loss) > LOSS_TOLERANCE:
            what = f"found base_val_loss {loss:.4f}, but metrics/runs has {val_loss:.4f}"
            raise problem(path, f"seed {number}: {what}", remedy)
    curve = load_curve(curve_path, base.num_layers, run.seeds, remedy, str(path))
    seeds = table_of([by_seed[number] for number in base.seeds["seed"]])
    about = {name: base.about[name] for name in ("precision", "data_sha256")}
    about |= run.model_dump(include=set(Provenance.model_fields))
    parameters = {**base.parameters, "model.context_dim": run.context_dim}
    return Group("grown", pattern, base.num_layers, metrics.num_params, seeds, curve, about, parameters)
