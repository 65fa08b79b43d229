"""What those who build on the project find: each file parses, and names what exists."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))
STEPS = [(name, step) for name, job in WORKFLOW["jobs"].items() for step in job["steps"]]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_actions_are_pinned_to_commits_and_say_which_version_that_is() -> None:
    text = (ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8")
    assert text.count("uses:") == len(re.findall(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", text, re.M)) > 0


def test_what_may_write_runs_nothing_of_the_pull_request() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    writing = {name for name, job in WORKFLOW["jobs"].items() if "permissions" in job}
    assert writing == {"comment"}
    assert WORKFLOW["jobs"]["comment"]["permissions"] == {"pull-requests": "write"}
    assert not [step for name, step in STEPS if name in writing and "uses" in step]
    checkouts = [step for _, step in STEPS if "checkout" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    # what others may write reaches a shell as a variable, never as text of the script
    assert not [step["run"] for _, step in STEPS if "${{" in step.get("run", "")]


def test_the_workflow_runs_what_every_commit_must_pass_on_every_supported_python() -> None:
    assert {"run": ".ci/run"} in WORKFLOW["jobs"]["checks"]["steps"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    versions = WORKFLOW["jobs"]["checks"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert WORKFLOW["jobs"]["checks"]["env"] == {"TORCH": "cpu"}


@pytest.mark.git
def test_the_difference_of_metrics_is_one_output_and_the_summary(tmp_path: Path) -> None:
    """The step's own script, with a dvc that tells what it was asked for."""
    script = next(step["run"] for _, step in STEPS if step.get("id") == "difference")
    dvc = tmp_path / "dvc"
    dvc.write_text('#!/bin/sh\n[ "$ANSWER" = none ] || printf "| %s |\\n| a |\\n" "$*"\n')
    dvc.chmod(0o755)
    for answer in ("some", "none"):
        files = {name: str(tmp_path / f"{answer}-{name}") for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, **files, "PATH": path, "BASE": "1a2b3c", "ANSWER": answer}
        subprocess.run(["bash", "-e", "-c", script], env=variables, check=True)
        output = Path(files["GITHUB_OUTPUT"]).read_text().splitlines()
        assert output[0] == f"markdown<<{output[-1]}"
        assert output[1:-1] == Path(files["GITHUB_STEP_SUMMARY"]).read_text().splitlines()
        if answer == "some":
            assert output[3:-1] == ["| metrics diff --md 1a2b3c HEAD |", "| a |"]
        else:
            assert len(output[3:-1]) == 1


def test_the_container_has_the_dvc_extension_and_sets_up_with_make() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert "Iterative.dvc" in container["customizations"]["vscode"]["extensions"]
    program, target, *settings = container["postCreateCommand"].split()
    assert (program, settings) == ("make", ["TORCH=cpu"])
    assert target in make_targets()


def test_hooks_are_those_of_make_lint_and_run(tmp_path: Path) -> None:
    """On a file with a fault that ruff mends; with the ruff on the PATH, which need not be in .venv."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    path = tmp_path / "code.py"
    path.write_text("import os\nx = 'a'\n")
    for hook in hooks:
        program, *arguments = shlex.split(hook["entry"])
        ruff = shutil.which("ruff")
        assert program == ".venv/bin/ruff"
        assert ruff
        subprocess.run([ruff, *arguments, str(path)], cwd=ROOT, check=True, capture_output=True)
    assert path.read_text() == 'x = "a"\n'


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_changes_are_newest_first() -> None:
    days = re.findall(r"^## (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert days == sorted(set(days), reverse=True)
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["date-released"]) in days
