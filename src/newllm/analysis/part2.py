"""What part 2 of the study wrote, where params.yaml says that it ran: searches, and the models that they led to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from newllm.analysis.records import (
    Amount,
    Count,
    Gap,
    Group,
    LayerMetrics,
    Loss,
    Perplexity,
    Provenance,
    Seed,
    SeedRun,
    Text,
    check_means,
    flatten,
    load_curve,
    problem,
    read_details,
    table_of,
    validate,
    write_again,
)
from newllm.files import read_json

OPEN = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)
"""What a later stage adds to these files is no error."""


@dataclass(frozen=True)
class Planned:
    """What of part 2 params.yaml asks for; nothing by default."""

    tuned: Sequence[int] = ()
    equal: Sequence[int] = ()
    recipes: Sequence[str] = ()
    lstm: Sequence[int] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Planned":
        """From all of params.yaml; a section that is not there plans nothing."""
        search, lstm = parameters.get("search") or {}, parameters.get("lstm") or {}
        equal = sorted(map(int, search.get("equal_parameters") or {}))
        sizes, depths = (section.get(name) or () for section, name in ((lstm, "hidden_sizes"), (search, "depths")))
        return cls(tuple(depths), tuple(equal), tuple(parameters.get("recipes") or ()), tuple(sizes))


class Recipe(BaseModel):
    """What a search chooses; the factor times the study's learning rate. An LSTM has no residual connections."""

    model_config = OPEN

    learning_rate_factor: Amount
    dropout: Annotated[float, Field(ge=0, le=1)]
    residual: bool = False
    initialisation: Text = "normal"
    schedule: Text


class Trial(BaseModel):
    """One training of a search; losses are None if it diverged, and then `problem` says how."""

    model_config = OPEN

    number: Annotated[int, Field(ge=0)]
    round: int | str
    recipe: Recipe
    seed: Seed
    val_loss: Amount | None
    val_ppl: Perplexity | None
    best_epoch: Annotated[int, Field(ge=0)]
    epochs_run: Annotated[int, Field(ge=0)]
    ended: Text
    pruned: bool
    problem: str | None
    train_seconds: Amount


class Finalist(BaseModel):
    """A recipe that was trained with further seeds; mean validation perplexity."""

    model_config = OPEN

    recipe: Recipe
    trials: list[int]
    val_ppl: Perplexity


class Chosen(BaseModel):
    """The recipe that won, and of which knobs its value is at an end of the range."""

    model_config = OPEN

    recipe: Recipe
    val_ppl: Perplexity
    why: str
    at_end_of_range: list[str] = []


class Search(BaseModel):
    """A search: its trials, finalists and the recipe that it chose; as it stands in metrics/lstm/<hidden_size>.json."""

    model_config = OPEN

    trials: Annotated[list[Trial], Field(min_length=1)]
    finalists: list[Finalist]
    chosen: Chosen


class Tuning(Search):
    """The record in metrics/tuning/<depth>.json, as far as it is needed here."""

    num_layers: Count
    space: dict[Text, list[Any]] = {}
    device: Text


class _TuningFile(BaseModel):
    model_config = OPEN

    tuning: Annotated[list[Tuning], Field(min_length=1, max_length=1)]


class _Run(Provenance):
    model_config = OPEN

    data_sha256: Text
    precision: Text
    parameters: dict[Text, Any]
    seeds: Annotated[list[SeedRun], Field(min_length=1)]


class _MeasuredSeed(SeedRun):
    model_config = OPEN

    train_loss_without_dropout: Loss | None = None
    gap: Gap | None = None
    initial_norms: list[Amount] | None = None


class _MeasuredRun(_Run):
    seeds: Annotated[list[_MeasuredSeed], Field(min_length=1)]  # type: ignore[assignment]


