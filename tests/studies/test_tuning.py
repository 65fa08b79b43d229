"""The search with New-LLM's trainer: rows of recipes, trials that leave, and a search that is killed and goes on."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.run import change
from newllm.config import Config, parse_config
from newllm.errors import UserError
from newllm.model.definition import ModelShape
from newllm.runtime import resume
from newllm.runtime.resume import StateStore
from newllm.studies import tuning
from newllm.studies.search import Outcome, Recipe, replay
from newllm.studies.tuning import (
    Trainings,
    margins_of,
    parameters_of,
    plan_of,
    row_of,
    run_search,
    shape_of,
    trial_curves,
)
from newllm.training.trainer import train
from tests.checkout import ROOT
from tests.training.test_trainer import DATA as MUCH

DATA = MUCH[0][:64], MUCH[1][:30]
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())
TINY: dict[str, Any] = {
    "data": {"vocabulary_size": 20},
    "model": {"embedding_dim": 8, "context_dim": 6, "hidden_size": 12},
    "train": {"epochs": 4, "batch_size": 32, "base_learning_rate": 0.02, "base_batch_size": 16, "precision": "fp32"},
    "lstm": {"hidden_sizes": []},
    "search": {
        "depths": [],
        "equal_parameters": {},
        "trials": 8,
        "first_round": 4,
        "round_size": 2,
        "margins": [[1, 0.06], [2, 0.058], [3, 0.02]],
        "finalists": 2,
        "finalist_seeds": [1, 2],
        "widenings": 0,
    },
}


def config(**search: Any) -> Config:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(values, TINY)
    change(values["search"], search)
    return parse_config(values, Path("params.yaml"))


def recipe(**changes: Any) -> dict[str, Any]:
    return {**COMMITTED["search"]["start"], **changes}


def stores(root: Path) -> Any:
    def make_store(name: str, shape: ModelShape, about: Mapping[str, Any]) -> StateStore:
        return StateStore(root, name, {"shape": vars(shape), **about}, 1)

    return make_store


def searched(root: Path, settings: Config, num_layers: int = 2) -> Any:
    """Trials, outcomes and finalists without what takes time; no state stays."""
    with StateStore(root, f"tune@{num_layers}", {"search": settings.search.model_dump()}, 1) as store:
        trainings = Trainings(settings, num_layers, DATA, store, stores(root))
        found = run_search(settings.search, num_layers, trainings)
    assert not [*root.iterdir()]
    times = {"train_seconds", "tokens_per_second"}
    for one in found.finalists:
        for seed in one.seeds:
            for name in times:
                del seed[name]
    return (
        [replace(trial, train_seconds=0.0) for trial in found.trials],
        [[replace(row, seconds=0.0) for row in outcome.curve] for outcome in found.outcomes],
        found.finalists,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a search that nothing interrupts comes to."""
    return searched(tmp_path_factory.mktemp("expected"), config())


def test_a_row_gets_its_recipe_and_the_rest_of_the_study() -> None:
    study = parse_config(COMMITTED, Path("params.yaml"))
    row = row_of(recipe(learning_rate_factor=0.5, dropout=0.4, initialisation="he", schedule="linear"), 7, study.train)
    assert row.seed == 7
    assert row.recipe.learning_rate == pytest.approx(0.0004), "half of 0.0001 times the root of 2048 / 32"
    assert (row.recipe.dropout, row.recipe.initialisation, row.recipe.schedule) == (0.4, "he", "linear")
    assert row.recipe.gradient_clipping == ((1, 0.5), (11, 1.0), (31, 2.0))
    assert row.recipe.warmup_epochs == 0
    assert shape_of(study, 4, residual=False).num_params == 2_214_120
    by_hand = 256_000 + 400 * 513 + 5 * 400 * 401 + 1000 * 401 + 3 * 256 * 401 + 512
    assert shape_of(study, 6, residual=True, hidden_size=400).num_params == by_hand


def test_a_single_layer_has_no_residual_connections() -> None:
    search = config(start=recipe(residual=True)).search
    assert plan_of(search, 1).space["residual"] == [False]
    assert plan_of(search, 1).start["residual"] is False
    assert plan_of(search, 2).space["residual"] == [False, True]
    assert plan_of(search, 2).start["residual"] is True
    assert margins_of(search) == [(1, 0.06), (2, 0.058), (3, 0.02)]


def test_recorded_parameters_are_those_that_count() -> None:
    found = parameters_of(config(), hidden_size=99)
    assert found["model"] == {"embedding_dim": 8, "context_dim": 6, "hidden_size": 99}
    assert {"seeds", "schedule"} | found["train"].keys() == COMMITTED["train"].keys()


