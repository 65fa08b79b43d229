"""The search on functions that are known: what it proposes, what it lets go, and whom it chooses."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.config import parse_config
from newllm.errors import UserError
from newllm.studies.search import (
    Finalist,
    Outcome,
    Plan,
    Recipe,
    Searched,
    Trial,
    at_end_of_range,
    best_trials,
    choose,
    chosen,
    finalist,
    first_round,
    leaving,
    nearest_untried,
    next_round,
    replay,
    search,
    search_and_choose,
    values_beyond,
)
from newllm.studies.tuning import plan_of
from newllm.training.records import EpochRow, RowResult
from tests.checkout import ROOT

SPACE: dict[str, list[Any]] = {
    "rate": [0.25, 0.5, 1.0, 2.0, 4.0],
    "dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "residual": [False, True],
    "schedule": ["constant", "linear"],
}
START: Recipe = {"rate": 1.0, "dropout": 0.1, "residual": False, "schedule": "constant"}
PLAN = Plan(SPACE, START, trials=40, first_round=16, round_size=8, seed=0)
BEST: Recipe = {"rate": 2.0, "dropout": 0.4, "residual": True, "schedule": "linear"}


def distance(recipe: Recipe) -> float:
    """Squared steps from BEST; nearby recipes are nearly as good, as they are in trainings."""
    return sum(
        (SPACE[knob].index(recipe[knob]) - SPACE[knob].index(value)) ** 2 if knob in ("rate", "dropout")
        else 2 * (recipe[knob] != value)
        for knob, value in BEST.items()
    )  # fmt: skip


def outcome(losses: Sequence[float], ended: Any = "epochs", seed: int = 0, problem: str | None = None) -> Outcome:
    curve = [
        EpochRow(1, seed, epoch, loss + 0.1, loss, math.exp(loss), epoch / 100, 1.0, 1.0, 2.0)
        for epoch, loss in enumerate(losses, 1)
    ]
    best = min(losses, default=math.inf)
    best_epoch = losses.index(best) + 1 if losses else 0
    result = RowResult(seed, best_epoch, len(losses), False, best + 0.1, best, 2.0, 1.0, ended, problem)
    return Outcome(result, curve)


def trained(loss: Callable[[Recipe], float]) -> Callable[..., list[Outcome]]:
    return lambda _, recipes, __: [outcome([loss(recipe)]) for recipe in recipes]


def key(recipe: Recipe) -> tuple[Any, ...]:
    return tuple(recipe[knob] for knob in SPACE)


def test_rounds_add_up() -> None:
    assert PLAN.rounds() == [16, 8, 8, 8]
    assert Plan(SPACE, START, 5, 8, 4, 0).rounds() == [5]
    assert Plan(SPACE, START, 9, 4, 3, 0).rounds() == [4, 3, 2]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_round_begins_with_the_start_and_spreads(seed: int) -> None:
    recipes = first_round(Plan(SPACE, START, 40, 16, 8, seed), 16)
    assert recipes[0] == START
    assert len({key(recipe) for recipe in recipes}) == 16
    for knob, values in SPACE.items():
        counts = [sum(recipe[knob] == value for recipe in recipes) for value in values]
        # as equal as they can be, but for the start's place, which is taken from any value, and a neighbour or two
        assert max(counts) <= math.ceil(16 / len(values)) + 2
        assert min(counts) >= max(16 // len(values) - 2, 1)


def test_proposals_depend_on_the_seed_and_on_earlier_rounds_alone() -> None:
    trials, _ = search(PLAN, trained(distance))
    again, _ = search(PLAN, trained(distance))
    assert trials == again
    other_seed, _ = search(Plan(SPACE, START, 40, 16, 8, 1), trained(distance))
    assert [t.recipe for t in other_seed] != [t.recipe for t in trials]
    other, _ = search(PLAN, trained(lambda recipe: -distance(recipe)))
    assert [t.recipe for t in other[:16]] == [t.recipe for t in trials[:16]]
    assert [t.recipe for t in other[16:]] != [t.recipe for t in trials[16:]]
    for number in (1, 2, 3):
        earlier = [trial for trial in trials if trial.round < number]
        assert next_round(PLAN, earlier, 8) == [trial.recipe for trial in trials if trial.round == number]
    assert [trial.number for trial in trials] == list(range(40))


@pytest.mark.parametrize("seed", range(4))
def test_later_rounds_come_closer(seed: int) -> None:
    trials, _ = search(Plan(SPACE, START, 40, 16, 8, seed), trained(distance))
    means = [
        sum(distance(trial.recipe) for trial in trials if trial.round == number) / size
        for number, size in enumerate(PLAN.rounds())
    ]
    assert means[-1] < 0.6 * means[0]
    assert min(distance(trial.recipe) for trial in trials) <= 1


def test_no_recipe_is_tried_twice_even_where_all_are_tried() -> None:
    space = {"rate": [1.0, 2.0, 4.0], "residual": [False], "schedule": ["constant", "linear"], "dropout": [0.0, 0.1]}
    plan = Plan(space, {"rate": 2.0, "residual": False, "schedule": "linear", "dropout": 0.1}, 12, 5, 4, 0)
    trials, _ = search(plan, trained(lambda recipe: float(recipe["rate"])))
    tried = {tuple(trial.recipe[knob] for knob in space) for trial in trials}
    assert tried == set(itertools.product(*space.values()))
    with pytest.raises(ValueError, match="all 12"):
        next_round(plan, trials, 1)


def test_a_recipe_that_was_tried_gives_way_to_a_neighbour() -> None:
    class Stream:
        def integers(self, count: int) -> int:
            return count - 1

    stream: Any = Stream()
    assert nearest_untried(SPACE, BEST, [START], stream) == BEST
    neighbour = nearest_untried(SPACE, BEST, [BEST], stream)
    # among one step of rate or dropout, or the other value of a switch: the last of six on the grid
    assert neighbour == {**BEST, "rate": 4.0}
    line = {"dropout": [0.0, 0.1, 0.2, 0.3]}
    tried = [{"dropout": value} for value in (0.0, 0.1, 0.2)]
    assert nearest_untried(line, {"dropout": 0.0}, tried, stream) == {"dropout": 0.3}


def test_a_trial_that_diverges_is_recorded_and_ends_nothing() -> None:
    def train_round(_: int, recipes: Sequence[Recipe], __: Any) -> list[Outcome]:
        return [
            outcome([], "diverged", problem="too fast") if recipe["rate"] == 4.0 else outcome([3.0 + distance(recipe)])
            for recipe in recipes
        ]

    trials, outcomes = search(PLAN, train_round)
    assert len(trials) == len(outcomes) == 40
    diverged = [trial for trial in trials if trial.recipe["rate"] == 4.0]
    assert len(diverged) >= 2
    assert {(t.val_loss, t.val_ppl, t.problem, t.ended, t.epochs_run) for t in diverged} == {
        (None, None, "too fast", "diverged", 0)
    }
    assert all(trial.recipe["rate"] != 4.0 for trial in best_trials(trials, 4))
    later = [trial.recipe["rate"] for trial in trials if trial.round == 3]
    assert later.count(4.0) <= 2, "the sampler learns from it"


def test_who_leaves_at_a_checkpoint() -> None:
    curves = {0: [4.0, 3.6], 1: [4.0, 3.0], 2: [4.0, 3.41], 3: [2.9], 4: []}
    at_2 = ((2, 0.5), (3, 0.1))
    assert leaving(curves, [0, 1, 2, 3], [], at_2) == [0, 2], "2.9 + 0.5 = 3.4, though 3 has ended"
    assert leaving({**curves, 3: [3.2]}, [0, 1, 2], [], at_2) == [0]
    assert leaving({0: [4.0, 3.6]}, [0], [[9.0, 3.2, 1.0]], at_2) == [], "later epochs of others do not count"
    assert leaving({0: [4.0, 3.6]}, [0], [[3.0]], at_2) == [0]
    assert leaving({0: [3.4, 3.6]}, [0], [[3.0]], at_2) == [], "the lowest until then"
    assert leaving({0: [4.0]}, [0], [[3.0]], at_2) == [], "no checkpoint"
    assert leaving(curves, [0, 1], [], ()) == []


def test_a_replay_does_what_the_rule_would_have_done() -> None:
    checkpoints = ((1, 1.0), (3, 0.25))
    stacks = [
        {0: [5.0, 4.0, 3.0, 3.0], 1: [6.5, 2.0, 2.0, 2.0], 2: [5.0, 4.0, 3.3, 2.9]},
        {3: [6.0, 3.0, 3.2, 2.5], 4: [5.5, 4.0, 3.3], 5: [5.5, 4.0, 3.26, 1.0]},
    ]
    # 1 leaves after an epoch (6.5 > 5 + 1), so that its 2.0 is known to nobody; 2 and 5 after three (3.3, 3.26 > 3.25);
    # 4 ends there by itself
    found = replay(stacks, checkpoints)
    assert found.left == {1: 1, 2: 3, 5: 3}
    assert (found.epochs, found.spared) == (23, 3 + 1 + 1)
    assert replay(stacks, ()).left == {}


def trial(number: int, val_loss: float | None, ended: str = "epochs") -> Trial:
    pruned, problem = ended == "rule", "bad" if ended == "diverged" else None
    return Trial(number, 0, {"rate": number}, 0, val_loss, val_loss, 1, 1, ended, pruned, problem, 1.0)


def test_the_best_trials_are_those_that_came_to_an_end() -> None:
    trials = [
        trial(0, 3.0),
        trial(1, 2.5, "rule"),
        trial(2, 2.9, "patience"),
        trial(3, None, "diverged"),
        trial(4, 2.9),
    ]
    assert [one.number for one in best_trials(trials, 2)] == [2, 4]
    assert [one.number for one in best_trials(trials, 9)] == [2, 4, 0]
    with pytest.raises(UserError, match=r"no trial .* bad"):
        best_trials([trials[1], trials[3]], 2)


def test_the_lowest_mean_over_further_seeds_wins_and_says_why() -> None:
    first = finalist(trial(7, 2.0), [outcome([math.log(20)], seed=1), outcome([math.log(22)], seed=2)])
    second = finalist(trial(9, 3.0), [outcome([math.log(20.5), 4], seed=1), outcome([4, math.log(20.7)], seed=2)])
    third = finalist(trial(8, 1.0), [outcome([1.0], seed=1), outcome([1.0], "diverged", 2, "nothing cures it")])
    assert first.val_ppl == pytest.approx(21.0)
    assert second.val_ppl == pytest.approx(20.6)
    assert [seed["val_accuracy"] for seed in second.seeds] == [0.01, 0.02]
    assert [seed["seed"] for seed in second.seeds] == [1, 2]
    assert third.val_ppl is None
    assert [third.seeds[1][name] for name in ("val_loss", "train_loss", "val_ppl")] == [None] * 3
    assert choose([first, second, third]) is second
    found = chosen({"rate": [1.0, 9]}, [first, second, third])
    assert (found["recipe"], found["val_ppl"]) == ({"rate": 9}, second.val_ppl)
    assert found["at_end_of_range"] == ["rate"]
    assert "20.600" in found["why"]
    assert "21.000" in found["why"]
    with pytest.raises(UserError, match="nothing cures it"):
        choose([third])
    with pytest.raises(UserError, match="no finalist"):
        choose([Finalist({}, [0], third.seeds, None)])


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, []),
        ({"rate": 4.0}, ["rate"]),
        ({"rate": 0.25, "dropout": 0.6}, ["rate", "dropout"]),
        ({"dropout": 0.0}, []),
    ],
)
def test_ends_of_ranges_are_those_of_numbers_but_for_nothing(changes: dict[str, Any], ends: list[str]) -> None:
    assert at_end_of_range(SPACE, {**BEST, **changes}) == ends
    assert at_end_of_range({"rate": [2.0]}, {"rate": 2.0}) == []


STUDY = plan_of(parse_config(yaml.safe_load((ROOT / "params.yaml").read_text()), Path("params.yaml")).search, 4)


def valley(rate: float, dropout: float) -> Callable[[Recipe, int], float]:
    """Lowest at a rate and a dropout; seeds differ a little."""
    return lambda recipe, seed: (
        3
        + 0.1 * abs(math.log2(float(recipe["learning_rate_factor"]) / rate))
        + abs(float(recipe["dropout"]) - dropout)
        + 0.01 * (recipe["schedule"] == "constant")
        + 0.001 * seed
    )


def widening(loss: Callable[[Recipe, int], float], widenings: int, finalists: int = 4) -> tuple[Searched, list[int]]:
    """The study's search of a function, and how many recipes became finalists in each choice; none trains twice."""
    done: list[tuple[Any, ...]] = []
    new: list[int] = []

    def trained(pairs: Sequence[tuple[Recipe, int]]) -> list[Outcome]:
        done.extend((seed, *recipe.values()) for recipe, seed in pairs)
        return [outcome([loss(recipe, seed)], seed=seed) for recipe, seed in pairs]

    def train_round(number: int, recipes: Sequence[Recipe], earlier: Sequence[Outcome]) -> list[Outcome]:
        assert len(earlier) == [0, 16, 24, 32, 40, 48, 56, 64][number], "what the pruning compares with"
        return trained([(recipe, 0) for recipe in recipes])

    def further(number: int, pairs: Sequence[tuple[Recipe, int]]) -> list[Outcome]:
        new.extend([0] * (number - len(new)) + [len(pairs) // 3])
        return trained(pairs)

    found = search_and_choose(
        replace(STUDY, widenings=widenings, finalists=finalists),
        train_round,
        further,
    )
    assert len(set(done)) == len(done)
    assert [trial.number for trial in found.trials] == list(range(len(found.outcomes)))
    return found, new


@pytest.mark.parametrize(
    ("rate", "dropout", "rates", "dropouts", "left"),
    [
        (1.0, 0.3, [], [], []),
        (16.0, 0.3, [8.0, 16.0, 32.0], [], []),
        (0.125, 0.3, [0.125, 0.0625], [], []),
        (1.0, 0.7, [], [0.7, 0.8], []),
        (8.0, 0.7, [8.0, 16.0], [0.7, 0.8], []),
        (1.0, 0.95, [], [0.7, 0.8, 0.9], ["dropout"]),
    ],
)
def test_what_is_best_beyond_the_range_is_found(
    rate: float, dropout: float, rates: list[float], dropouts: list[float], left: list[str]
) -> None:
    found, _ = widening(valley(rate, dropout), 9)
    best = chosen(found.space, found.finalists)
    assert best["recipe"]["learning_rate_factor"] == rate
    assert best["recipe"]["dropout"] == min(dropout, 0.9)
    assert best["at_end_of_range"] == left, "nothing is beyond a dropout of 0.9"
    wider = {"learning_rate_factor": rates, "dropout": dropouts}
    assert found.space == {**STUDY.space, **{knob: sorted([*STUDY.space[knob], *more]) for knob, more in wider.items()}}
    rounds = max(len(rates), len(dropouts))
    assert [trial.round for trial in found.trials[40:]] == [4 + i // 8 for i in range(8 * rounds)]
    for knob, values in wider.items():
        for number, value in enumerate(values):
            first = next(trial for trial in found.trials if trial.recipe[knob] == value)
            place = 1 if knob == "dropout" and rates else 0
            assert first.number == 40 + 8 * number + place, "the first of its round, or the one after the other knob's"
            others = [{**trial.recipe, knob: value} for trial in found.trials[: 40 + 8 * number]]
            assert first.recipe in others, "the rest is that of the winner"
    assert found == widening(valley(rate, dropout), 9)[0]


@pytest.mark.parametrize(("widenings", "best", "trials"), [(0, 4.0, 40), (1, 8.0, 48), (2, 16.0, 56)])
def test_ranges_are_widened_so_often_and_no_more(widenings: int, best: float, trials: int) -> None:
    found, _ = widening(valley(1000.0, 0.3), widenings)
    assert len(found.trials) == trials
    winner = chosen(found.space, found.finalists)
    assert winner["recipe"]["learning_rate_factor"] == best == max(found.space["learning_rate_factor"])
    assert winner["at_end_of_range"] == ["learning_rate_factor"]


def test_a_wider_range_loses_no_winner() -> None:
    """A rate beyond the range that is best with the search's seed alone."""

    def lucky(recipe: Recipe, seed: int) -> float:
        return 2.0 if recipe["learning_rate_factor"] == 8.0 and seed == 0 else valley(4.0, 0.3)(recipe, seed)

    before, _ = widening(lucky, 0, finalists=1)
    after, new = widening(lucky, 3, finalists=1)
    assert chosen(after.space, after.finalists)["recipe"] == chosen(before.space, before.finalists)["recipe"]
    assert [one.recipe["learning_rate_factor"] for one in after.finalists] == [8.0, 4.0]
    assert new == [1, 1]
    assert len(after.trials) == 48


def test_a_wider_range_that_is_worse_trains_no_finalist_again() -> None:
    found, new = widening(valley(4.0, 0.3), 3, finalists=1)
    assert new == [1]
    assert len(found.trials) == 48


def test_the_last_recipes_of_a_space_are_tried_once() -> None:
    """A round is no larger than what is left to try."""
    space = {**{knob: values[:1] for knob, values in STUDY.space.items()}, "learning_rate_factor": [1.0, 2.0]}
    plan = replace(STUDY, space=space, start={knob: values[0] for knob, values in space.items()}, trials=2)
    found = search_and_choose(
        plan,
        lambda _, recipes, __: [outcome([valley(16.0, 0.0)(recipe, 0)]) for recipe in recipes],
        lambda _, pairs: [outcome([valley(16.0, 0.0)(recipe, seed)], seed=seed) for recipe, seed in pairs],
    )
    assert [trial.recipe["learning_rate_factor"] for trial in found.trials[2:]] == [4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("knob", "values", "value", "beyond"),
    [
        ("learning_rate_factor", [0.25, 1.0, 3.0], 3.0, 6.0),
        ("learning_rate_factor", [0.25, 1.0, 3.0], 0.25, 0.125),
        ("learning_rate_factor", [0.25, 1.0, 3.0], 1.0, None),
        ("dropout", [0.2, 0.7], 0.7, 0.8),
        ("dropout", [0.2, 0.7], 0.2, 0.1),
        ("dropout", [0.05, 0.85], 0.05, 0.0),
        ("dropout", [0.05, 0.85], 0.85, 0.9),
        ("dropout", [0.0, 0.9], 0.9, None),
        ("dropout", [0.0, 0.95], 0.95, None),
        ("dropout", [0.0, 0.9], 0.0, None),
    ],
)
def test_the_value_beyond_an_end(knob: str, values: list[float], value: float, beyond: float | None) -> None:
    plan = replace(STUDY, space={**STUDY.space, knob: values})
    within = {"learning_rate_factor": 1.0, "dropout": 0.3, "schedule": "linear", "residual": True}
    expected = {} if beyond is None else {knob: beyond}
    assert values_beyond(plan, {**within, knob: value}) == expected
    assert values_beyond(replace(plan, beyond={}), {**within, knob: value}) == {}
