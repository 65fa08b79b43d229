"""What the files of results hold: types, ranges and names of every figure, and what must agree within a file."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_Item = TypeVar("_Item")


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one level with dotted names, as DVC writes them."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _printable(parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(parameters, allow_nan=False, ensure_ascii=False).encode()
        return flatten(parameters)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected finite numbers, texts and lists ({error})") from None


def _each_once(seeds: list[_Item]) -> list[_Item]:
    numbers = [getattr(one, "seed") for one in seeds]  # noqa: B009 (whatever the records, each has a seed)
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"seed {twice[0]} is listed twice")
    return seeds


# Bounds far beyond any real run keep sums of squares finite.
Amount = Annotated[float, Field(ge=0, le=1e100)]
Perplexity = Annotated[float, Field(ge=1, le=1e100)]
Loss = Annotated[float, Field(ge=0, le=230)]  # its exponential is within the bounds of a perplexity
Gap = Annotated[float, Field(ge=-230, le=230)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0, le=10**15)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
Parameters = Annotated[dict[Text, Any], AfterValidator(_printable)]
"""Nested in the file, with dotted names once it is read."""
Seeds = Annotated[list[_Item], Field(min_length=1), AfterValidator(_each_once)]
One = Annotated[list[_Item], Field(min_length=1, max_length=1)]


class Record(BaseModel):
    """A part of a metrics file: no unknown key, no conversion of types, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenRecord(Record):
    """The same of what a later stage may add to, or of which the report does not use everything."""

    model_config = ConfigDict(extra="ignore")


class Figures(Record):
    """Of one seed, or means over some: losses in nats, accuracies as fractions, seconds."""

    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    test_loss: Amount
    test_ppl: Perplexity
    test_accuracy: Fraction
    train_loss: Amount
    train_seconds: Amount
    tokens_per_second: Amount


class LayerMetrics(Figures):
    """Means over the seeds of one model; the last four, standard deviation and 95 % half-width, need two seeds."""

    num_layers: Count
    num_params: Count
    num_seeds: Count
    best_epoch: Amount
    epochs_run: Amount
    val_ppl_std: Amount | None = None
    val_ppl_ci95: Amount | None = None
    test_ppl_std: Amount | None = None
    test_ppl_ci95: Amount | None = None

    @model_validator(mode="after")
    def _spread(self) -> Self:
        names = [f"{split}_ppl_{kind}" for split in ("val", "test") for kind in ("std", "ci95")]
        missing = [name for name in names if getattr(self, name) is None]
        if self.num_seeds > 1 and missing:
            raise ValueError(f"key {missing[0]} is missing, expected for {self.num_seeds} seeds")
        return self


class SeedRun(Figures):
    """One seed at its best epoch."""

    seed: Seed
    best_epoch: Count
    epochs_run: Count
    stopped_early: bool
    ended: Text | None = None
    problem: Text | None = None

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.best_epoch > self.epochs_run:
            raise ValueError(f"best_epoch {self.best_epoch} is beyond epochs_run {self.epochs_run}")
        return self


class MeasuredSeed(SeedRun, OpenRecord):
    """One seed of a confirmation."""

    train_loss_without_dropout: Loss | None = None
    initial_norms: list[Amount] | None = None


class Provenance(Record):
    """What a training ran on; None where a file does not say."""

    device: Text
    torch_version: Text | None = None
    git_commit: Text | None = None
    git_dirty: bool | None = None
    git_problem: Text | None = None


class Run(Provenance):
    """What the trainings of one model have in common."""

    precision: Text
    data_sha256: Text
    parameters: Parameters


class RunRecord(Run):
    """The record in metrics/runs/<depth>.json."""

    num_layers: Count
    torch_version: Text
    seeds: Seeds[SeedRun]


class MeasuredRun(Run, OpenRecord):
    """The seeds of a confirmation."""

    seeds: Seeds[MeasuredSeed]


class GrownSeed(SeedRun):
    """One seed; also the validation loss before the first step, and that of the base model of this seed."""

    start_val_loss: Loss
    base_val_loss: Amount


class GrownRun(Provenance):
    """One pattern at one depth."""

    pattern: Text
    context_dim: Count
    norm_blocks: Count
    seeds: Seeds[GrownSeed]


class GrownMetrics(LayerMetrics):
    """The details in metrics/expand/<depth>-<pattern>.json."""

    start_val_loss: Amount
    base_val_loss: Amount
    runs: One[GrownRun]


