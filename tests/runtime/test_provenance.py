"""A result names the commit of the code that computed it, or why it cannot."""

import json
import os
from pathlib import Path

import pytest
import torch

from newllm.runtime.git import git, isolated
from newllm.runtime.provenance import provenance
from tests.strangers import Stranger

pytestmark = pytest.mark.git
CPU = torch.device("cpu")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("src/code.py", "stages/stage.py", "dvc.yaml", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "one"]):
        git(folder, *command, environment=isolated(os.environ))
    return folder


def test_commit_and_changes(project: Path, stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the repository in which the project lies, though git's variables name another."""
    about = provenance(project, CPU)
    commit = git(project, "rev-parse", "HEAD", environment=isolated(os.environ))
    assert (about["git_commit"], about["git_dirty"], about["git_problem"]) == (commit, False, None)
    assert capsys.readouterr().err == ""
    (project / "README.md").write_text("two\n")
    assert provenance(project, CPU)["git_dirty"] is False
    for name in ("src/code.py", "stages/stage.py", "dvc.yaml"):
        (project / name).write_text("two\n")
        assert provenance(project, CPU)["git_dirty"] is True, name
        (project / name).write_text("one\n")
    stranger.assert_untouched()


def unknown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Why the commit is not known, after checking that the record and the log say so."""
    about = json.loads(json.dumps(provenance(folder, CPU)))
    assert (about["git_commit"], about["git_dirty"]) == (None, None)
    assert about["git_problem"] in capsys.readouterr().err
    return str(about["git_problem"])


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not a git repository" in unknown(tmp_path, capsys)


def test_a_copy_within_another_repository(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = project / "build" / "copy"
    copy.mkdir(parents=True)
    (copy / "dvc.yaml").write_text("one\n")
    assert "build/copy/dvc.yaml' exists on disk, but not in 'HEAD'" in unknown(copy, capsys)


def test_no_commit_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init", "--quiet", environment=isolated(os.environ))
    assert "HEAD" in unknown(tmp_path, capsys)


def test_no_git(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(project))
    assert "git must be installed" in unknown(project, capsys)
