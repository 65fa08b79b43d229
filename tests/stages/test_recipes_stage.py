"""The stage of changed recipes as a user runs it, in a copy of the project."""

import csv
import os
import signal
import subprocess
import time
from typing import Any

import pytest
from safetensors.torch import load_file

from demo.run import copy_project, environment
from newllm.errors import UserError
from stages import recipes
from tests.test_pipeline import SMALL, Project, ran

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("recipes stage")]

RECIPES: dict[str, dict[str, Any]] = {
    "notebook-2": {"num_layers": 2, "continued": [6, 8]},
    "mine": {"num_layers": 3, "residual": True, "learning_rate_factor": 2.0},
}
CONTINUED = ("python", "-m", "stages.recipes", "--name", "notebook-2")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("recipes")
    data = SMALL["data"] | {"synthetic": {"train_words": 1000}}
    copy_project(folder, SMALL | {"data": data, "checkpoint": {"every": 1}, "recipes": RECIPES})
    project = Project(folder)
    project.run("dvc", "repro", "tokenize")
    return project


def results(project: Project, name: str) -> dict[str, Any]:
    """Every metric, and that those that people compare are of them."""
    few = project.json(f"metrics/recipes/{name}.json")
    (metrics,) = few.pop("details")
    assert few == {"val_ppl": metrics["val_ppl"]}
    return dict(metrics)


def test_dvc_runs_a_recipe_alone_and_it_alone_again_when_it_changes(project: Project) -> None:
    assert ran(project.run("dvc", "repro", "recipes@mine")) == ["recipes@mine"]
    metrics = results(project, "mine")
    assert metrics["name"] == "mine"
    assert metrics["num_layers"] == 3
    assert metrics["num_seeds"] == 2
    assert metrics["changes"] == {"residual": True, "learning_rate_factor": 2.0}
    (run,) = metrics["runs"]
    record = project.json("models/recipes/mine/training.json")
    for key in ("device", "torch_version", "git_commit", "git_dirty", "data_sha256", "precision", "parameters"):
        assert run[key] == record[key]
    assert run["parameters"]["model"]["residual"] is True
    assert run["parameters"]["train"]["base_learning_rate"] == 0.0002
    for seed, trained in zip(run["seeds"], record["seeds"], strict=True):
        assert seed.keys() >= trained.keys()
        assert seed["val_loss"] == pytest.approx(trained["val_loss"], abs=1e-5)
        assert len(seed["initial_norms"]) == 3
    assert metrics["test_ppl"] == pytest.approx(sum(seed["test_ppl"] for seed in run["seeds"]) / 2)
    assert load_file(project.folder / "models/recipes/mine/weights.safetensors")["hidden.3.weight"].shape == (2, 8, 8)

    before = (project.folder / "params.yaml").read_text()
    changed = ("dvc", "exp", "run", "--set-param", "recipes.mine.learning_rate_factor=4.0", "recipes@mine")
    assert ran(project.run(*changed)) == ["recipes@mine"]
    assert ran(project.run("dvc", "exp", "run", "--set-param", "recipes.notebook-2.num_layers=1", "recipes@mine")) == []
    assert "learning_rate_factor: 4.0" in (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(before)


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [("other", "0.0001", r"recipes\.other: .*notebook-2, mine"), ("mine", "1e8", r"recipes\.mine: .*seed 0, epoch 1")],
)
def test_an_error_names_the_recipe_and_leaves_nothing_behind(
    name: str, rate: str, message: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, before = project.folder / "params.yaml", (project.folder / "params.yaml").read_text()
    results_before = project.results()
    params.write_text(before.replace("base_learning_rate: 0.0001", f"base_learning_rate: {rate}"))
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("sys.argv", ["recipes", "--name", name])
    with pytest.raises(UserError, match=message):
        recipes.main()
    params.write_text(before)
    assert project.results() == results_before
    assert not [*(project.folder / "models/recipes").glob(".*")]


def test_weights_of_a_killed_training_in_two_parts_are_the_same(project: Project) -> None:
    """Killed in each part."""
    project.run(*CONTINUED)
    metrics = results(project, "notebook-2")
    assert metrics["changes"] == {"continued": [6, 8]}
    assert metrics["runs"][0]["parameters"]["train"]["epochs"] == 14
    with (project.folder / "plots/recipes/notebook-2.csv").open() as file:
        epochs = [(row["seed"], int(row["epoch"])) for row in csv.DictReader(file)]
    assert epochs == [(seed, epoch) for seed in "01" for epoch in range(1, 15)]
    weights = project.folder / "models/recipes/notebook-2/weights.safetensors"
    expected = weights.read_bytes()
    weights.unlink()
    killed_at(project, "seed 1: epoch 1/7", signal.SIGKILL)
    assert "going on after" in killed_at(project, "seed 0: epoch 1/8", signal.SIGTERM)
    assert "going on after" in project.run(*CONTINUED)
    assert weights.read_bytes() == expected
    assert not [*(project.folder / "checkpoints").glob("recipes@notebook-2*")]


def killed_at(project: Project, line: str, number: signal.Signals) -> str:
    """Ends the training in two parts once it says that it is there; returns all that it said."""
    process = subprocess.Popen(
        CONTINUED, cwd=project.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    output = ""
    while line not in output:
        said = process.stdout.readline()
        assert said, "training ended"
        output += said
    time.sleep(0.1)  # for a state
    os.kill(process.pid, number)
    rest, _ = process.communicate()
    assert process.returncode != 0
    return output + rest