class _Confirmed(LayerMetrics):
    """Details of a model's confirmation, whatever kind: each has `recipe` or `changes`, and most a hidden size."""

    model_config = OPEN

    recipe: dict[Text, Any] | None = None
    changes: dict[Text, Any] | None = None
    hidden_size: Count | None = None
    runs: Annotated[list[_MeasuredRun], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class PartTwo:
    """All of it may be missing: searches and confirmed models by depth, changed recipes, LSTMs by hidden size."""

    tuning: Mapping[int, Tuning] = field(default_factory=dict)
    tuned: Mapping[int, Group] = field(default_factory=dict)
    equal: Mapping[int, Group] = field(default_factory=dict)
    recipes: Sequence[Group] = ()
    lstm: Mapping[int, Group] = field(default_factory=dict)
    lstm_searches: Mapping[int, Search] = field(default_factory=dict)


def load_part_two(root: Path, planned: Planned, data_sha256: str) -> PartTwo:
    """Everything that is planned, from below `root`.

    Raises:
        UserError: a file is missing, damaged, contradicts another, or is of other windows than the study's.
    """

    def confirmed(kind: str, stage: str, key: int | str) -> Group:
        return _load_confirmed(root, kind, stage, key, data_sha256)

    return PartTwo(
        {depth: _load_tuning(root / f"metrics/tuning/{depth}.json", depth) for depth in planned.tuned},
        {depth: confirmed("tuned", "confirm", depth) for depth in planned.tuned},
        {depth: confirmed("equal", "equal", depth) for depth in planned.equal},
        [confirmed("recipes", "recipes", name) for name in planned.recipes],
        {size: confirmed("lstm", "lstm", size) for size in planned.lstm},
        {size: _load_lstm_search(root / f"metrics/lstm/{size}.json", size) for size in planned.lstm},
    )


def _load_tuning(path: Path, depth: int) -> Tuning:
    stage = f"tune@{depth}"
    found = validate(_TuningFile, read_json(path, stage), path, write_again(stage)).tuning[0]
    if found.num_layers != depth:
        raise problem(path, f"found num_layers {found.num_layers}, expected {depth}", write_again(stage))
    return found


def _load_lstm_search(path: Path, size: int) -> Search:
    return validate(Search, read_details(path, f"lstm@{size}"), path, write_again(f"lstm@{size}"))


def _load_confirmed(root: Path, kind: str, stage: str, key: int | str, data_sha256: str) -> Group:
    remedy = write_again(f"{stage}@{key}")
    path = root / f"metrics/{kind}/{key}.json"
    metrics = validate(_Confirmed, read_details(path, f"{stage}@{key}"), path, remedy)
    run = metrics.runs[0]
    for name, found, expected in (
        ("num_layers", metrics.num_layers, key if kind in ("tuned", "equal") else metrics.num_layers),
        ("hidden_size", metrics.hidden_size, key if kind == "lstm" else metrics.hidden_size),
        ("data_sha256", run.data_sha256, data_sha256),
    ):
        if found != expected:
            raise problem(path, f"found {name} {found}, expected {expected}", remedy)
    check_means(metrics, run.seeds, path, remedy, "its list")
    curve = load_curve(root / f"plots/{kind}/{key}.csv", metrics.num_layers, run.seeds, remedy, str(path))
    seeds, norms = table_of(run.seeds), [seed.initial_norms for seed in run.seeds]
    layers = [] if None in norms else [sum(layer) / len(layer) for layer in zip(*filter(None, norms), strict=True)]
    parameters = flatten(run.parameters)
    if metrics.hidden_size:
        parameters["model.hidden_size"] = metrics.hidden_size
    about = run.model_dump(exclude={"seeds", "parameters"})
    changes = (metrics.recipe if metrics.changes is None else metrics.changes) or {}
    name = {"tuned": "tuned", "equal": "equal parameters", "lstm": f"LSTM, {key}"}.get(kind, str(key))
    group_kind = "changed" if kind == "recipes" else kind
    return Group(
        group_kind, name, metrics.num_layers, metrics.num_params, seeds, curve, about, parameters, changes,
        {"initial": layers} if layers else {},
    )  # fmt: skip
