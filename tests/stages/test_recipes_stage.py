"""The stage of changed recipes as a user runs it, in a copy of the project."""

import csv
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from demo.run import copy_project, environment
from newllm.analysis.formats import settings
from newllm.analysis.records import load_confirmed
from newllm.errors import UserError
from stages import recipes
from tests.test_pipeline import SMALL, Project, ran

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("recipes stage")]

RECIPES: dict[str, dict[str, Any]] = {
    "notebook-2": {"num_layers": 2, "continued": [6, 8]},
    "mine": {"num_layers": 3, "residual": True, "learning_rate_factor": 2.0},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("recipes")
    data = SMALL["data"] | {"synthetic": {"train_words": 1000}}
    copy_project(folder, SMALL | {"data": data, "checkpoint": {"every": 1}, "recipes": RECIPES})
    project = Project(folder)
    stages = ran(project.run("dvc", "repro", "recipes@mine"))
    assert stages == ["download", "build_vocabulary", "tokenize", "recipes@mine"]
    return project


@pytest.fixture
def stage(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Runs the stage of a recipe in this process, as a process of its own does with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(project.folder)

    def main(name: str) -> None:
        monkeypatch.setattr("sys.argv", ["recipes", "--name", name])
        recipes.main()

    yield main
    torch.set_num_threads(threads)


def results(project: Project, name: str) -> dict[str, Any]:
    """Every metric, and that those that people compare are of them."""
    few = project.json(f"metrics/recipes/{name}.json")
    (metrics,) = few.pop("details")
    assert few == {"val_ppl": metrics["val_ppl"]}
    return dict(metrics)


def test_what_a_recipe_came_to(project: Project) -> None:
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


def test_the_report_reads_it(project: Project) -> None:
    found = load_confirmed(project.folder, "recipes", "mine", results(project, "mine")["runs"][0]["data_sha256"])
    assert (found.name, found.num_layers, len(found.seeds)) == ("mine", 3, 2)
    assert found.has("train_loss_without_dropout")
    assert len(found.norms["initial"]) == 3
    assert settings(found.changes) == "residual connections, learning rate × 2.0"


def test_a_recipe_that_changes_runs_again_alone(project: Project) -> None:
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]["recipes@mine"]
    named = lock["params"]["params.yaml"]
    assert [name for name in named if name.startswith("recipes")] == ["recipes.mine"]
    params, before = project.folder / "params.yaml", (project.folder / "params.yaml").read_text()
    changed = ("dvc", "exp", "run", "--set-param", "recipes.mine.learning_rate_factor=4.0", "recipes@mine")
    assert ran(project.run(*changed)) == ["recipes@mine"]
    start, _, end = before.rpartition("learning_rate_factor: 2.0")  # beside the study's own recipes
    assert params.read_text() == f"{start}learning_rate_factor: 4.0{end}"
    params.write_text(before)


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [("other", "0.0001", r"recipes\.other: .*notebook-2, mine"), ("mine", "1e8", r"recipes\.mine: .*seed 0, epoch 1")],
)
def test_an_error_names_the_recipe_and_leaves_nothing_behind(
    name: str, rate: str, message: str, project: Project, stage: Callable[[str], None]
) -> None:
    params, before = project.folder / "params.yaml", (project.folder / "params.yaml").read_text()
    results_before = project.results()
    params.write_text(before.replace("base_learning_rate: 0.0001", f"base_learning_rate: {rate}"))
    with pytest.raises(UserError, match=message):
        stage(name)
    params.write_text(before)
    assert project.results() == results_before
    assert not [*(project.folder / "models/recipes").glob(".*")]


def test_weights_of_a_killed_training_in_two_parts_are_the_same(
    project: Project, stage: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage("notebook-2")
    metrics = results(project, "notebook-2")
    assert metrics["changes"] == {"continued": [6, 8]}
    assert metrics["runs"][0]["parameters"]["train"]["epochs"] == 14
    with (project.folder / "plots/recipes/notebook-2.csv").open() as file:
        epochs = [(row["seed"], int(row["epoch"])) for row in csv.DictReader(file)]
    assert epochs == [(seed, epoch) for seed in "01" for epoch in range(1, 15)]
    weights = project.folder / "models/recipes/notebook-2/weights.safetensors"
    expected = weights.read_bytes()
    weights.unlink()
    process = subprocess.Popen(
        ("python", "-m", "stages.recipes", "--name", "notebook-2"),
        cwd=project.folder,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    while "seed 0: epoch 1/8" not in (line := process.stdout.readline()):  # in the second part
        assert line, "training ended"
    process.kill()
    process.communicate()
    capsys.readouterr()
    stage("notebook-2")
    assert "recipes@notebook-2: going on after" in capsys.readouterr().out
    assert weights.read_bytes() == expected
    assert not [*(project.folder / "checkpoints").glob("recipes@notebook-2*")]
