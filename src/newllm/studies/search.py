"""A search for the best recipe: proposals in rounds, trials that leave early, the choice of the winner, wider ranges.

Nothing here knows what is trained. A recipe is a mapping of knobs to values, a space says which values each knob may
have, and a function of the caller trains a round of recipes, all with one seed.

The first round spreads over the space: each knob takes its values equally often, in random order (a Latin hypercube
on the grid), and a recipe that the caller names comes first. Later rounds are asked of Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011; multivariate, Falkner et al. 2018), all recipes of a round at once. So proposals depend
on the seed and on what earlier rounds came to, never on timing. No recipe is tried twice: one that was tried before
gives way to its nearest neighbour on the grid that was not.

Beyond a winner at the end of a range there may be a better recipe. So the range gets one more value there, one more
round is proposed in the wider space with all earlier trials known, and the choice is made again.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from newllm.errors import UserError
from newllm.training.records import EpochRow, RowResult

Value = float | bool | str
Recipe = Mapping[str, Value]
Space = Mapping[str, Sequence[Value]]
"""The values of each knob; those of a knob that is a number are in ascending order."""
Beyond = Callable[[float, bool], float]
"""The value beyond the end of a range: of its last value and whether that is the highest, else the lowest."""
Checkpoints = Sequence[tuple[int, float]]
"""Entries (epoch, margin in nats): where a trial may be told to leave."""


@dataclass(frozen=True)
class Outcome:
    """What training one recipe with one seed came to, and its epochs."""

    result: RowResult
    curve: Sequence[EpochRow]

    @property
    def val_losses(self) -> list[float]:
        """Of every epoch, in nats."""
        return [row.val_loss for row in self.curve]


@dataclass(frozen=True)
class Plan:
    """A search.

    Attributes:
        space: the values of each knob.
        start: the recipe of trial 0.
        trials: how many recipes are tried.
        first_round: how many of them in the first round.
        round_size: how many in each later one; the last may be smaller.
        seed: of the proposals and of the trials' trainings.
        finalists: how many of the best trials are trained with further seeds.
        finalist_seeds: these seeds.
        widenings: how often ranges are widened at most.
        beyond: how to widen the range of a knob; one without stays as it is.
    """

    space: Space
    start: Recipe
    trials: int
    first_round: int
    round_size: int
    seed: int
    finalists: int = 1
    finalist_seeds: Sequence[int] = (1,)
    widenings: int = 0
    beyond: Mapping[str, Beyond] = field(default_factory=dict)

    def rounds(self) -> list[int]:
        """The number of trials in each round."""
        sizes = [min(self.first_round, self.trials)]
        while (left := self.trials - sum(sizes)) > 0:
            sizes.append(min(self.round_size, left))
        return sizes


@dataclass(frozen=True)
class Trial:
    """One recipe of a search; a trial that diverged has no loss, a pruned one the best until it left.

    Losses in nats; the fields are those of `RowResult`.
    """

    number: int
    round: int
    recipe: dict[str, Value]
    seed: int
    val_loss: float | None
    val_ppl: float | None
    best_epoch: int
    epochs_run: int
    ended: str
    pruned: bool
    problem: str | None
    train_seconds: float


@dataclass(frozen=True)
class Finalist:
    """One of the best recipes, trained with further seeds.

    Attributes:
        recipe: what was trained.
        trials: the numbers of its trials in the search.
        seeds: figures of each further seed, see `seed_figures`.
        val_ppl: mean over these seeds; None if one of them diverged.
    """

    recipe: dict[str, Value]
    trials: list[int]
    seeds: list[dict[str, Any]]
    val_ppl: float | None


TrainRound = Callable[[int, Sequence[Recipe], Sequence[Outcome]], Sequence[Outcome]]
"""Trains a round: its number from 0, its recipes, and what all earlier trials came to; returns what these came to."""
TrainFurther = Callable[[int, Sequence[tuple[Recipe, int]]], Sequence[Outcome]]
"""Trains finalists: how often ranges were widened before, and recipes with their seeds; returns what they came to."""


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        space: of the plan, with the values by which it was widened.
        trials: all, in order.
        outcomes: what each trial came to.
        finalists: all recipes that were trained with further seeds, by the losses of their trials.
    """

    space: Space
    trials: list[Trial]
    outcomes: list[Outcome]
    finalists: list[Finalist]