def test_outcomes_are_those_of_each_row_trained_alone(tmp_path: Path) -> None:
    settings = config()
    rows = [
        (recipe(residual=True), 3),
        (recipe(dropout=0.5), 3),
        (recipe(residual=True, learning_rate_factor=4.0), 4),
        (recipe(initialisation="he"), 3),
    ]
    with StateStore(tmp_path, "tune@2", {}, 1) as store:
        found = Trainings(settings, 2, DATA, store, stores(tmp_path)).train("some", rows)
    for (values, seed), outcome in zip(rows, found, strict=True):
        shape = shape_of(settings, 2, values["residual"])
        alone = train(shape, [row_of(values, seed, settings.train)], settings.train, DATA)
        assert outcome.val_losses == [row.val_loss for row in alone.curves]
        assert outcome.result.val_loss == alone.results[0].val_loss
        assert {row.seed for row in outcome.curve} == {seed}


def test_trials_leave_by_what_all_before_them_came_to(expected: Any) -> None:
    """One after the other, as a CPU trains them: against the rule, written anew."""
    trials, curves, finalists = expected
    order = sorted(trials, key=lambda trial: (trial.round, trial.recipe["residual"], trial.number))
    earlier: list[list[float]] = []
    pruned = []
    for trial in order:
        losses = [row.val_loss for row in curves[trial.number]]
        leaves = 4
        for epoch, margin in ((3, 0.02), (2, 0.058), (1, 0.06)):
            if epoch <= len(losses) and any(
                min(losses[:epoch]) - min(other[:epoch]) > margin for other in [*earlier, losses]
            ):
                leaves = epoch
        assert len(losses) == leaves
        assert trial.pruned is (leaves < 4)
        assert trial.val_loss == min(losses)
        pruned += [trial.number] if trial.pruned else []
        earlier.append(losses)
    assert {trials[number].epochs_run for number in pruned} == {2, 3}
    assert len(pruned) <= 6
    assert not {number for one in finalists for number in one.trials} & set(pruned)
    table = trial_curves(trials, [Outcome(None, curve) for curve in curves])  # type: ignore[arg-type]
    assert [(row["trial"], row["epoch"]) for row in table] == [
        (trial.number, epoch + 1) for trial in trials for epoch in range(trial.epochs_run)
    ]


def test_a_replay_tells_who_leaves(tmp_path: Path) -> None:
    """In one round, where no later proposal depends on it, with the trials of a stack side by side."""
    one_round = {"trials": 8, "first_round": 8, "places": 8}
    trials, curves, _ = searched(tmp_path, config(**one_round, unpruned=[2]))
    assert not any(trial.pruned for trial in trials)
    stacks = [
        {trial.number: [row.val_loss for row in curves[trial.number]] for trial in trials
         if trial.recipe["residual"] is residual}
        for residual in (False, True)
    ]  # fmt: skip
    found = replay(stacks, margins_of(config().search))
    pruned, _, _ = searched(tmp_path, config(**one_round, unpruned=[1, 3]))
    assert {trial.number: trial.epochs_run for trial in pruned if trial.pruned} == found.left
    assert len(found.left) >= 2
    assert found.epochs - found.spared == sum(trial.epochs_run for trial in pruned)


class Killed(BaseException):
    """As SIGKILL, which lets nothing be written any more."""


@pytest.mark.parametrize("looks", [4, 18])
def test_a_killed_search_goes_on_and_comes_to_the_same(
    looks: int, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"now": 0}
    original = tuning.leaving

    def counting(*arguments: Any) -> list[int]:
        counts["now"] += 1
        if counts["now"] == counts.get("last"):
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(tuning, "leaving", counting)
    monkeypatch.setattr(resume, "LARGEST_SHARE", math.inf)  # a state after every epoch
    whole = sum(min(trial.epochs_run, 3) for trial in expected[0])  # none after the last epoch
    counts["last"] = looks
    with pytest.raises(Killed):
        searched(tmp_path, config())
    counts["now"], counts["last"] = 0, 0
    assert searched(tmp_path, config()) == expected
    assert counts["now"] == whole - looks + 1, "the epoch in which it was killed is trained again, and no other"


