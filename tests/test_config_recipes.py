"""Entries of `recipes`: what params.yaml may hold, and what an error says."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.config import Config, load_config, parse_config
from newllm.errors import UserError
from tests.checkout import ROOT

PARAMS = ROOT / "params.yaml"


def config(recipes: Any, **train: Any) -> Config:
    """The committed parameters with these recipes and changes of `train`."""
    values = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    values["train"] |= train
    return parse_config(values | {"recipes": recipes}, Path("params.yaml"))


def test_the_study_has_its_set() -> None:
    recipes = load_config(PARAMS).recipes
    expected: dict[str, dict[str, Any]] = {f"residual-{depth}": {"residual": True} for depth in range(2, 9)}
    expected |= {f"he-{depth}": {"initialisation": "he"} for depth in range(1, 9)}
    expected |= {f"warmup-{depth}": {"warmup_epochs": 10} for depth in (4, 6, 8)}
    expected |= {"notebook-6": {"continued": [50, 150]}, "longer-6": {"epochs": 200}}
    shallow = {"initialisation": "he", "dropout": 0.3, "learning_rate_factor": 2.0}
    expected |= {f"shallow-{depth}": shallow for depth in (1, *range(3, 9))}
    expected |= {"deep-2": {"residual": True, "dropout": 0.3}}
    assert {name: recipe.changes() for name, recipe in recipes.items()} == expected
    assert all(recipe.num_layers == int(name.split("-")[1]) for name, recipe in recipes.items())


def test_every_key_is_documented() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/recipes.md").read_text(), re.M)
    fields = Config.model_fields["recipes"].annotation.__args__[1].model_fields
    assert keys == list(fields)


def test_what_is_not_given_is_no_change_and_zero_is_one() -> None:
    recipe = config({"a": {"num_layers": 2, "dropout": 0.0, "residual": False}}).recipes["a"]
    assert recipe.changes() == {"residual": False, "dropout": 0.0}


@pytest.mark.parametrize(
    ("recipes", "named"),
    [
        ({"a": {"num_layers": 2, "resid": True}}, ["recipes.a.resid", "residual"]),
        ({"my name": {"num_layers": 2}}, ["recipes.my name", "letters"]),
        ({"../a": {"num_layers": 2}}, ["recipes.../a", "letters"]),
        ({"-a": {"num_layers": 2}}, ["recipes.-a", "letters"]),
        ({8: {"num_layers": 2}}, ["recipes.8", "letters"]),
        ({"a": {}}, ["recipes.a.num_layers"]),
        ({"a": None}, ["recipes.a"]),
        ({"a": {"num_layers": 0}}, ["recipes.a.num_layers", "0"]),
        ({"a": {"num_layers": 2, "dropout": 1.0}}, ["recipes.a.dropout", "1.0", "0.999"]),
        ({"a": {"num_layers": 2, "dropout": None}}, ["recipes.a.dropout", "null"]),
        ({"a": {"num_layers": 2, "initialisation": "xavier"}}, ["recipes.a.initialisation", "xavier", "he"]),
        ({"a": {"num_layers": 2, "learning_rate_factor": 0.0}}, ["recipes.a.learning_rate_factor"]),
        ({"a": {"num_layers": 1, "residual": True}}, ["recipes.a", "residual"]),
        ({"a": {"num_layers": 2, "continued": [50]}}, ["recipes.a.continued", "[50]"]),
        ({"a": {"num_layers": 2, "continued": [50, 0]}}, ["recipes.a.continued.1", "0"]),
        ({"a": {"num_layers": 2, "continued": [1, 2], "epochs": 3}}, ["recipes.a", "epochs", "continued"]),
        ({"a": {"num_layers": 2, "continued": [1, 2], "warmup_epochs": 1}}, ["recipes.a", "warmup_epochs"]),
        ({"a": {"num_layers": 2, "continued": [1, 2], "schedule": "linear"}}, ["recipes.a", "schedule"]),
        ({"a": {"num_layers": 2, "schedule": "linear", "warmup_epochs": 150}}, ["recipes.a", "warmup_epochs 150"]),
        ({"a": {"num_layers": 2, "schedule": "linear", "epochs": 4, "warmup_epochs": 4}}, ["recipes.a", "of 4 epochs"]),
        ([], ["recipes"]),
        (None, ["recipes"]),
    ],
)
def test_an_error_names_the_entry(recipes: Any, named: list[str]) -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: ") as raised:
        config(recipes)
    assert all(part in str(raised.value) for part in named), raised.value
    assert "[key]" not in str(raised.value)


def test_what_part_1_trains_with_counts_where_an_entry_leaves_it_out() -> None:
    recipes = {"a": {"num_layers": 2, "continued": [1, 2]}}
    assert config(recipes).recipes
    for part_1 in ({"schedule": "linear"}, {"warmup_epochs": 3}):
        with pytest.raises(UserError, match=r"recipes\.a"):
            config(recipes, **part_1)
    with pytest.raises(UserError, match=r"recipes\.a"):
        config({"a": {"num_layers": 2, "epochs": 3}}, schedule="linear", warmup_epochs=3)