def search_and_choose(plan: Plan, train_round: TrainRound, train_further: TrainFurther) -> Searched:
    """Searches, trains the best trials with further seeds, and widens the space while the winner lies at an end of it.

    Who was a finalist once remains one, so that no round can lose a winner. No recipe is trained twice with a seed.

    Raises:
        UserError: no trial, or no finalist with all its seeds, came to an end.
    """
    trials, outcomes = search(plan, train_round)
    further: dict[int, list[Outcome]] = {}
    for widenings in itertools.count():
        new = [trial for trial in best_trials(trials, plan.finalists) if trial.number not in further]
        pairs = [(trial.recipe, seed) for trial in new for seed in plan.finalist_seeds]
        if new:
            print(f"finalists: {len(new)}, each with {len(plan.finalist_seeds)} further seeds", flush=True)
            found = iter(train_further(widenings, pairs))
            further |= {trial.number: [next(found) for _ in plan.finalist_seeds] for trial in new}
        ranked = best_trials(trials, len(trials))
        finalists = [finalist(trial, further[trial.number]) for trial in ranked if trial.number in further]
        winner = choose(finalists).recipe
        values = {} if widenings == plan.widenings else values_beyond(plan, winner)
        if not values:
            break
        plan = replace(plan, space=widened(plan.space, values))
        size = min(plan.round_size, math.prod(map(len, plan.space.values())) - len(trials))
        # each new value once beside the rest of what won: the nearest of all recipes that it makes possible
        recipes = next_round(plan, trials, size, [{**winner, knob: value} for knob, value in values.items()][:size])
        wider = ", ".join(f"{knob} {value}" for knob, value in values.items())
        print(f"the winner is at the end of a range: {size} recipes more, with {wider}{_best(trials)}", flush=True)
        _train(plan, 1 + trials[-1].round, recipes, train_round, trials, outcomes)
    return Searched(plan.space, trials, outcomes, finalists)


def values_beyond(plan: Plan, recipe: Recipe) -> dict[str, float]:
    """The next value of each knob at the end of its range, where there is one beyond."""
    found = {}
    for knob in at_end_of_range(plan.space, recipe):
        value, highest = float(recipe[knob]), recipe[knob] == plan.space[knob][-1]
        beyond = plan.beyond[knob](value, highest) if knob in plan.beyond else value
        if beyond > value if highest else beyond < value:
            found[knob] = beyond
    return found


def widened(space: Space, values: Mapping[str, float]) -> Space:
    """The space with one more value of some knobs."""
    return {knob: sorted([*known, values[knob]]) if knob in values else known for knob, known in space.items()}


def search(plan: Plan, train_round: TrainRound) -> tuple[list[Trial], list[Outcome]]:
    """Proposes and trains round by round; returns all trials, and what each came to."""
    trials: list[Trial] = []
    outcomes: list[Outcome] = []
    sizes = plan.rounds()
    for number, size in enumerate(sizes):
        recipes = first_round(plan, size) if number == 0 else next_round(plan, trials, size)
        print(f"round {number + 1} of {len(sizes)}: {len(recipes)} recipes{_best(trials)}", flush=True)
        _train(plan, number, recipes, train_round, trials, outcomes)
    return trials, outcomes


def _train(
    plan: Plan,
    number: int,
    recipes: Sequence[Recipe],
    train_round: TrainRound,
    trials: list[Trial],
    outcomes: list[Outcome],
) -> None:
    """Trains a round and adds what it came to."""
    found = train_round(number, recipes, outcomes)
    for recipe, outcome in zip(recipes, found, strict=True):
        trials.append(_trial(len(trials), number, recipe, plan.seed, outcome.result))
    outcomes += found


def _best(trials: Sequence[Trial]) -> str:
    known = [trial.val_ppl for trial in trials if trial.val_ppl is not None]
    return f"; best validation perplexity so far {min(known):.2f}" if known else ""


def _trial(number: int, round_number: int, recipe: Recipe, seed: int, result: RowResult) -> Trial:
    diverged = result.ended == "diverged"
    return Trial(
        number=number,
        round=round_number,
        recipe=dict(recipe),
        seed=seed,
        val_loss=None if diverged else result.val_loss,
        val_ppl=None if diverged else math.exp(result.val_loss),
        best_epoch=result.best_epoch,
        epochs_run=result.epochs_run,
        ended=result.ended,
        pruned=result.ended == "rule",
        problem=result.problem,
        train_seconds=result.train_seconds,
    )


def first_round(plan: Plan, count: int) -> list[Recipe]:
    """`count` different recipes that spread over the space, the plan's start first."""
    stream = _stream(plan, 0)
    columns = [stream.permutation(np.resize(stream.permutation(len(values)), count)) for values in plan.space.values()]
    recipes = [dict(plan.start)]
    for places in list(zip(*columns, strict=True))[1:]:
        recipe = {knob: values[int(place)] for (knob, values), place in zip(plan.space.items(), places, strict=True)}
        recipes.append(nearest_untried(plan.space, recipe, recipes, stream))
    return list(recipes)


