"""Rows of one stack with recipes of their own: against a plain loop, beside other rows, leaving and taking places."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from newllm.model.definition import ModelShape, initial_parameters
from newllm.runtime.resume import StateStore
from newllm.training import trainer
from newllm.training.records import EpochRow, Training
from newllm.training.rows import Recipe, Row, study_rows
from newllm.training.trainer import StackTrainer, train
from tests.training.fitting import recipe_of
from tests.training.test_trainer import DATA, SHAPE, plain_loop, settings

CONFIG = settings(epochs=4, base_learning_rate=0.01)
STUDY = recipe_of(CONFIG, 0.1)
RATE = STUDY.learning_rate
RECIPES = {
    "rate": recipe_of(CONFIG, 0.1, learning_rate=RATE / 4),
    "dropout": recipe_of(CONFIG, 0.5),
    "no dropout": recipe_of(CONFIG, 0.0),
    "he": recipe_of(CONFIG, 0.1, initialisation="he"),
    "decay": recipe_of(CONFIG, 0.1, schedule="linear", warmup_epochs=1),
    "clipping": recipe_of(CONFIG, 0.1, gradient_clipping=((1, 0.01), (3, 0.02))),
}
HOPELESS = recipe_of(CONFIG, 0.1, learning_rate=1e8)


def figures(training: Training, row: int) -> list[tuple[float, ...]]:
    """A row's epochs without times; rows of one seed follow one another in the curves."""
    ends = [sum(result.epochs_run for result in training.results[:count]) for count in (row, row + 1)]
    return [(r.epoch, r.train_loss, r.val_loss, r.gradient_norm) for r in training.curves[ends[0] : ends[1]]]


def same_bits(found: Training, row: int, expected: Training, other: int) -> bool:
    pairs = [(found.parameters[name][row], expected.parameters[name][other]) for name in found.parameters]
    return figures(found, row) == figures(expected, other) and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_a_plain_loop_makes_of_it(name: str) -> None:
    recipe = RECIPES[name]
    trained = train(SHAPE, [Row(5, recipe)], CONFIG, DATA)
    epochs, parameters = plain_loop(5, CONFIG, recipe)
    train_losses, val_losses, _, norms = zip(*epochs, strict=True)
    assert [row.train_loss for row in trained.curves] == pytest.approx(train_losses, rel=1e-5)
    assert [row.gradient_norm for row in trained.curves] == pytest.approx(norms, rel=1e-3)
    assert [row.val_loss for row in trained.curves] == pytest.approx(val_losses, rel=1e-5)
    best = min(range(4), key=val_losses.__getitem__)
    assert trained.results[0].best_epoch == best + 1
    assert best == 3
    for key, value in trained.parameters.items():
        assert (value - parameters[key]).norm() <= 3e-3 * parameters[key].norm(), key


def test_recipes_differ_in_what_they_train() -> None:
    rows = [Row(5, recipe) for recipe in (STUDY, *RECIPES.values())]
    trained = train(SHAPE, rows, CONFIG, DATA)
    ends = {trained.curves[end - 1].val_loss for end in range(4, 29, 4)}
    assert len(ends) == len(rows)


@pytest.mark.parametrize("places", [1, 3])
def test_a_row_does_not_depend_on_its_neighbours_recipes(places: int) -> None:
    """Bit for bit on a CPU: one by one, and even in a stack, where their seeds are the same."""
    rows = [Row(0, STUDY), Row(1, RECIPES["dropout"]), Row(2, RECIPES["he"])]
    others = [Row(0, STUDY), Row(1, RECIPES["no dropout"]), Row(2, RECIPES["decay"])]
    first, second = (train(SHAPE, some, CONFIG, DATA, places=places) for some in (rows, others))
    assert same_bits(first, 0, second, 0)
    assert not same_bits(first, 1, second, 1)
    alone = train(SHAPE, rows[:1], CONFIG, DATA)
    assert [value for epoch in figures(first, 0) for value in epoch] == pytest.approx(
        [value for epoch in figures(alone, 0) for value in epoch], rel=1e-4
    )


