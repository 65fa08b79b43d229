"""The schema of params.yaml: every parameter with its type and range, no default and nothing unknown allowed.

The file itself holds all values, so what a run used is always written down. This module only checks and computes
nothing, so it is no dependency of the stages: a new parameter does not make them run again.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from newllm.errors import UserError

Count = Annotated[int, Field(ge=1, le=10**9)]
Dimension = Annotated[int, Field(ge=1, le=65_536)]
NumLayers = Annotated[int, Field(ge=1, le=1_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Dropout = Annotated[float, Field(ge=0, le=0.999)]
Precision = Literal["fp16", "bf16", "fp32"]
RecipeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$", max_length=64)]  # of stages and files


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SyntheticConfig(_Section):
    """Size and seed of the generated corpus; sizes in words."""

    seed: Seed
    train_words: Annotated[int, Field(ge=1_000)]


class DataConfig(_Section):
    """Where the corpus comes from and how it becomes windows; window and stride in tokens."""

    source: Literal["wikitext", "folder", "synthetic"]
    config: Literal["wikitext-2-v1", "wikitext-2-raw-v1"]
    repository: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    folder: Annotated[str, Field(min_length=1)] | None
    synthetic: SyntheticConfig
    vocabulary_size: Annotated[int, Field(ge=5, le=65_536)]  # four special tokens and a word; ids are 16 bits
    min_words: Count
    window: Annotated[int, Field(ge=2, le=65_536)]
    stride: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} exceeds window {self.window}; lower it, or tokens are skipped")
        if self.source == "folder" and self.folder is None:
            raise ValueError("source is folder, but folder is null; name the folder that holds train.txt")
        return self


class ModelConfig(_Section):
    """Shape of New-LLM: depth, widths of embedding, context and hidden state, dropout probability.

    `residual`: hidden layers from the second on add to the one before. `initialisation`: of the hidden layers' weights.
    """

    num_layers: NumLayers
    embedding_dim: Dimension
    context_dim: Dimension
    hidden_size: Dimension
    dropout: Dropout
    residual: bool
    initialisation: Literal["normal", "he"]


class TrainConfig(_Section):
    """Optimisation; batch sizes in windows, losses in nats."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    epochs: Count
    batch_size: Count
    base_learning_rate: Annotated[float, Field(gt=0)]
    base_batch_size: Count
    schedule: Literal["constant", "linear"]
    warmup_epochs: Annotated[int, Field(ge=0, le=10**9)]
    precision: Precision
    gradient_clipping: Annotated[list[list[Annotated[float, Field(gt=0)]]], Field(min_length=1)]
    patience: Count
    min_improvement: Annotated[float, Field(ge=0)]

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, seeds: list[int]) -> list[int]:
        return _unique(seeds, "seed")

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.schedule == "linear" and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule is linear, but warmup_epochs {self.warmup_epochs} leave none of {self.epochs} epochs to "
                "decay in; lower warmup_epochs"
            )
        return self

    @field_validator("gradient_clipping")
    @classmethod
    def _clipping(cls, schedule: list[list[float]]) -> list[list[float]]:
        if any(len(entry) != 2 or entry[0] != int(entry[0]) for entry in schedule):
            raise ValueError("expected entries [from epoch, largest gradient norm], such as [1, 0.5]")
        epochs = [entry[0] for entry in schedule]
        if epochs[0] != 1 or any(later <= earlier for earlier, later in pairwise(epochs)):
            raise ValueError("epochs must start at 1 and increase")
        return schedule


class ExpandConfig(_Section):
    """Growing the context vector of trained models to `context_factor` times its size.

    `joint_norm`: LayerNorm over all of the grown context, not block by block.
    """

    context_factor: Annotated[int, Field(ge=2, le=64)]
    joint_norm: bool


class TunedRecipeConfig(_Section):
    """How one model is trained, where that differs from the study; `learning_rate_factor` is times the study's rate."""

    learning_rate_factor: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, le=0.999)]
    residual: bool
    initialisation: Literal["normal", "he"]
    schedule: Literal["constant", "linear"]


class SpaceConfig(_Section):
    """The values that each knob of a recipe may have; numbers in ascending order, so that neighbours are known."""

    learning_rate_factor: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    dropout: Annotated[list[Annotated[float, Field(ge=0, le=0.999)]], Field(min_length=1)]
    residual: Annotated[list[bool], Field(min_length=1)]
    initialisation: Annotated[list[Literal["normal", "he"]], Field(min_length=1)]
    schedule: Annotated[list[Literal["constant", "linear"]], Field(min_length=1)]

    @field_validator("learning_rate_factor", "dropout")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        if any(later <= earlier for earlier, later in pairwise(values)):
            raise ValueError(f"found {values}; the values must increase")
        return values

    @field_validator("residual", "initialisation", "schedule")
    @classmethod
    def _different(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) < len(values):
            raise ValueError(f"found {values}; give each value once")
        return values


