"""What the stages wrote, read and checked: each file against its schema, and the files against one another."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from newllm.analysis import schemas
from newllm.errors import UserError
from newllm.files import read_json
from newllm.measurement.intervals import Estimate, mean_interval

PLATEAU_PPL = 60.0
"""The plateau are the epochs before validation perplexity first falls below it: `<unk>` everywhere gives near 67."""
LOSS_TOLERANCE = 0.001
"""Nats between two stages' losses of the same weights; rounding makes some 1e-4."""
GROWN_DEPTHS = (1, 4)
KINDS = {"tuned": ("tuned",) * 2, "equal": ("equal", "equal parameters"), "lstm": ("lstm", "LSTM, {}")}
KINDS |= {"recipes": ("changed", "{}")}
"""By the folder of their files, the kind of a group and its name, with the key of the file."""
STAGES = {"tuned": "confirm", "tuning": "tune"}
"""By the folder of its files, what a stage is called, where that differs."""
PATTERNS = ("freeze", "finetune", "longer", "scratch")
"""As the expand stage names them: the two ways of growing, then what they have to be compared with."""

_Model = TypeVar("_Model")


@dataclass(frozen=True, eq=False)
class Group:
    """Models that were trained alike but for their seeds; what was not measured is not there."""

    kind: str  # notebook (the study's own recipe), grown, changed, tuned, equal or lstm
    name: str  # of the recipe or the pattern
    num_layers: int
    num_params: int  # of one model
    seeds: pd.DataFrame  # a row a seed, in the order of the file: what SeedRun has, plateau, energy, what else is known
    curve: pd.DataFrame  # a row a seed and epoch, in that order: the fields of CurveRow
    about: Mapping[str, Any]  # device and code it was trained with: the fields of Provenance, precision, data_sha256
    parameters: Mapping[str, Any]  # by dotted name
    changes: Mapping[str, Any] = field(default_factory=dict)  # from the study's recipe, or what a search chose
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of gradients by layer, `initial` and `best`
    diagnosis: schemas.Diagnosis | None = None  # what else was looked into

    def values(self, name: str) -> list[float]:
        """A figure of every seed, or what an expression makes of some, in the order of the file."""
        column: Any = self.seeds[name] if name in self.seeds else self.seeds.eval(name)
        return [float(value) for value in column]

    def has(self, name: str) -> bool:
        """Whether a figure was measured of every seed."""
        return name in self.seeds and bool(self.seeds[name].notna().all())

    def estimate(self, name: str) -> Estimate:
        """A figure's mean over seeds, with its interval."""
        return mean_interval(self.values(name))

    def mean(self, name: str) -> float:
        """A figure's mean over seeds."""
        return self.estimate(name).mean

    def lowest(self, last: int) -> list[float]:
        """Of every seed, the lowest validation perplexity of the epochs up to `last`."""
        return [float(rows.loc[rows["epoch"] <= last, "val_ppl"].min()) for rows in self.curves()]

    def curves(self) -> list[pd.DataFrame]:
        """The curve of every seed, in the order of the file."""
        return [self.curve[self.curve["seed"] == seed] for seed in self.seeds["seed"]]


@dataclass(frozen=True)
class Source:
    """A file of results, and the stage that writes it; every method raises UserError if the file is wrong."""

    path: Path
    stage: str

    @classmethod
    def pair(cls, root: Path, kind: str, key: int | str) -> tuple[Self, Self]:
        """The metrics and the curves of a model that a stage writes."""
        stage = f"{STAGES.get(kind, kind)}@{key}"
        return cls(root / f"metrics/{kind}/{key}.json", stage), cls(root / f"plots/{kind}/{key}.csv", stage)

    def problem(self, what: str) -> UserError:
        """The error that says what is wrong and what to do."""
        return UserError(f"{self.path}: {what}; run `dvc repro {self.stage}` to write it again")

    def check(self, **pairs: tuple[object, object]) -> None:
        """Compares what was found with what was expected, by name."""
        for name, (found, expected) in pairs.items():
            if found != expected:
                raise self.problem(f"found {name} {found}, expected {expected}")

    def record(self, key: str, model: type[_Model], **expected: object) -> _Model:
        """The one record in a list of a metrics file; plain figures beside it, for DVC to compare, say the same.

        `expected` are values that the record must have.
        """
        plain = read_json(self.path, self.stage)
        records = plain.pop(key, None)
        if not isinstance(records, list) or len(records) != 1 or not isinstance(records[0], dict):
            raise self.problem(f"found {records!r:.60} as {key}, expected a list of one object")
        for name, value in plain.items():
            if name not in records[0] or records[0][name] != value:
                raise self.problem(f"found {name} {value!r:.60}, but {records[0].get(name)!r:.60} in its {key}")
        found = self.valid(model, records[0])
        self.check(**{name: (getattr(found, name), value) for name, value in expected.items()})
        return found

    def valid(self, model: type[_Model], values: object) -> _Model:
        """The values as a record, or as what else pydantic can make of them; a place in a list is that of a row."""
        try:
            return TypeAdapter(model).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
        place = [*first["loc"]]
        row = f"row {int(place.pop(0)) + 2}: " if isinstance(values, list) else ""
        name, message = ".".join(map(str, place)), first["msg"].removeprefix("Value error, ")
        other = f"{name}: found {first['input']!r:.60}; expected: {message[0].lower()}{message[1:]}"
        texts = {"missing": f"key {name} is missing", "extra_forbidden": f"unknown key {name}"}
        texts |= {"value_error": f"{name}: {message}".removeprefix(": ")}
        raise self.problem(row + texts.get(first["type"], other))

    def curve(self, num_layers: int, seeds: pd.DataFrame) -> pd.DataFrame:
        """The rows of a curve file by seed and epoch, which must be those of the seeds."""
        try:
            text = io.StringIO(self.path.read_text(encoding="utf-8"), newline="")
            cells = [*csv.DictReader(text, restkey="more", strict=True)]
        except FileNotFoundError:
            raise self.problem("no such file") from None
        except (ValueError, csv.Error) as error:
            raise self.problem(f"not valid CSV ({error})") from None
        rows = self.valid(list[schemas.CurveRow], cells)
        for row in rows:
            self.check(num_layers=(row.num_layers, num_layers))
        self.check(seeds=(sorted({row.seed for row in rows}), sorted(seeds["seed"])))
        curve = pd.DataFrame([row.model_dump() for row in rows]).sort_values(["seed", "epoch"], ignore_index=True)
        for seed, run in zip(seeds["seed"], seeds["epochs_run"], strict=True):
            epochs = list(curve.loc[curve["seed"] == seed, "epoch"])
            if len(epochs) != run or epochs != list(range(1, len(epochs) + 1)):
                found = f"seed {seed} has {len(epochs)} rows up to epoch {epochs[-1]}"
                raise self.problem(f"{found}, but in metrics it has epochs 1 to {run}, once each")
        return curve