def next_round(plan: Plan, trials: Sequence[Trial], count: int, given: Sequence[Recipe] = ()) -> list[Recipe]:
    """`count` recipes, different from each other and from those of all `trials`, which are those of earlier rounds.

    A diverged trial counts as the worst, a pruned one with its loss until it left. The recipes in `given` come first;
    they are new.
    """
    number = 1 + trials[-1].round
    stream = _stream(plan, number)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=int(stream.integers(2**32)), multivariate=True, n_startup_trials=0, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    distributions = _distributions(plan.space)
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params=_to_optuna(plan.space, trial.recipe),
                distributions=distributions,
                value=math.inf if trial.val_loss is None else trial.val_loss,
            )
        )
    tried = [trial.recipe for trial in trials]
    proposed: list[Recipe] = list(given)
    for recipe in given:
        study.enqueue_trial(_to_optuna(plan.space, recipe))
        study.ask(distributions)
    for _ in range(count - len(given)):
        asked = study.ask(distributions)
        wanted = _from_optuna(plan.space, asked.params)
        recipe = nearest_untried(plan.space, wanted, [*tried, *proposed], stream)
        if recipe != wanted:  # the sampler must know what is tried instead, so that it spreads the rest of the round
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(_to_optuna(plan.space, recipe))
            study.ask(distributions)
        proposed.append(recipe)
    return proposed


def nearest_untried(
    space: Space, recipe: Recipe, tried: Collection[Recipe], stream: np.random.Generator
) -> dict[str, Value]:
    """The recipe itself, or if it was tried the nearest one that was not.

    A step is one value of a knob that is a number, or any other value of another knob. Chance decides between equals.

    Raises:
        ValueError: all were tried.
    """
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    untried = [candidate for candidate in grid if candidate not in tried]
    if not untried:
        raise ValueError(f"all {len(grid)} recipes of the space were tried")
    distances = [_distance(space, recipe, candidate) for candidate in untried]
    nearest = [candidate for candidate, distance in zip(untried, distances, strict=True) if distance == min(distances)]
    return nearest[0] if len(nearest) == 1 else nearest[int(stream.integers(len(nearest)))]


def _distance(space: Space, one: Recipe, other: Recipe) -> int:
    return sum(
        abs(values.index(one[knob]) - values.index(other[knob])) if is_ordered(values) else one[knob] != other[knob]
        for knob, values in space.items()
    )


def is_ordered(values: Sequence[Value]) -> bool:
    """Whether a knob's values are numbers."""
    return not any(isinstance(value, bool | str) for value in values)


def _stream(plan: Plan, number: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, number])


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """Knobs that are numbers by their places, so that the sampler knows which values are neighbours."""
    return {
        knob: IntDistribution(0, len(values) - 1) if is_ordered(values) else CategoricalDistribution(list(values))
        for knob, values in space.items()
        if len(values) > 1
    }


def _to_optuna(space: Space, recipe: Recipe) -> dict[str, Any]:
    return {
        knob: values.index(recipe[knob]) if is_ordered(values) else recipe[knob]
        for knob, values in space.items()
        if len(values) > 1
    }


def _from_optuna(space: Space, parameters: Mapping[str, Any]) -> dict[str, Value]:
    return {
        knob: values[0]
        if knob not in parameters
        else values[parameters[knob]]
        if is_ordered(values)
        else parameters[knob]
        for knob, values in space.items()
    }


def leaving(
    curves: Mapping[int, Sequence[float]],
    going_on: Collection[int],
    known: Sequence[Sequence[float]],
    checkpoints: Checkpoints,
) -> list[int]:
    """Which trials leave after an epoch: those whose loss at a checkpoint exceeds the best one by more than its margin.

    A trial is looked at after exactly the epochs of the checkpoints. What is compared is the lowest loss until then,
    with the lowest until then of any trial, those included that have ended or left.

    Args:
        curves: validation losses in nats of every epoch of the trials that train together, by their numbers.
        going_on: the numbers of those that may leave.
        known: such losses of the trials before them.
        checkpoints: epochs and margins.
    """
    gone = []
    for epoch, margin in checkpoints:
        at_epoch = [number for number in going_on if len(curves[number]) == epoch]
        if at_epoch:
            best = min(min(losses[:epoch]) for losses in [*curves.values(), *known] if losses)
            gone += [number for number in at_epoch if min(curves[number]) > best + margin]
    return gone