class SearchConfig(_Section):
    """Part 2: the search for each depth's best recipe, its confirmation, and the same recipe at another hidden size.

    `depths` and `equal_parameters` (hidden sizes by depth, in quotes) say which stages there are; `start` is the first
    trial's recipe. `margins` are entries [epoch, nats]: after that epoch a trial leaves whose loss exceeds the best one
    by more; at depths of `unpruned` none does. `places`: rows that a stack trains at once; null: all of a round.
    `widenings`: rounds that may be added, each with one more value of every knob at the end of whose range the winner
    lies.
    """

    depths: list[NumLayers]
    equal_parameters: dict[str, Dimension]
    space: SpaceConfig
    start: TunedRecipeConfig
    trials: Annotated[int, Field(ge=1, le=10_000)]
    first_round: Count
    round_size: Count
    seed: Seed
    places: Count | None
    unpruned: list[NumLayers]
    margins: list[list[Annotated[float, Field(gt=0)]]]
    finalists: Count
    finalist_seeds: Annotated[list[Seed], Field(min_length=1)]
    widenings: Annotated[int, Field(ge=0, le=100)]
    confirm_seeds: Annotated[list[Seed], Field(min_length=1)]
    equal_seeds: Annotated[list[Seed], Field(min_length=1)]

    @field_validator("depths", "unpruned")
    @classmethod
    def _once(cls, depths: list[int]) -> list[int]:
        return _unique(depths, "depth")

    @field_validator("finalist_seeds", "confirm_seeds", "equal_seeds")
    @classmethod
    def _unique_seeds(cls, seeds: list[int]) -> list[int]:
        return _unique(seeds, "seed")

    @field_validator("equal_parameters", mode="before")
    @classmethod
    def _quoted(cls, sizes: Any) -> Any:
        bare = [key for key in sizes if not isinstance(key, str)] if isinstance(sizes, Mapping) else []
        if bare:
            raise ValueError(f"found the depth {bare[0]!r}; write it in quotes, or DVC makes no stage of it")
        return sizes

    @field_validator("margins")
    @classmethod
    def _shrinking(cls, margins: list[list[float]]) -> list[list[float]]:
        if any(len(entry) != 2 or entry[0] != int(entry[0]) for entry in margins):
            raise ValueError("expected entries [epoch, nats], such as [20, 0.5]")
        if any(later[0] <= earlier[0] or later[1] > earlier[1] for earlier, later in pairwise(margins)):
            raise ValueError("epochs must increase, and no margin may exceed the one before")
        return margins

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unknown = [depth for depth in self.equal_parameters if depth not in map(str, self.depths)]
        if unknown:
            raise ValueError(
                f"equal_parameters names depth {unknown[0]!r}, but depths are {self.depths}: search that depth too"
            )
        for knob, value in self.start:
            if value not in getattr(self.space, knob):
                raise ValueError(f"start.{knob} is {value!r}, but space.{knob} is {getattr(self.space, knob)}; add it")
        without_residual = math.prod(len(values) for knob, values in self.space if knob != "residual")
        recipes = without_residual * (1 if 1 in self.depths else len(self.space.residual))
        if self.trials > recipes:
            raise ValueError(
                f"trials {self.trials} exceed the {recipes} recipes of space"
                f"{' at depth 1' if 1 in self.depths else ''}; lower trials or give more values"
            )
        searched = {self.seed, *self.finalist_seeds}
        if len(searched) == len(self.finalist_seeds):
            raise ValueError(f"finalist_seeds hold the search's own seed {self.seed}; give others, which chose nothing")
        for name in ("confirm_seeds", "equal_seeds"):
            if seen := searched & set(getattr(self, name)):
                raise ValueError(f"{name} hold seed {min(seen)}, with which the recipe was chosen; give fresh ones")
        return self


class LstmSpaceConfig(_Section):
    """The values that each knob of an LSTM's recipe may have; numbers in ascending order."""

    learning_rate_factor: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    dropout: Annotated[list[Annotated[float, Field(ge=0, le=0.999)]], Field(min_length=1)]
    schedule: Annotated[list[Literal["constant", "linear"]], Field(min_length=1)]

    @field_validator("learning_rate_factor", "dropout")
    @classmethod
    def _ascending(cls, values: list[float]) -> list[float]:
        return SpaceConfig._ascending(values)

    @field_validator("schedule")
    @classmethod
    def _different(cls, values: list[Any]) -> list[Any]:
        return SpaceConfig._different(values)


class LstmConfig(_Section):
    """The LSTM to compare with: the sizes of its hidden state make the stages, the rest is its search.

    The first trial's recipe, pruning, finalists, seeds, widenings and confirmation are those of `search`. `places`:
    rows to train at once on a GPU.
    """

    hidden_sizes: list[Dimension]
    space: LstmSpaceConfig
    trials: Annotated[int, Field(ge=1, le=10_000)]
    first_round: Count
    round_size: Count
    places: Count

    @field_validator("hidden_sizes")
    @classmethod
    def _once(cls, sizes: list[int]) -> list[int]:
        return _unique(sizes, "hidden size")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        recipes = math.prod(len(values) for _, values in self.space)
        if self.trials > recipes:
            raise ValueError(f"trials {self.trials} exceed the {recipes} recipes of space; lower trials")
        return self


