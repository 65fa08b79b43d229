"""What an entry of `recipes` trains with, and what is measured on it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from newllm.config import Config, parse_config
from newllm.errors import UserError
from newllm.model.definition import ModelShape, initial_parameters, logits
from newllm.runtime.resume import StateStore
from newllm.studies.continuation import ContinuedStore
from newllm.studies.recipes import changed, seed_figures, shape_of, store_for, train_recipe
from newllm.training.rows import Recipe, study_rows
from tests.checkout import ROOT
from tests.training.test_trainer import DATA, windows

SPLITS = (DATA[0][:80], DATA[1], windows(50, 3))
TINY = {
    "data": {"vocabulary_size": 20},
    "model": {"embedding_dim": 8, "context_dim": 6, "hidden_size": 12},
    "train": {"seeds": [0, 3], "epochs": 2, "batch_size": 32, "base_learning_rate": 0.01, "precision": "fp32"},
}
PART_1 = Recipe(0.0008, 0.1, ((1, 0.5), (11, 1.0), (31, 2.0)))


def config(entry: dict[str, Any], changes: dict[str, dict[str, Any]] | None = None) -> Config:
    """The committed parameters, changed, and one recipe."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, entries in (changes or {}).items():
        values[section] |= entries
    return parse_config(values | {"recipes": {"mine": entry}}, Path("params.yaml"))


@pytest.mark.parametrize(
    ("entry", "recipe", "sizes", "epochs"),
    [
        ({"num_layers": 8}, PART_1, (8, 512, False), 150),
        ({"num_layers": 4, "residual": True}, PART_1, (4, 512, True), 150),
        (
            {"num_layers": 1, "hidden_size": 736, "dropout": 0.0, "initialisation": "he"},
            Recipe(0.0008, 0.0, PART_1.gradient_clipping, "he"),
            (1, 736, False),
            150,
        ),
        (
            {"num_layers": 2, "learning_rate_factor": 0.25, "schedule": "linear", "warmup_epochs": 10, "epochs": 200},
            Recipe(0.0002, 0.1, PART_1.gradient_clipping, "normal", "linear", 10),
            (2, 512, False),
            200,
        ),
        ({"num_layers": 6, "continued": [50, 150]}, PART_1, (6, 512, False), 200),
    ],
)
def test_an_entry_changes_what_it_names_and_nothing_else(
    entry: dict[str, Any], recipe: Recipe, sizes: tuple[int, int, bool], epochs: int
) -> None:
    given = config(entry)
    found = changed(given, "mine")
    rows = study_rows(found.model, found.train)
    assert [row.seed for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert row.recipe == Recipe(**vars(recipe) | {"learning_rate": pytest.approx(recipe.learning_rate)})
    layers, hidden, residual = sizes
    assert shape_of(found) == ModelShape(1000, 256, 256, hidden, layers, residual=residual)
    assert found.train.epochs == epochs
    same = {"epochs": 150, "base_learning_rate": 0.0001, "schedule": "constant", "warmup_epochs": 0}
    assert found.train.model_copy(update=same) == given.train


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match=r"recipes\.other.*mine"):
        changed(config({"num_layers": 2}), "other")


def loss_of(parameters: dict[str, torch.Tensor], ids: torch.Tensor, residual: bool = False) -> torch.Tensor:
    """Mean cross-entropy over all targets that are not padding, by the definition, of one row."""
    outputs = logits(parameters, ids.long()[None, :, :-1], residual=residual)[0]
    return cross_entropy(outputs.flatten(0, 1), ids.long()[:, 1:].flatten(), ignore_index=0)


def test_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    found = changed(config({"num_layers": 2, "initialisation": "he", "residual": True}, TINY), "mine")
    with StateStore(tmp_path, "recipes@mine", {}, 1) as store:
        training = train_recipe(found, None, SPLITS[:2], store)
    shape, rows = shape_of(found), study_rows(found.model, found.train)
    few = SPLITS[0][:30]  # fewer than the validation windows: all of them are the sample
    seeds = seed_figures(training, shape, rows, (few, *SPLITS[1:]), 32, torch.float32)
    assert [seed["seed"] for seed in seeds] == [0, 3]
    for index, seed in enumerate(seeds):
        best = {name: value[index : index + 1] for name, value in training.parameters.items()}
        train_loss, val_loss, test_loss = (loss_of(best, ids, residual=True).item() for ids in (few, *SPLITS[1:]))
        assert seed["val_loss"] == pytest.approx(val_loss, rel=1e-5)
        assert seed["val_loss"] == pytest.approx(training.results[index].val_loss, rel=1e-5)
        assert seed["test_loss"] == pytest.approx(test_loss, rel=1e-5)
        assert seed["val_ppl"] == pytest.approx(math.exp(val_loss), rel=1e-5)
        assert seed["test_ppl"] == pytest.approx(math.exp(test_loss), rel=1e-5)
        assert seed["train_loss_without_dropout"] == pytest.approx(train_loss, rel=1e-5)
        assert seed["gap"] == pytest.approx(val_loss - train_loss, abs=1e-5)
        outputs = logits(best, SPLITS[2].long()[None, :, :-1], residual=True)[0]
        known = SPLITS[2][:, 1:] != 0
        hits = (outputs.argmax(-1) == SPLITS[2][:, 1:])[known].double().mean().item()
        assert seed["test_accuracy"] == pytest.approx(hits)
        fresh = initial_parameters(shape, [seed["seed"]], ["he"])
        weights = [fresh[f"hidden.{layer}.weight"].requires_grad_() for layer in (1, 2)]
        gradients = torch.autograd.grad(loss_of(fresh, few, residual=True), weights)
        assert seed["initial_norms"] == pytest.approx([gradient.norm().item() for gradient in gradients], rel=1e-4)


def test_a_training_in_two_parts_has_the_epochs_of_both(tmp_path: Path) -> None:
    entry = {"num_layers": 1, "continued": [2, 1], "learning_rate_factor": 2.0}
    found = changed(config(entry, TINY), "mine")
    with store_for([2, 1])(tmp_path, "recipes@mine", {}, 1) as store:
        training = train_recipe(found, [2, 1], SPLITS[:2], store)
    assert [(row.seed, row.epoch) for row in training.curves] == [
        (seed, epoch) for seed in (0, 3) for epoch in (1, 2, 3)
    ]


def test_a_recipe_that_diverges_is_named(tmp_path: Path) -> None:
    found = changed(
        config(
            {"num_layers": 2, "learning_rate_factor": 1e3},
            TINY | {"train": TINY["train"] | {"base_learning_rate": 1e6}},
        ),
        "mine",
    )
    with pytest.raises(UserError, match="2 layers, seed 0"), StateStore(tmp_path, "x", {}, 1) as store:
        train_recipe(found, None, SPLITS[:2], store)


def test_who_keeps_the_states() -> None:
    assert store_for([1, 1]) is ContinuedStore
    assert store_for(None) is StateStore