def test_a_killed_choice_among_finalists_goes_on(
    expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainings.train

    def killed(self: Trainings, name: str, *arguments: Any) -> list[Outcome]:
        if name == "finalists-0":
            raise KeyboardInterrupt
        return original(self, name, *arguments)

    monkeypatch.setattr(Trainings, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, config())
    monkeypatch.undo()
    trained: list[str] = []

    def fewer(shape: ModelShape, *arguments: Any, **options: Any) -> Any:
        trained.append(options["store"].stage)
        return train(shape, *arguments, **options)

    monkeypatch.setattr(tuning, "train", fewer)
    assert searched(tmp_path, config()) == expected
    assert {name.rsplit("-", 1)[0] for name in trained} == {"tune@2-finalists-0"}


NARROW = {**COMMITTED["search"]["space"], "learning_rate_factor": [0.5, 1.0], "dropout": [0.0, 0.1, 0.2]}


@pytest.mark.parametrize("part", ["round-3", "finalists-1"])
def test_a_search_that_is_killed_while_it_widens_goes_on(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate that is best is the highest, and with one more the highest again."""
    settings = config(widenings=2, trials=6, first_round=4, space=NARROW, start=recipe(dropout=0.0))
    whole = searched(tmp_path, settings)
    assert [trial.round for trial in whole[0]] == [0] * 4 + [1] * 2 + [2] * 2 + [3] * 2
    assert {2.0, 4.0} <= {trial.recipe["learning_rate_factor"] for trial in whole[0][6:]}
    trained: list[str] = []
    kill = True

    def counting(shape: ModelShape, *arguments: Any, **options: Any) -> Any:
        trained.append(options["store"].stage.removeprefix("tune@2-").rsplit("-", 1)[0])
        if kill and trained[-1] == part:
            raise Killed
        return train(shape, *arguments, **options)

    monkeypatch.setattr(tuning, "train", counting)
    monkeypatch.setattr(resume, "LARGEST_SHARE", math.inf)  # a state after every training
    with pytest.raises(Killed):
        searched(tmp_path, settings)
    assert trained[-1] == part
    before = {*trained} - {part}
    kill = False
    trained.clear()
    assert searched(tmp_path, settings) == whole
    assert part in trained
    assert not before & {*trained}


def test_hopeless_recipes_do_not_end_the_search_unless_all_are(tmp_path: Path) -> None:
    wild = config(space={**COMMITTED["search"]["space"], "learning_rate_factor": [1.0, 1e9]}, trials=4, finalists=4)
    trials, _, finalists = searched(tmp_path, wild)
    problems = [trial.problem for trial in trials if trial.recipe["learning_rate_factor"] == 1e9]
    assert problems
    assert all(problem and "seed 0" in problem for problem in problems)
    assert {one.recipe["learning_rate_factor"] for one in finalists} == {1.0}
    hopeless: Recipe = recipe(learning_rate_factor=1e9)
    space = {**COMMITTED["search"]["space"], "learning_rate_factor": [1e9]}
    with pytest.raises(UserError, match=r"no trial .* loss or its gradients are not finite"):
        searched(tmp_path, config(space=space, start=hopeless, trials=4))


SEARCH_SPACE = COMMITTED["search"]["space"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": [2, 2]}, "search.depths: depth 2 is given twice"),
        ({"depths": [0]}, "search.depths.0: found 0"),
        ({"depths": [2], "equal_parameters": {"4": 64}}, "names depth '4', but depths are [2]"),
        ({"depths": [4], "equal_parameters": {4: 64}}, "found the depth 4; write it in quotes"),
        ({"space": {**SEARCH_SPACE, "dropout": [0.1, 0.3, 0.2]}}, "search.space.dropout: found [0.1, 0.3, 0.2]"),
        ({"space": {**SEARCH_SPACE, "residual": [True, True]}}, "search.space.residual: found [True, True]"),
        ({"space": {**SEARCH_SPACE, "width": [1]}}, "unknown parameter search.space.width"),
        ({"space": {**SEARCH_SPACE, "schedule": []}}, "search.space.schedule: found []"),
        ({"start": recipe(dropout=0.15)}, "start.dropout is 0.15, but space.dropout is [0.0, 0.1"),
        ({"trials": 281}, "trials 281 exceed the 280 recipes of space"),
        ({"trials": 141, "depths": [1, 2]}, "trials 141 exceed the 140 recipes of space at depth 1"),
        ({"margins": [[5, 0.1], [5, 0.1]]}, "epochs must increase"),
        ({"margins": [[5, 0.1], [9, 0.2]]}, "no margin may exceed the one before"),
        ({"margins": [[5.5, 0.1]]}, "expected entries [epoch, nats]"),
        ({"finalist_seeds": [1, 0]}, "finalist_seeds hold the search's own seed 0"),
        ({"confirm_seeds": [5, 2]}, "confirm_seeds hold seed 2, with which the recipe was chosen"),
        ({"equal_seeds": [0]}, "equal_seeds hold seed 0"),
        ({"confirm_seeds": [5, 5]}, "search.confirm_seeds: seed 5 is given twice"),
        ({"places": 0}, "search.places: found 0"),
        ({"unpruned": [4, 4]}, "search.unpruned: depth 4 is given twice"),
        ({"unpruned": [0]}, "search.unpruned.0: found 0"),
        ({"finalists": 0}, "search.finalists: found 0"),
        ({"widenings": -1}, "search.widenings: found -1"),
    ],
)
def test_parameters_that_no_search_can_have_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        config(**changes)
    assert words in str(error.value)
    assert str(error.value).startswith("params.yaml: ")


def test_the_study_as_specified() -> None:
    search = parse_config(COMMITTED, Path("params.yaml")).search
    assert search.space.learning_rate_factor == [0.25, 0.5, 1, 2, 4]
    assert search.space.dropout == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert (search.trials, search.finalists, len(search.finalist_seeds)) == (40, 4, 3)
    assert (search.unpruned, search.widenings) == ([4], 3)
    assert search.confirm_seeds == list(range(10, 20))
    assert search.start.model_dump() == {
        "learning_rate_factor": 1,
        **{name: COMMITTED["model"][name] for name in ("dropout", "residual", "initialisation")},
        "schedule": COMMITTED["train"]["schedule"],
    }