def _unique(values: list[int], what: str) -> list[int]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]} is given twice; give each {what} once")
    return values


class CheckpointConfig(_Section):
    """When a training writes its state: after every so many epochs. It changes no result, so no stage depends on it."""

    every: Count


class RecipeConfig(_Section):
    """One training of part 1's recipe with changes; a key that is left out keeps part 1's value.

    `learning_rate_factor` multiplies the scaled learning rate. `continued`: the epochs of a first training, and of a
    second one that goes on from the best epoch of the first; it takes the place of `epochs`.
    """

    num_layers: NumLayers
    residual: bool | None = None
    initialisation: Literal["normal", "he"] | None = None
    dropout: Dropout | None = None
    schedule: Literal["constant", "linear"] | None = None
    warmup_epochs: Annotated[int, Field(ge=0, le=10**9)] | None = None
    learning_rate_factor: Annotated[float, Field(gt=0, le=1_000)] | None = None
    epochs: Count | None = None
    hidden_size: Dimension | None = None
    continued: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("found null; give a value, or leave the key out to keep part 1's")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.residual and self.num_layers == 1:
            raise ValueError("residual is true, but one layer has none before it to add to; leave residual out")
        if self.continued and self.epochs is not None:
            raise ValueError("epochs and continued are both given; leave epochs out: continued says how many there are")
        return self

    def changes(self) -> dict[str, Any]:
        """The keys that are given, without the depth."""
        return self.model_dump(exclude={"num_layers"}, exclude_unset=True)


class StudyConfig(_Section):
    """What the report compares with."""

    baseline_num_layers: NumLayers


class Config(_Section):
    """All of params.yaml."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    expand: ExpandConfig
    search: SearchConfig
    lstm: LstmConfig
    checkpoint: CheckpointConfig
    study: StudyConfig
    recipes: dict[RecipeName, RecipeConfig]

    @model_validator(mode="after")
    def _lstm_can_start(self) -> Self:
        for knob, values in self.lstm.space if self.lstm.hidden_sizes else ():
            value = getattr(self.search.start, knob)
            if value not in values:
                raise ValueError(f"search.start.{knob} is {value!r}, but lstm.space.{knob} is {values}; add it")
        return self

    @model_validator(mode="after")
    def _recipes_fit(self) -> Self:
        for name, recipe in self.recipes.items():
            schedule = recipe.schedule or self.train.schedule
            warmup = self.train.warmup_epochs if recipe.warmup_epochs is None else recipe.warmup_epochs
            epochs = recipe.epochs or self.train.epochs
            if recipe.continued and (schedule != "constant" or warmup):
                raise ValueError(
                    f"recipes.{name}: continued is given, but schedule is {schedule} and warmup_epochs {warmup}; a "
                    "training goes on at a constant rate: set schedule: constant and warmup_epochs: 0"
                )
            if schedule == "linear" and warmup >= epochs:
                raise ValueError(
                    f"recipes.{name}: schedule is linear, but warmup_epochs {warmup} leave none of {epochs} epochs to "
                    "decay in; lower warmup_epochs"
                )
        return self


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number, as YAML 1.2 and DVC do, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path) -> Config:
    """Reads and checks a params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or a parameter is unknown, missing, or out of type or range.
    """
    try:
        values = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # The last three are PyYAML's for a value that its tag does not allow, such as `!!bool x`.
        raise UserError(f"{path}: not valid YAML: {error}") from None
    return parse_config(values, path)


def parse_config(values: Any, path: Path) -> Config:
    """Checks the values of a params.yaml; `path` is named in errors.

    Raises:
        UserError: a parameter is unknown, missing, or out of type or range; all of them are listed.
    """
    if not isinstance(values, Mapping):
        sections = ", ".join(Config.model_fields)
        raise UserError(f"{path}: found {type(values).__name__}, expected the sections {sections}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        raise UserError(f"{path}: " + "\n".join(problems)) from None


def _describe(problem: Mapping[str, Any]) -> str:
    name = ".".join(_shown(part, str) for part in problem["loc"])
    found = _shown(problem["input"], repr)
    found = found if len(found) <= 60 else found[:57] + "..."
    if problem["type"] == "extra_forbidden":
        known = _field_names(problem["loc"][:-1])
        close = difflib.get_close_matches(_shown(problem["loc"][-1], str), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"unknown parameter {name}; {hint}"
    if problem["type"] == "missing":
        return f"parameter {name} is missing; add it (the committed params.yaml holds every default)"
    if problem["loc"][-1:] == ("[key]",):
        return f"parameter {name.removesuffix('.[key]')}: found the name {found}; expected letters, digits and hyphens"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"parameter {name}: {message}" if name else f"parameter {message}"
    return f"parameter {name}: found {found}; expected: {message[0].lower() + message[1:]}"


def _shown(value: Any, form: Callable[[Any], str]) -> str:
    """The value as text; Python refuses to print integers of more than some thousand digits."""
    try:
        return form(value)
    except ValueError:
        return "a number too long to be shown"


def _field_names(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        named = get_args(model)  # of a section whose entries have names of their own
        model = named[1] if named else model.model_fields[str(part)].annotation
    return list(model.model_fields)
