"""The search for New-LLM: recipes as rows of stacks, what is kept of a search that is killed, and its record."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from newllm.config import Config, SearchConfig, TrainConfig, TunedRecipeConfig
from newllm.errors import UserError
from newllm.files import read_json
from newllm.model.definition import ModelShape
from newllm.runtime.resume import State, StateStore
from newllm.studies.search import (
    Checkpoints,
    Outcome,
    Plan,
    Recipe,
    Searched,
    Space,
    Trial,
    Value,
    leaving,
    replay,
    search_and_choose,
)
from newllm.training.optimiser import scaled_learning_rate
from newllm.training.records import EpochRow, RowResult, Training
from newllm.training.rows import Recipe as RowRecipe
from newllm.training.rows import Row
from newllm.training.trainer import train
from newllm.training.weights import load_tokens

MODEL = ("embedding_dim", "context_dim", "hidden_size")
OF_PART_1 = ("seeds", "schedule")
"""Parameters of section train that a recipe or the search replaces."""


def parameters_of(config: Config, hidden_size: int | None = None) -> dict[str, Any]:
    """The parameters of sections model and train that count whatever the recipe, with another hidden size if given."""
    model = {name: getattr(config.model, name) for name in MODEL}
    if hidden_size is not None:
        model["hidden_size"] = hidden_size
    return {"model": model, "train": config.train.model_dump(exclude=set(OF_PART_1))}


def plan_of(config: SearchConfig, num_layers: int) -> Plan:
    """The search of one depth; a single layer has none before it to add to, so it has no residual connections."""
    space, start = config.space.model_dump(), config.start.model_dump()
    if num_layers == 1:
        space["residual"], start["residual"] = [False], False
    return plan_with(space, start, (config.trials, config.first_round, config.round_size), config)


def plan_with(space: Space, start: Recipe, rounds: tuple[int, int, int], config: SearchConfig) -> Plan:
    """A search with all that is common to New-LLM's and the LSTM's; `rounds`: trials, of the first, of later ones."""
    return Plan(
        space,
        start,
        *rounds,
        config.seed,
        config.finalists,
        config.finalist_seeds,
        config.widenings,
        {"learning_rate_factor": _twice_or_half, "dropout": _a_tenth_on},
    )


def _twice_or_half(value: float, highest: bool) -> float:
    return value * 2 if highest else value / 2


def _a_tenth_on(value: float, highest: bool) -> float:
    """Rounded, since 0.1 more than 0.7 is not 0.8 exactly; 0.9 is the most that leaves a model anything to see."""
    return min(round(value + 0.1, 1), 0.9) if highest else max(round(value - 0.1, 1), 0.0)


def margins_of(config: SearchConfig) -> Checkpoints:
    """Where trials are told to leave, where the search prunes."""
    return [(int(epoch), margin) for epoch, margin in config.margins]


def shape_of(config: Config, num_layers: int, residual: bool, hidden_size: int | None = None) -> ModelShape:
    """Sizes of a model; `hidden_size` in place of the study's."""
    model = config.model
    return ModelShape(
        config.data.vocabulary_size,
        model.embedding_dim,
        model.context_dim,
        hidden_size or model.hidden_size,
        num_layers,
        residual=residual,
    )


def row_of(recipe: Recipe, seed: int, config: TrainConfig) -> Row:
    """A row of a stack that trains a recipe; whether it is residual is the stack's shape."""
    knobs = TunedRecipeConfig.model_validate(recipe)
    rate = scaled_learning_rate(config.base_learning_rate, config.batch_size, config.base_batch_size)
    return Row(
        seed,
        RowRecipe(
            learning_rate=knobs.learning_rate_factor * rate,
            dropout=knobs.dropout,
            gradient_clipping=tuple((epoch, norm) for epoch, norm in config.gradient_clipping),
            initialisation=knobs.initialisation,
            schedule=knobs.schedule,
            warmup_epochs=config.warmup_epochs,
        ),
    )


def load_split(path: Path, vocabulary_size: int) -> Tensor:
    """A split's windows [N, T + 1] on the CPU.

    Raises:
        UserError: the file is missing or damaged, or an id is beyond the vocabulary.
    """
    windows = load_tokens(path)
    if (largest := int(windows.max())) >= vocabulary_size:
        raise UserError(
            f"{path}: found id {largest}, expected less than data.vocabulary_size = {vocabulary_size}; "
            "run `dvc repro tokenize`"
        )
    return windows


MakeStore = Callable[[str, ModelShape, Mapping[str, Any]], StateStore]
"""Makes the store of one training from its name, its models' sizes and what else determines its result."""