def trained(
    metrics: schemas.LayerMetrics, seeds: Sequence[schemas.SeedRun], sources: Sequence[Source], **more: Any
) -> Group:
    """A group of models; UserError if the means and the curve, from these two sources, are of other seeds."""
    table, (source, curves) = pd.DataFrame([seed.model_dump() for seed in seeds]), sources
    source.check(num_seeds=(metrics.num_seeds, len(table)))
    for figure in ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy"):
        found, mean = getattr(metrics, figure), table[figure].mean()
        if not math.isclose(found, mean, rel_tol=1e-3):
            raise source.problem(f"found {figure} {found:g}, but the mean of the seeds is {mean:g}")
    curve = curves.curve(metrics.num_layers, table)
    group = Group(num_layers=metrics.num_layers, num_params=metrics.num_params, seeds=table, curve=curve, **more)
    table["plateau_epochs"] = [[*(rows["val_ppl"] < PLATEAU_PPL), True].index(True) for rows in group.curves()]
    table["joules"] = [rows["joules"].astype(float).sum(skipna=False) for rows in group.curves()]
    return group


def load_results(depths: Iterable[int], root: Path) -> list[Group]:
    """Reads the files of exactly these depths, shallowest first; a depth given twice counts once.

    Raises:
        UserError: a file is missing, malformed or contradicts another, or two depths were not trained alike.
    """
    results = [_load_depth(depth, root) for depth in sorted(set(depths))]
    if not results:
        raise UserError("no depth to report on; give --num-layers one depth or more")
    for result in results[1:]:
        _check_comparable(results[0], result, root)
    return results


def load_diagnoses(results: Sequence[Group], root: Path) -> list[Group]:
    """The results with what there is of each; UserError if a file is malformed, or not of these results."""
    paths = [(result, root / f"metrics/diagnostics/{result.num_layers}.json") for result in results]
    return [_diagnosed(result, path) if path.exists() else result for result, path in paths]


def load_grown(results: Sequence[Group], root: Path) -> list[Group]:
    """What there is of each depth and pattern; UserError if a file is malformed, or not of these results."""
    pairs = [(base, pattern) for base in results if base.num_layers in GROWN_DEPTHS for pattern in PATTERNS]
    found = [(base, pattern, Source.pair(root, "expand", f"{base.num_layers}-{pattern}")) for base, pattern in pairs]
    return [_load_grown(*one) for one in found if one[-1][0].path.exists()]


def load_training_data(root: Path) -> schemas.TrainingData:
    """metrics/data.json; UserError if it is missing or damaged."""
    return Source(root / "metrics/data.json", "tokenize").record("data", schemas.TrainingData)


def load_search(root: Path, kind: str, key: int, record: str, depth: int) -> schemas.Search:
    """What a search tried and chose; UserError if the file is missing or damaged, or of another depth."""
    return Source.pair(root, kind, key)[0].record(record, schemas.Search, num_layers=depth)