class CurveRow(Record):
    """One seed's epoch in plots/curves/<depth>.csv, of texts; earlier trainings did not tell the energy."""

    model_config = ConfigDict(strict=False)

    num_layers: Count
    seed: Seed
    epoch: Count
    train_loss: Amount
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    gradient_norm: str = Field(exclude=True)
    loss_scale: str = Field(exclude=True)
    seconds: Amount
    joules: Annotated[Amount | None, BeforeValidator(lambda text: text or None)] = None


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
    gradient_norms: Annotated[dict[Literal["initial", "best"], dict[Text, Amount]], Field(min_length=2)]


class Samples(Record):
    """What the model of one seed writes after prompts."""

    seed: Seed
    texts: list[Annotated[dict[Literal["prompt", "greedy", "sampled"], str], Field(min_length=3)]]


class Diagnosis(Record):
    """The record in metrics/diagnostics/<depth>.json; targets by position are numbers of them.

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
    context_pairs: Number
    seeds: Seeds[SeedDiagnosis]
    samples: Samples

    @model_validator(mode="after")
    def _complete(self) -> Self:
        layers = {f"hidden.{layer}.weight" for layer in range(1, self.num_layers + 1)}
        gains = len(self.targets_by_position) - self.context_stride if self.context_pairs else 0
        for seed in self.seeds:
            if len(seed.context_gain_by_position) != gains:
                raise ValueError(f"seed {seed.seed}: context_gain_by_position has not the {gains} positions of overlap")
            for name in ("by_position", "by_position_full_windows"):
                targets, losses = getattr(self, f"targets_{name}"), getattr(seed, f"val_loss_{name}")
                if [loss is not None for loss in losses] != [count > 0 for count in targets]:
                    raise ValueError(f"seed {seed.seed}: val_loss_{name} has values elsewhere than where targets are")
            for norms in seed.gradient_norms.values():
                if missing := sorted(layers - norms.keys()):
                    raise ValueError(f"seed {seed.seed}: gradient_norms lack {missing[0]}")
        return self


class Split(OpenRecord):
    """A split in metrics/data.json."""

    windows: Count
    unk_share_pct: Annotated[float, Field(ge=0, le=100)] | None = None


class TrainingData(OpenRecord):
    """The record in metrics/data.json; shares of `<unk>` in percent of the words."""

    vocabulary_size: Count
    train: Split
    validation: Split | None = None


class Recipe(OpenRecord):
    """What a search chooses; the factor times the study's learning rate. An LSTM has no residual connections."""

    learning_rate_factor: Amount
    dropout: Fraction
    residual: bool = False
    initialisation: Text = "normal"
    schedule: Text


class Trial(OpenRecord):
    """One training of a search; losses are None if it diverged, and then `problem` says how."""

    number: Number
    recipe: Recipe
    seed: Seed
    val_loss: Amount | None
    val_ppl: Perplexity | None
    best_epoch: Number
    epochs_run: Number
    ended: Text
    pruned: bool
    problem: str | None
    train_seconds: Amount


class FinalistSeed(OpenRecord):
    """What a further seed took."""

    train_seconds: Amount


class Finalist(OpenRecord):
    """A recipe that was trained with further seeds; mean validation perplexity, None if one of them diverged."""

    recipe: Recipe
    seeds: list[FinalistSeed]
    val_ppl: Perplexity | None


class Chosen(OpenRecord):
    """The recipe that won, and of which knobs its value is at an end of the range."""

    recipe: Recipe
    val_ppl: Perplexity
    why: str
    at_end_of_range: Sequence[str] = ()


class Search(OpenRecord):
    """What a search tried and chose, in the records of metrics/tuning and metrics/lstm."""

    num_layers: Count
    space: dict[Text, list[Any]]
    trials: Annotated[list[Trial], Field(min_length=1)]
    finalists: list[Finalist]
    chosen: Chosen

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if unknown := [knob for knob in self.chosen.at_end_of_range if not self.space.get(knob)]:
            raise ValueError(f"chosen is at an end of the range of {unknown[0]}, of which space has no values")
        return self

    @property
    def seconds(self) -> tuple[float, float]:
        """Of training: all trials together, and all further seeds of the finalists."""
        further = [seed.train_seconds for one in self.finalists for seed in one.seeds]
        return sum(trial.train_seconds for trial in self.trials), sum(further)


class Confirmed(LayerMetrics, OpenRecord):
    """Details of a model's confirmation, whatever kind: each has `recipe` or `changes`, and most a hidden size."""

    recipe: Recipe | None = None
    changes: Parameters | None = None
    hidden_size: Count | None = None
    runs: One[MeasuredRun]