class Trainings:
    """Trains recipes at one depth, those of one shape side by side, and keeps what they came to.

    A search that was killed asks for the same again: what had ended is known at once, what had not goes on.
    """

    def __init__(
        self, config: Config, num_layers: int, windows: tuple[Tensor, Tensor], store: StateStore, make_store: MakeStore
    ) -> None:
        """Reads what a killed search had kept.

        Args:
            config: all parameters.
            num_layers: the depth.
            windows: ids of the training [N, T + 1] and validation split [M, T + 1], on the device to train on.
            store: of the whole search, to write whenever something is kept.
            make_store: makes the store of each stack's training.
        """
        self.config, self.num_layers, self.windows = config, num_layers, windows
        self.store, self.make_store = store, make_store
        state = store.resume()
        self.done: dict[str, list[dict[str, Any]]] = state.values if state else {}
        self._keep()

    def train(
        self,
        name: str,
        rows: Sequence[tuple[Recipe, int]],
        known: Sequence[Outcome] = (),
        margins: Checkpoints = (),
    ) -> list[Outcome]:
        """Trains recipes with their seeds in two stacks, first those without residual connections.

        Args:
            name: of this part of the search.
            rows: recipes and seeds.
            known: what earlier trials came to, for the rule.
            margins: of the rule, see `leaving`.
        """
        found: dict[int, Outcome] = {}
        for residual in (False, True):
            numbers = [number for number, (recipe, _) in enumerate(rows) if recipe["residual"] is residual]
            if numbers:
                part = f"{name}-{'residual' if residual else 'plain'}"
                members = [rows[number] for number in numbers]
                outcomes = self._stack(part, residual, members, [*known, *found.values()], margins)
                found |= zip(numbers, outcomes, strict=True)
        return [found[number] for number in range(len(rows))]

    def _stack(
        self,
        name: str,
        residual: bool,
        rows: Sequence[tuple[Recipe, int]],
        known: Sequence[Outcome],
        margins: Checkpoints,
    ) -> list[Outcome]:
        if name in self.done:
            return [_outcome(values) for values in self.done[name]]
        shape = shape_of(self.config, self.num_layers, residual)
        losses = [outcome.val_losses for outcome in known]

        def rule(curves: Mapping[int, Sequence[EpochRow]], going_on: Any) -> list[int]:
            of_rows = {number: [row.val_loss for row in curve] for number, curve in curves.items()}
            return leaving(of_rows, going_on, losses, margins)

        about = {"rows": [[dict(recipe), seed] for recipe, seed in rows], "margins": list(margins)}
        if margins:
            about["known"] = losses
        with self.make_store(f"{self.store.stage}-{name}", shape, about) as store:
            training = train(
                shape,
                [row_of(recipe, seed, self.config.train) for recipe, seed in rows],
                self.config.train,
                self.windows,
                places=self.config.search.places,
                store=store,
                rule=rule if margins else None,
            )
            outcomes = outcomes_of(training)
            self.done[name] = [
                {"result": asdict(one.result), "curve": [asdict(row) for row in one.curve]} for one in outcomes
            ]
            self._keep()  # before the training's own states go
        return outcomes

    def _keep(self) -> None:
        count = len(self.done)
        self.store.keep(State({}, self.done, f"after {count} trainings" if count else "from the first round"))


def outcomes_of(training: Training) -> list[Outcome]:
    """What each row came to, with its epochs."""
    epochs = iter(training.curves)
    return [Outcome(result, [next(epochs) for _ in range(result.epochs_run)]) for result in training.results]


def _outcome(values: Mapping[str, Any]) -> Outcome:
    return Outcome(RowResult(**values["result"]), [EpochRow(**row) for row in values["curve"]])


def run_search(config: SearchConfig, num_layers: int, trainings: Trainings) -> Searched:
    """The search of one depth, with its finalists.

    Raises:
        UserError: all trials diverged or were pruned, or each finalist has a seed that diverged.
    """
    plan, margins = plan_of(config, num_layers), [] if num_layers in config.unpruned else margins_of(config)

    def train_round(number: int, recipes: Sequence[Recipe], earlier: Sequence[Outcome]) -> list[Outcome]:
        rows = [(recipe, config.seed) for recipe in recipes]
        return trainings.train(f"round-{number}", rows, earlier, margins)

    def train_further(widenings: int, rows: Sequence[tuple[Recipe, int]]) -> list[Outcome]:
        return trainings.train(f"finalists-{widenings}", rows)

    return search_and_choose(plan, train_round, train_further)


