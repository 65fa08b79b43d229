"""The files of part 2: which are read is said by params.yaml, and how they are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.study import Study
from newllm.config import Config
from newllm.errors import UserError
from tests.analysis.metrics_files import write_all
from tests.analysis.part2_files import RECIPE, change_details, write_part_two, write_recipe
from tests.analysis.studies import NOTHING, plan, reload

ALL = plan((1, 4, 6), {4: 464, 6: 400}, ("he-6", "notebook-6"), (396,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path)
    write_part_two(tmp_path)
    return tmp_path


def load(root: Path, planned: Config = ALL) -> Study:
    return reload(root, (1, 4, 6), planned)


def test_what_is_planned_is_read_and_nothing_else(root: Path) -> None:
    found = load(root)
    assert (list(found.tuning), list(found.tuned), list(found.equal), list(found.lstm)) == (
        [1, 4, 6], [1, 4, 6], [4, 6], [396]
    )  # fmt: skip
    assert [group.name for group in found.changed] == ["he-6", "notebook-6"]
    assert found.tuned[4].changes == RECIPE
    assert found.tuned[4].has("train_loss_without_dropout")
    assert found.changed[0].changes == {"initialisation": "he"}
    assert found.changed[0].norms["initial"] == pytest.approx([1.5] * 6)
    assert (found.equal[4].parameters["model.hidden_size"], found.equal[4].num_layers) == (464, 4)
    assert len(found.tuned[4].curve) == 40
    assert found.lstm_searches[396].chosen.recipe.residual is False
    assert [one.val_ppl for one in found.tuning[4].finalists] == [19.2, None], "a seed of the second diverged"
    bare = load(root, NOTHING)
    assert not any((bare.tuning, bare.tuned, bare.equal, bare.changed, bare.lstm, bare.lstm_searches))
    assert list(load(root, plan(tuned=(4,))).tuned) == [4]


def test_recipes_stand_by_change_and_depth(root: Path) -> None:
    for name, depth in (("a", 6), ("b", 4), ("c", 1)):
        write_recipe(root, name, depth, 20.0, **({"dropout": 0.2} if name == "b" else {"residual": True}))
    assert [group.name for group in load(root, plan(recipes=("a", "b", "c"))).changed] == ["c", "a", "b"]


@pytest.mark.parametrize("value", ["\ud800", float("inf")])
def test_changes_that_cannot_be_written(root: Path, value: Any) -> None:
    change_details(root / "metrics/recipes/he-6.json", lambda details: details["changes"].update(initialisation=value))
    with pytest.raises(UserError, match=r"recipes/he-6\.json: changes: expected finite numbers"):
        load(root)


def test_a_recipe_that_does_not_say_what_it_changes(root: Path) -> None:
    change_details(root / "metrics/recipes/he-6.json", lambda details: details.pop("changes"))
    with pytest.raises(UserError, match=r"recipes/he-6\.json: key changes is missing; run `dvc repro recipes@he-6`"):
        load(root)


def seed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda details: details["runs"][0]["seeds"][1].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda details: details.update(num_layers=5), "found num_layers 5, expected 4"),
    (lambda details: details.pop("num_params"), "key num_params is missing"),
    (lambda details: details["runs"][0].update(data_sha256="cd"), "found data_sha256 cd, expected abab"),
    (lambda details: details.update(runs=[]), "runs"),
    (lambda details: details["runs"][0]["seeds"].pop(), "num_seeds 10, expected 9"),
    (lambda details: details.update(test_ppl=30.0), "the mean of the seeds"),
    (seed(val_ppl=float("nan")), "val_ppl"),
    (seed(train_loss_without_dropout="low"), "train_loss_without_dropout"),
    (seed(epochs_run=5), "seed 11 has 4 rows up to epoch 4"),
]


@pytest.mark.parametrize(("alter", "expected"), BAD)
def test_wrong_value(root: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    path = root / "metrics/tuned/4.json"
    change_details(path, alter)
    with pytest.raises(UserError) as caught:
        load(root)
    assert "tuned/4." in str(caught.value)
    assert expected in str(caught.value)
    assert "run `dvc repro confirm@4`" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("metrics/tuning/4.json", "tune@4"),
        ("metrics/tuned/4.json", "confirm@4"),
        ("plots/tuned/4.csv", "confirm@4"),
        ("metrics/equal/6.json", "equal@6"),
        ("metrics/recipes/he-6.json", "recipes@he-6"),
        ("plots/recipes/he-6.csv", "recipes@he-6"),
        ("metrics/lstm/396.json", "lstm@396"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"{}"], ids=repr)
def test_missing_or_damaged(root: Path, name: str, stage: str, content: bytes | None) -> None:
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(root)
    assert name in str(caught.value)
    assert f"run `dvc repro {stage}`" in str(caught.value)


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda record: record.update(num_layers=5), "found num_layers 5, expected 4"),
        (lambda record: record["trials"][0].update(val_ppl=0.5), "trials.0.val_ppl"),
        (lambda record: record["trials"][0]["recipe"].pop("dropout"), "trials.0.recipe.dropout is missing"),
        (lambda record: record.update(trials=[]), "trials"),
        (lambda record: record.pop("chosen"), "chosen is missing"),
        (lambda record: record["chosen"].update(val_ppl=None), "chosen.val_ppl"),
    ],
)
def test_wrong_search(root: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    path = root / "metrics/tuning/4.json"
    document = json.loads(path.read_text())
    alter(document["tuning"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"tuning/4\.json: .*`dvc repro tune@4`") as caught:
        load(root)
    assert expected in str(caught.value)


def test_another_size_of_the_lstm(root: Path) -> None:
    change_details(root / "metrics/lstm/396.json", lambda details: details.update(hidden_size=512))
    with pytest.raises(UserError, match="found hidden_size 512, expected 396"):
        load(root)


def test_equal_parameters_of_another_hidden_size(root: Path) -> None:
    """Such as from before the size in params.yaml was changed."""
    change_details(root / "metrics/equal/6.json", lambda details: details.update(hidden_size=352))
    with pytest.raises(UserError, match=r"equal/6\.json: found hidden_size 352, expected 400; run `dvc repro equal@6`"):
        load(root)
