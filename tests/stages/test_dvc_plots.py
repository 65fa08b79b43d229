"""`dvc plots show` and `dvc plots diff` draw every depth, with the templates and the plots section of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.runtime.git import isolated
from tests.analysis.metrics_files import write_all
from tests.checkout import ROOT, write_parameters

pytestmark = pytest.mark.git
ENVIRONMENT = isolated(os.environ) | {"PYTHONPATH": str(ROOT)}


def call(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)


def report(folder: Path, *depths: int) -> None:
    write_all(folder, depths)
    call(folder, sys.executable, "-m", "stages.report", "--num-layers", *map(str, depths))


def specifications(folder: Path, *command: str) -> list[dict[str, Any]]:
    call(folder, sys.executable, "-m", "dvc", "plots", *command, "-o", "drawn")
    page = (folder / "drawn/index.html").read_text()
    assert "<DVC_" not in page
    assert page.count("<img") >= 2
    return [json.loads(found) for found in re.findall(r"var spec = (\{.*\});", page)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_parameters(tmp_path)
    report(tmp_path, 1, 4, 6)
    call(tmp_path, "git", "init", "-q")
    call(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    call(tmp_path, "git", "add", "-A")
    call(tmp_path, "git", "commit", "-qm", "one")
    return tmp_path


def test_show_and_diff(project: Path) -> None:
    curves, depths = specifications(project, "show")
    assert {(row["num_layers"], row["epoch"]) for row in curves["data"]["values"]} == {
        (d, e) for d in "146" for e in "123"
    }
    assert [row["num_layers"] for row in depths["data"]["values"]] == ["1", "4", "6"]
    for view in curves["hconcat"]:
        assert view["encoding"]["color"]["field"] == "num_layers"
        assert (view["encoding"]["x"]["field"], view["encoding"]["y"]["field"]) == ("epoch", "val_ppl")
    interval = depths["layer"][0]["encoding"]
    assert (interval["y"]["field"], interval["y2"]["field"]) == ("val_ppl_low", "val_ppl_high")
    report(project, 1, 6, 9)
    curves, depths = specifications(project, "diff", "HEAD")
    for specification in (curves, depths):
        found = {(row["rev"], row["num_layers"]) for row in specification["data"]["values"]}
        assert found == {("HEAD", d) for d in "146"} | {("workspace", d) for d in "169"}
    assert all(view["encoding"]["strokeDash"]["field"] == "rev" for view in curves["hconcat"])
    assert depths["encoding"]["color"]["field"] == "rev"
    fields = set(re.findall(r'"field": "(\w+)"', json.dumps([curves["hconcat"], depths["layer"]])))
    columns = set(curves["data"]["values"][0]) | set(depths["data"]["values"][0])
    assert fields <= columns