def trial_curves(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every epoch of every trial, as rows of a table."""
    return [
        {"trial": trial.number, **asdict(row)}
        for trial, outcome in zip(trials, outcomes, strict=True)
        for row in outcome.curve
    ]


class _Read(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Seed(_Read):
    seed: int
    val_ppl: float | None


class _Finalist(_Read):
    recipe: TunedRecipeConfig
    trials: list[int]
    seeds: list[_Seed]
    val_ppl: float | None


class _Trial(_Read):
    number: int
    round: int
    recipe: TunedRecipeConfig
    pruned: bool


class _Chosen(_Read):
    recipe: TunedRecipeConfig
    val_ppl: float


class Tuning(_Read):
    """What is read of metrics/tuning/<depth>.json."""

    num_layers: int
    seed: int
    space: dict[str, list[Value]]
    trials: list[_Trial]
    finalists: list[_Finalist]
    chosen: _Chosen
    data_sha256: str
    parameters: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Value]:
        """The winner's."""
        return self.chosen.recipe.model_dump()

    def is_search_of(self, plan: Plan) -> bool:
        """Whether it has the plan's trials and space, or more trials in a space that was widened."""
        if len(self.trials) == plan.trials:
            return self.space == plan.space
        knobs_are_same = self.space.keys() == plan.space.keys()
        contained = knobs_are_same and all(set(values) <= set(self.space[knob]) for knob, values in plan.space.items())
        return contained and self.space != plan.space and len(self.trials) > plan.trials

    def is_whole(self) -> bool:
        """Whether the choice follows from the finalists, and they are trials of the search."""
        recipes = {trial.number: trial.recipe for trial in self.trials}
        for one in self.finalists:
            known = [seed.val_ppl for seed in one.seeds if seed.val_ppl is not None]
            mean = fmean(known) if known and len(known) == len(one.seeds) else None
            if mean != one.val_ppl or [recipes.get(number) for number in one.trials] != [one.recipe]:
                return False
        best = [one.recipe for one in self.finalists if one.val_ppl == self.chosen.val_ppl]
        lowest = min((one.val_ppl for one in self.finalists if one.val_ppl is not None), default=None)
        return self.chosen.recipe in best and self.chosen.val_ppl == lowest


def load_tuning(path: Path, num_layers: int, config: Config, data_sha256: str) -> Tuning:
    """Reads the record of the search of one depth.

    Args:
        path: of the file.
        num_layers: the depth.
        config: the parameters that it must have been made with.
        data_sha256: of the training windows.

    Raises:
        UserError: the file is missing or is no such record, was made for another depth, with other parameters or on
            other windows, or its choice does not follow from its finalists.
    """
    stage = f"tune@{num_layers}"
    remedy = f"run `dvc repro {stage}` to search again"
    values = read_json(path, stage).get("tuning")
    if not (isinstance(values, list) and len(values) == 1):
        raise UserError(f"{path}: found no list `tuning` with one entry; {remedy}")
    try:
        tuning = Tuning.model_validate(values[0])
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("tuning", 0, *first["loc"])))
        raise UserError(f"{path}: {name}: {first['msg']}; {remedy}") from None
    if tuning.num_layers != num_layers:
        raise UserError(f"{path}: found the search of {tuning.num_layers} layers, expected {num_layers}; {remedy}")
    if (tuning.parameters, tuning.seed) != (parameters_of(config), config.search.seed) or not tuning.is_search_of(
        plan_of(config.search, num_layers)
    ):
        raise UserError(f"{path}: searched with parameters other than those of params.yaml; {remedy}")
    if tuning.data_sha256 != data_sha256:
        raise UserError(f"{path}: not a search on the windows in data/windows; {remedy}")
    if not tuning.is_whole():
        raise UserError(f"{path}: chosen does not follow from finalists and trials, so the file was changed; {remedy}")
    return tuning


def replayed(tuning: Tuning, curves: Path, margins: Checkpoints) -> str:
    """What the rule would have spared in a search without it, and whether it would have lost who won, for people.

    Raises:
        UserError: the search was pruned, or the table of its epochs is missing or does not belong to it.
    """
    stage = f"tune@{tuning.num_layers}"
    if any(trial.pruned for trial in tuning.trials):
        raise UserError(
            f"{stage}: found pruned trials, expected a search without pruning; run "
            f"`dvc exp run -S 'search.unpruned=[{tuning.num_layers}]' {stage}` for one to replay"
        )
    losses = _val_losses(curves, {trial.number for trial in tuning.trials}, stage)
    stacks: dict[tuple[int, bool], dict[int, list[float]]] = {}
    for trial in sorted(tuning.trials, key=lambda trial: (trial.round, trial.recipe.residual)):
        stacks.setdefault((trial.round, trial.recipe.residual), {})[trial.number] = losses.get(trial.number, [])
    found = replay(list(stacks.values()), margins)
    lines = [f"trial {number} would have left after epoch {epoch}" for number, epoch in sorted(found.left.items())]
    finalists = [number for one in tuning.finalists for number in one.trials]
    (winner,) = [number for one in tuning.finalists for number in one.trials if one.recipe == tuning.chosen.recipe]
    kept = [number for number in finalists if number not in found.left]
    lines.append(
        f"{len(found.left)} of {len(tuning.trials)} trials leave and spare {found.spared} of {found.epochs} epochs "
        f"({found.spared / found.epochs:.0%})"
    )
    lines.append(f"{len(kept)} of {len(finalists)} finalists stay")
    lines.append(f"the winner, trial {winner}, {'would have been LOST' if winner in found.left else 'stays'}")
    return "\n".join(lines)


def _val_losses(path: Path, trials: set[int], stage: str) -> dict[int, list[float]]:
    """Validation losses by trial from the table that the search wrote."""
    remedy = f"run `dvc repro {stage}` to write it again"
    losses: dict[int, list[float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                losses.setdefault(int(row["trial"]), []).append(float(row["val_loss"]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: not a table with the columns trial and val_loss ({error!r}); {remedy}") from None
    if unknown := losses.keys() - trials:
        raise UserError(f"{path}: found trial {min(unknown)}, which the search did not have; {remedy}")
    return losses
