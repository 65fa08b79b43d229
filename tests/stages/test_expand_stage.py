"""The expand stage as a user runs it, in a copy of the project."""

import json
import math

import pytest

from demo.run import copy_project
from tests.test_pipeline import SMALL, Project

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("training stages")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("expand")
    copy_project(folder, SMALL)
    project = Project(folder)
    for name in ("download", "build_vocabulary", "tokenize"):
        project.run("python", "-m", f"stages.{name}")
    project.run("python", "-m", "stages.train", "--num-layers", "2")
    return project


def expand(project: Project, pattern: str, status: int = 0) -> str:
    return project.run("python", "-m", "stages.expand", "--num-layers", "2", "--pattern", pattern, status=status)


@pytest.mark.parametrize("pattern", ["freeze", "finetune", "longer", "scratch"])
def test_every_pattern_trains_and_records_where_it_began(project: Project, pattern: str) -> None:
    expand(project, pattern)
    few = json.loads((project.folder / "metrics" / "expand" / f"2-{pattern}.json").read_text())
    (metrics,) = few.pop("details")
    assert few == {name: metrics[name] for name in ("val_ppl", "test_ppl")}
    record = json.loads((project.folder / "models" / "2" / "training.json").read_text())
    base = sum(seed["val_loss"] for seed in record["seeds"]) / len(record["seeds"])
    assert metrics["base_val_loss"] == pytest.approx(base)
    if pattern == "scratch":
        assert metrics["start_val_loss"] == pytest.approx(math.log(60), abs=0.01), "knows nothing yet"
    else:
        assert metrics["start_val_loss"] == pytest.approx(base, abs=1e-5)
    context_dim = record["shape"]["context_dim"]
    (run,) = metrics["runs"]
    assert run["pattern"] == pattern
    assert run["context_dim"] == context_dim * (1 if pattern == "longer" else 2)
    assert run["norm_blocks"] == (1 if pattern == "longer" else 2)
    for name in ("device", "torch_version", "git_commit", "git_dirty"):
        assert run[name] == record[name], "the base was trained by the same code"
    for seed in run["seeds"]:
        assert seed["val_ppl"] == pytest.approx(math.exp(seed["val_loss"]))
        assert seed["test_ppl"] == pytest.approx(math.exp(seed["test_loss"]))
    assert metrics["val_ppl"] == pytest.approx(sum(seed["val_ppl"] for seed in run["seeds"]) / len(run["seeds"]))
    rows = (project.folder / "plots" / "expand" / f"2-{pattern}.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(seed["epochs_run"] for seed in run["seeds"])
    grown = json.loads((project.folder / "models" / "expand" / f"2-{pattern}" / "training.json").read_text())
    assert grown["shape"]["context_dim"] == run["context_dim"]


def test_other_seeds_than_the_trained_ones_are_refused(project: Project) -> None:
    parameters = (project.folder / "params.yaml").read_bytes()
    project.set("train.seeds", [7])
    try:
        output = expand(project, "longer", status=1)
    finally:
        (project.folder / "params.yaml").write_bytes(parameters)
    assert "dvc repro train@2" in output
    assert "Traceback" not in output