def load_confirmed(root: Path, kind: str, key: int | str, data_sha256: str, **expected: int) -> Group:
    """A model of part 2, of a kind of KINDS.

    Raises:
        UserError: a file is missing or damaged, contradicts the other or what is expected, or is of other windows.
    """
    source, curves = Source.pair(root, kind, key)
    metrics = source.record("details", schemas.Confirmed, **expected)
    run, size = metrics.runs[0], metrics.hidden_size
    recipe = metrics.recipe and metrics.recipe.model_dump(exclude_unset=True)
    needed, changes = ("changes", metrics.changes) if kind == "recipes" else ("recipe", recipe)
    if changes is None:
        raise source.problem(f"key {needed} is missing")
    norms = [seed.initial_norms for seed in run.seeds if seed.initial_norms]
    source.check(
        data_sha256=(run.data_sha256, data_sha256),
        initial_norms=([len(one) for one in norms], [metrics.num_layers] * len(norms)),
    )
    return trained(
        metrics,
        run.seeds,
        (source, curves),
        kind=KINDS[kind][0],
        name=KINDS[kind][1].format(key),
        about=run.model_dump(exclude={"seeds", "parameters"}),
        parameters=run.parameters | ({"model.hidden_size": size} if size else {}),
        changes=changes,
        norms={"initial": pd.DataFrame(norms).mean().to_list()} if len(norms) == len(run.seeds) else {},
    )


def _load_depth(depth: int, root: Path) -> Group:
    names = (f"metrics/layers/{depth}.json", f"metrics/runs/{depth}.json", f"plots/curves/{depth}.csv")
    layers, runs, curves = (Source(root / name, f"evaluate@{depth}") for name in names)
    metrics = layers.record("details", schemas.LayerMetrics, num_layers=depth)
    run = runs.record("runs", schemas.RunRecord, num_layers=depth)
    about = run.model_dump(exclude={"seeds", "parameters", "num_layers"})
    model = {"kind": "notebook", "name": "notebook", "about": about, "parameters": run.parameters}
    return trained(metrics, run.seeds, (layers, curves), **model)


def _check_comparable(first: Group, second: Group, root: Path) -> None:
    """Everything but the hardware must agree between depths; the report shows that."""
    ours, theirs = (
        {**group.parameters, "the seeds": sorted(group.seeds["seed"])}
        | {name: group.about[name] for name in ("precision", "data_sha256")}
        for group in (first, second)
    )
    depth, other = first.num_layers, second.num_layers
    for name in sorted({*ours, *theirs}):
        value, found = ours.get(name, "nothing"), theirs.get(name, "nothing")
        if value != found and name.rpartition(".")[2] != "num_layers":
            raise UserError(
                f"{root}/metrics/runs/{other}.json: depth {other} was run with {name} {found!r}, but depth {depth} "
                f"with {value!r}; such results cannot be compared: run `dvc repro evaluate@{depth} evaluate@{other}` "
                "to bring both up to date"
            )


_Seed = TypeVar("_Seed", schemas.SeedDiagnosis, schemas.GrownSeed)


def _in_order(seeds: Sequence[_Seed], base: Group, name: str, source: Source) -> list[_Seed]:
    """In the order of the base's seeds, of whose weights field `name` must be the validation loss."""
    by_seed = {one.seed: one for one in seeds}
    source.check(seeds=(sorted(by_seed), sorted(base.seeds["seed"])))
    found = [by_seed[seed] for seed in base.seeds["seed"]]
    for one, expected in zip(found, base.values("val_loss"), strict=True):
        if abs(getattr(one, name) - expected) > LOSS_TOLERANCE:
            what = f"seed {one.seed}: found {name} {getattr(one, name):.4f}"
            raise source.problem(f"{what}, but metrics/runs has a validation loss of {expected:.4f}")
    return found


def _diagnosed(result: Group, path: Path) -> Group:
    source = Source(path, f"diagnose@{result.num_layers}")
    found = source.record("diagnostics", schemas.Diagnosis, num_layers=result.num_layers)
    found = found.model_copy(update={"seeds": _in_order(found.seeds, result, "val_loss", source)})
    names = ("train_loss_without_dropout", "val_loss_without_unk", "val_ppl_without_unk")
    seeds = result.seeds.assign(**{name: [getattr(seed, name) for seed in found.seeds] for name in names})
    layers = [f"hidden.{layer}.weight" for layer in range(1, found.num_layers + 1)]
    norms: dict[str, list[float]] = {
        weights: pd.DataFrame([seed.gradient_norms[weights] for seed in found.seeds])[layers].mean().to_list()
        for weights in found.seeds[0].gradient_norms
    }
    return replace(result, seeds=seeds, norms=norms, diagnosis=found)


def _load_grown(base: Group, pattern: str, sources: Sequence[Source]) -> Group:
    metrics = sources[0].record("details", schemas.GrownMetrics, num_layers=base.num_layers)
    run = metrics.runs[0]
    sources[0].check(pattern=(run.pattern, pattern))
    seeds = _in_order(run.seeds, base, "base_val_loss", sources[0])
    about = {**base.about, **run.model_dump(include={*schemas.Provenance.model_fields})}
    parameters = {**base.parameters, "model.context_dim": run.context_dim}
    return trained(metrics, seeds, sources, kind="grown", name=pattern, about=about, parameters=parameters)
