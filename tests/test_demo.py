"""The demo's copy of the project: its own repository whatever the machine is like, and a DVC project without git."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml

from demo import run
from demo.run import commit, copy_project, environment, files
from newllm.runtime.git import git
from tests.strangers import Stranger

ROOT = Path(__file__).parent.parent
CHANGES = {"data": {"source": "synthetic", "synthetic": {"train_words": 3000}}, "train": {"seeds": [0, 1]}}


@pytest.mark.git
def test_a_copy_from_a_hook_is_a_repository_of_its_own(stranger: Stranger, tmp_path: Path) -> None:
    copy_project(tmp_path, CHANGES)
    (tmp_path / "more.py").write_text("more\n")
    commit(tmp_path, "More")
    assert git(tmp_path, "log", "--format=%s", environment=environment()).split("\n") == ["More", "Copy of the project"]
    tracked = set(git(tmp_path, "ls-files", environment=environment()).split("\n"))
    assert git(tmp_path, "status", "--porcelain", environment=environment()) == ""
    assert {"more.py", "dvc.yaml", "demo/run.py", ".dvc/config", "src/newllm/config.py"} <= tracked
    assert not [name for name in tracked if name.startswith(("metrics/", "plots/", ".venv", "build/"))]
    assert "dvc.lock" not in tracked
    stranger.assert_untouched()


def test_parameters_are_changed_and_their_comments_kept(tmp_path: Path) -> None:
    copy_project(tmp_path, CHANGES)
    expected = load_yaml(ROOT / "params.yaml")
    expected["data"] |= {"source": "synthetic", "synthetic": {"seed": 0, "train_words": 3000}}
    expected["train"]["seeds"] = [0, 1]
    assert load_yaml(tmp_path / "params.yaml") == expected
    comments = [
        [line.partition("#")[2] for line in (folder / "params.yaml").read_text(encoding="utf-8").splitlines()]
        for folder in (ROOT, tmp_path)
    ]
    assert [*filter(None, comments[0])] == [*filter(None, comments[1])]


def test_without_git_the_copy_is_a_dvc_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "python", "dvc"):
        program = shutil.which(name)
        assert program
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nexec '{program}' \"$@\"\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    copy_project(tmp_path / "copy", CHANGES)
    assert not (tmp_path / "copy" / ".git").exists()
    command = ["dvc", "repro", "--dry", "check_parameters"]
    done = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage 'check_parameters'" in done.stdout


def test_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no .gitignore names, without links to folders, whatever .git is; and it can be written to."""
    for name in (".git", "kept.py", "kept/deeper/file", "data/text", "kept/deeper/old/file", "elsewhere/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / ".gitignore").write_text("/data/\n.venv/\n/elsewhere/\n")
    (tmp_path / "kept/deeper/.gitignore").write_text("old/\n")
    (tmp_path / ".venv").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert sorted(files()) == [".gitignore", "kept.py", "kept/deeper/.gitignore", "kept/deeper/file"]


def test_a_copy_of_what_is_read_only_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tmp_path / "original"
    for name in ("params.yaml", "ablations/results.json", ".dvc/config"):
        (original / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, original / name)
    paths = sorted(original.rglob("*"), reverse=True)
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(run, "ROOT", original)
    copy_project(tmp_path / "copy", {})
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)
        assert (tmp_path / "copy" / path.relative_to(original)).stat().st_mode & 0o200


def test_what_git_says_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no developer tools' >&2\nexit 1\n")
    program.chmod(0o755)
    variables = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    copy = tmp_path / "checkout"
    for name in ("demo/run.py", "demo/settings.yaml", "params.yaml", "ablations/results.json", ".dvc/config"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("src", "stages"):
        (copy / name).symlink_to(ROOT / name, target_is_directory=True)
    # a python of this environment that finds its packages, but no git of its own beside it
    command = [sys.executable, "demo/run.py"]
    done = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: git init in ")
    assert done.stderr.endswith(": no developer tools\n")
