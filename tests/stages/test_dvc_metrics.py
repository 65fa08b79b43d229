"""`dvc metrics show` fits a terminal, and `dvc exp show` has few columns, for a whole study."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from newllm.analysis.records import GROWN_DEPTHS, PATTERNS
from newllm.analysis.summary import summary
from newllm.files import write_json
from tests.analysis.metrics_files import write_supplements
from tests.analysis.studies import reload, study
from tests.checkout import ROOT, write_parameters


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study's metrics, made up, under the pipeline as it is."""
    folder = tmp_path_factory.mktemp("metrics")
    shutil.copy(ROOT / "dvc.yaml", folder)
    write_parameters(folder)
    write_supplements(folder, study(folder).depths)
    write_json(folder / "metrics/summary.json", summary(reload(folder)))
    dvc(folder, "init", "--quiet", "--no-scm")
    return folder


def columns(metrics: dict[str, Any]) -> int:
    """Figures outside of lists, each of which is a column of `dvc exp show`."""
    return sum(columns(value) if isinstance(value, dict) else 1 for value in metrics.values())


def test_columns_are_few(project: Path) -> None:
    files = json.loads(dvc(project, "metrics", "show", "--json"))[""]["data"]
    found = {name: columns(file.get("data", {})) for name, file in files.items()}
    expected = {f"metrics/layers/{depth}.json": 3 for depth in range(1, 9)}
    expected |= {f"metrics/expand/{depth}-{pattern}.json": 2 for depth in GROWN_DEPTHS for pattern in PATTERNS}
    assert {name: count for name, count in found.items() if count} == {**expected, "metrics/summary.json": 7}
    assert sum(found.values()) <= 50


def test_the_table_of_experiments_has_few_columns(project: Path) -> None:
    """`dvc exp show --csv` has five of its own, and one of each figure, parameter and dependency."""
    repo = Repo(str(project))
    files = json.loads(dvc(project, "metrics", "show", "--json"))[""]["data"].values()
    parameters = columns(yaml.safe_load((project / "params.yaml").read_text()))
    dependencies = {dep.fs_path for dep in repo.index.deps if not isinstance(dep, ParamsDependency)}
    assert 5 + sum(columns(file.get("data", {})) for file in files) + parameters + len(dependencies) <= 167


def test_the_table_fits_a_terminal(project: Path) -> None:
    lines = dvc(project, "metrics", "show").splitlines()
    assert sum(any(character.isdigit() for character in line.split(maxsplit=1)[1]) for line in lines[1:]) == 8 + 8 + 1
    assert max(map(len, lines)) <= 200