@dataclass(frozen=True)
class Replay:
    """What a rule would have done in a search without it.

    Attributes:
        left: the trials that would have left, with the epoch after which.
        epochs: of all trials together, as they were trained.
        spared: those of them that would not have been trained.
    """

    left: dict[int, int]
    epochs: int
    spared: int


def replay(stacks: Sequence[Mapping[int, Sequence[float]]], checkpoints: Checkpoints) -> Replay:
    """Applies the rule to the losses of a search without it, as if the trials of a stack had trained side by side.

    Args:
        stacks: validation losses of every epoch by the trials' numbers, of one stack after the other.
        checkpoints: epochs and margins.
    """
    left: dict[int, int] = {}
    known: list[Sequence[float]] = []
    for stack in stacks:
        for epoch, _ in checkpoints:
            until = {number: losses[: left.get(number, epoch)] for number, losses in stack.items()}
            # whoever ends by itself at this epoch is not let go
            going_on = [number for number, losses in stack.items() if len(losses) > epoch and number not in left]
            left |= dict.fromkeys(leaving(until, going_on, known, checkpoints), epoch)
        known += [losses[: left.get(number)] for number, losses in stack.items()]
    epochs = sum(len(losses) for stack in stacks for losses in stack.values())
    spared = sum(len(stack[number]) - epoch for stack in stacks for number, epoch in left.items() if number in stack)
    return Replay(left, epochs, spared)


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The `count` trials with the lowest losses, or as many as neither diverged nor were pruned.

    Raises:
        UserError: there is none.
    """
    able = [trial for trial in trials if trial.val_loss is not None and not trial.pruned]
    if not able:
        reason = next((trial.problem for trial in trials if trial.problem), "all were pruned")
        raise UserError(f"no trial of the search came to an end: {reason}")
    return sorted(able, key=lambda trial: (trial.val_loss, trial.number))[:count]


def finalist(trial: Trial, outcomes: Sequence[Outcome]) -> Finalist:
    """A trial's recipe with what its further seeds came to."""
    seeds = [seed_figures(outcome) for outcome in outcomes]
    known = [seed["val_ppl"] for seed in seeds if seed["ended"] != "diverged"]
    return Finalist(trial.recipe, [trial.number], seeds, fmean(known) if len(known) == len(seeds) else None)


def seed_figures(outcome: Outcome) -> dict[str, Any]:
    """What one seed came to, with the best epoch's perplexity and accuracy (a fraction); None where it diverged."""
    figures = asdict(outcome.result) | {"val_ppl": None, "val_accuracy": None}
    if outcome.result.ended == "diverged":
        return figures | {"train_loss": None, "val_loss": None}
    best = outcome.curve[outcome.result.best_epoch - 1]
    return figures | {"val_ppl": best.val_ppl, "val_accuracy": best.val_accuracy}


def choose(finalists: Sequence[Finalist]) -> Finalist:
    """The one with the lowest mean perplexity over its further seeds, by which it was not chosen as a finalist.

    The search's own seed does not count: a recipe became a finalist because it did well with that one.

    Raises:
        UserError: each has a seed that diverged.
    """
    able = [one for one in finalists if one.val_ppl is not None]
    if not able:
        reason = next(seed["problem"] for one in finalists for seed in one.seeds if seed["problem"])
        raise UserError(f"no finalist of the search trained with all further seeds: {reason}")
    return min(able, key=lambda one: (one.val_ppl, one.trials))


def chosen(space: Space, finalists: Sequence[Finalist]) -> dict[str, Any]:
    """The winner for a metrics file: its recipe, its mean perplexity, why it won, and knobs at the end of a range."""
    winner = choose(finalists)
    others = [one.val_ppl for one in finalists if one is not winner and one.val_ppl is not None]
    seeds = ", ".join(str(seed["seed"]) for seed in winner.seeds)
    why = f"lowest mean validation perplexity of {len(finalists)} finalists over seeds {seeds}: {winner.val_ppl:.3f}"
    why += f", the next {min(others):.3f}" if others else ""
    ends = at_end_of_range(space, winner.recipe)
    return {"recipe": winner.recipe, "val_ppl": winner.val_ppl, "why": why, "at_end_of_range": ends}


def at_end_of_range(space: Space, recipe: Recipe) -> list[str]:
    """The knobs that are numbers whose value is the lowest or highest of the space; 0 is a bound that nothing widens.

    A knob with one value has no range.
    """
    return [
        knob
        for knob, values in space.items()
        if is_ordered(values) and len(values) > 1 and recipe[knob] in (values[0], values[-1]) and recipe[knob] != 0
    ]