def test_one_seed_with_several_recipes_is_several_rows() -> None:
    rows = [Row(3, STUDY), Row(3, RECIPES["rate"]), Row(3, STUDY)]
    trained = train(SHAPE, rows, CONFIG, DATA)
    assert same_bits(trained, 0, trained, 2)
    assert not same_bits(trained, 0, trained, 1)
    assert [result.seed for result in trained.results] == [3, 3, 3]


@pytest.mark.parametrize("places", [1, 3])
def test_a_row_that_diverges_ends_with_its_reason_and_the_others_go_on(places: int) -> None:
    rows = [Row(0, STUDY), Row(1, HOPELESS), Row(2, STUDY)]
    trained = train(SHAPE, rows, CONFIG, DATA, places=places)
    good = train(SHAPE, [rows[0], rows[2]], CONFIG, DATA)
    diverged = trained.results[1]
    assert diverged.ended == "diverged"
    assert diverged.problem is not None
    assert "seed 1" in diverged.problem
    assert diverged.epochs_run < 4
    assert [result.ended for result in trained.results] == ["epochs", "diverged", "epochs"]
    for row, other in ((0, 0), (2, 1)):
        found, expected = (
            [value for epoch in figures(run, place) for value in epoch]
            for run, place in ((trained, row), (good, other))
        )
        assert found == expected if places == 1 else found == pytest.approx(expected, rel=1e-4)
    assert trained.parameters["output.weight"].isfinite().all()


def test_a_row_that_diverges_at_once_has_no_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.losses_and_gradients

    def failing(*arguments: Any) -> Any:
        losses, gradients = original(*arguments)
        return losses * math.nan, gradients

    monkeypatch.setattr(trainer, "losses_and_gradients", failing)
    result = train(SHAPE, [Row(0, STUDY)], CONFIG, DATA).results[0]
    assert (result.best_epoch, result.epochs_run, result.val_loss, result.ended) == (0, 0, math.inf, "diverged")


def test_a_rule_lets_rows_leave_after_any_epoch() -> None:
    seen: list[dict[int, int]] = []

    def worst_leaves(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> list[int]:
        seen.append({number: len(curve) for number, curve in curves.items() if number in going_on})
        assert len(curves) == 3, "those that have left can still be seen"
        return [max(going_on, key=lambda number: curves[number][-1].val_loss)] if len(going_on) > 1 else []

    rows = [Row(0, STUDY), Row(1, RECIPES["rate"]), Row(2, STUDY)]
    trained = train(SHAPE, rows, CONFIG, DATA, places=3, rule=worst_leaves)
    assert seen[:2] == [{0: 1, 1: 1, 2: 1}, {0: 2, 2: 2}]
    assert [list(lengths.values()) for lengths in seen[2:]] == [[3]], "none is asked of when its last epoch has ended"
    assert trained.results[1].ended == "rule"
    assert trained.results[1].epochs_run == 1
    assert trained.results[1].stopped_early
    assert sorted(result.epochs_run for result in trained.results) == [1, 2, 4]
    whole = train(SHAPE, rows, CONFIG, DATA)
    for number, result in enumerate(trained.results):
        expected = [value for epoch in figures(whole, number)[: result.epochs_run] for value in epoch]
        assert [value for epoch in figures(trained, number) for value in epoch] == pytest.approx(expected, rel=1e-4)


class Watched(StackTrainer):
    """Notes which rows are in training at the beginning of each epoch."""

    stacks: list[list[int]]

    def start_epoch(self) -> None:
        self.stacks.append(list(self.members))
        super().start_epoch()


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    Watched.stacks = []
    monkeypatch.setattr(trainer, "StackTrainer", Watched)
    return Watched.stacks


MANY = [Row(seed, recipe) for seed, recipe in enumerate((STUDY, *RECIPES.values()))]


def leave_after_two(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> list[int]:
    return [number for number in going_on if number % 2 and len(curves[number]) == 2]


def test_the_next_row_takes_a_free_place(stacks: list[list[int]]) -> None:
    trained = train(SHAPE, MANY, CONFIG, DATA, places=3, rule=leave_after_two)
    assert stacks == [[0, 1, 2]] * 2 + [[0, 3, 2]] * 2 + [[4, 5, 6]] * 2 + [[4, 6]] * 2
    single = train(SHAPE, MANY, CONFIG, DATA, rule=leave_after_two)
    assert [result.epochs_run for result in trained.results] == [4, 2, 4, 2, 4, 2, 4]
    assert [result.ended for result in trained.results] == ["epochs", "rule"] * 3 + ["epochs"]
    for row in range(len(MANY)):
        expected = [value for epoch in figures(single, row) for value in epoch]
        assert [value for epoch in figures(trained, row) for value in epoch] == pytest.approx(expected, rel=1e-4)


def test_rows_in_a_rule_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newllm.runtime.resume.LARGEST_SHARE", math.inf)
    expected = train(SHAPE, MANY, CONFIG, DATA, places=3, rule=leave_after_two)
    original, kills = StackTrainer.next_step, 0

    def killed(self: StackTrainer, size: int) -> None:
        nonlocal count
        count += 1
        if count == 13 + 9 * kills:
            raise KeyboardInterrupt
        original(self, size)

    monkeypatch.setattr(StackTrainer, "next_step", killed)
    while True:
        count = 0
        try:
            with StateStore(tmp_path, "tune@2", {"of": "a test"}, 1) as store:
                found = train(SHAPE, MANY, CONFIG, DATA, places=3, rule=leave_after_two, store=store)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 2
    assert all(same_bits(found, row, expected, row) for row in range(len(MANY)))
    assert [result.ended for result in found.results] == [result.ended for result in expected.results]


def test_initial_weights_of_he_are_those_of_the_hidden_layers_alone() -> None:
    shape = ModelShape(200, 64, 64, 256, 3)
    both = initial_parameters(shape, [4, 4], ["he", "normal"])
    for name, value in both.items():
        if name.startswith("hidden.") and name.endswith("weight"):
            inputs = value.shape[2]
            assert value[0].std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.02), name
            torch.testing.assert_close(value[0], value[1] * math.sqrt(2 / inputs) / 0.02)
        else:
            assert torch.equal(value[0], value[1]), name


def test_the_study_has_one_recipe_from_its_parameters() -> None:
    from newllm.config import ModelConfig  # noqa: PLC0415

    model = ModelConfig(
        num_layers=2, embedding_dim=8, context_dim=6, hidden_size=12, dropout=0.3, residual=False, initialisation="he"
    )
    config = settings(seeds=[4, 2], schedule="linear", warmup_epochs=1, base_learning_rate=0.02)
    expected = Recipe(0.02 * math.sqrt(2), 0.3, ((1, 0.5), (2, 1.0)), "he", "linear", 1)
    assert study_rows(model, config) == [Row(4, expected), Row(2, expected)]


def test_a_recipe_that_says_no_more_is_that_of_the_study_as_specified() -> None:
    recipe = Recipe(0.1, 0.0, ((1, 0.5),))
    assert (recipe.initialisation, recipe.schedule, recipe.warmup_epochs) == ("normal", "constant", 0)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_on_a_gpu_rows_of_many_recipes_train_as_they_do_alone(precision: str) -> None:
    """Beyond rounding; by kernels and by plain pieces, with places that are taken over without a new capture."""
    data = DATA[0].cuda(), DATA[1].cuda()
    config = CONFIG.model_copy(update={"precision": precision})
    rows = [Row(row.seed, row.recipe) for row in MANY] + [Row(9, HOPELESS)]
    together = train(SHAPE, rows, config, data, rule=leave_after_two)
    by_turns = train(SHAPE, rows, config, data, places=3, rule=leave_after_two)
    assert together.results[-1].ended == by_turns.results[-1].ended == "diverged"
    for row in range(len(MANY)):
        alone = train(SHAPE, [rows[row]], config, data)
        expected = [epoch[2] for epoch in figures(alone, 0)][: together.results[row].epochs_run]
        for found in (together, by_turns):
            assert [epoch[2] for epoch in figures(found, row)] == pytest.approx(expected, rel=5e-3), rows[row]
