"""Clones of a project, with what is changed and new in its folder."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.config import Config

from newllm.errors import UserError
from newllm.parallel.clone import clone
from newllm.runtime.git import isolated


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=isolated(os.environ), capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Commits and changes of all kinds."""
    folder = tmp_path / "a project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n")
    (folder / ".gitignore").write_text("ignored\n")
    for name in ("same", "changed", "staged", "deleted", "moved"):
        (folder / name).write_text(f"{name}, committed")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All")
    (folder / "changed").write_text("changed since")
    (folder / "staged").write_text("staged since")
    git(folder, "add", "staged")
    (folder / "deleted").unlink()
    git(folder, "mv", "moved", "elsewhere")
    (folder / "new").mkdir()
    (folder / "new" / "ä file").write_text("new")
    (folder / "link").symlink_to("same")
    (folder / "ignored").write_text("ignored")
    (folder / ".dvc" / "config.local").write_text("[cache]\n    type = copy\n    dir = nowhere\n")
    return folder


def files(folder: Path) -> dict[str, str]:
    names = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {name: (folder / name).read_text() for name in names if name and (folder / name).is_file()}


def test_a_clone_has_all_that_is_not_ignored_and_the_same_commit(project: Path, tmp_path: Path) -> None:
    before = git(project, "status", "--porcelain", "-z")
    clone(project, tmp_path / "clone", tmp_path / "cache", [])
    found = files(tmp_path / "clone")
    assert found == files(project)
    assert found["changed"] == "changed since"
    assert found["new/ä file"] == "new"
    assert "deleted" not in found
    assert (tmp_path / "clone" / "link").is_symlink()
    assert not (tmp_path / "clone" / "ignored").exists()
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(tmp_path / "clone", "diff", "--name-only") == "", "all is staged"
    assert git(project, "status", "--porcelain", "-z") == before


def test_a_file_that_became_a_folder_and_the_reverse(project: Path, tmp_path: Path) -> None:
    (project / "same").unlink()
    (project / "same").mkdir()
    (project / "same" / "within").write_text("new")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "A folder")
    shutil.rmtree(project / "same")
    (project / "same").write_text("a file again")
    (project / "changed").unlink()
    (project / "changed").mkdir()
    (project / "changed" / "within").write_text("new")
    clone(project, tmp_path / "clone", tmp_path / "cache", [])
    assert files(tmp_path / "clone") == files(project)
    assert (tmp_path / "clone" / "same").read_text() == "a file again"


def test_a_clone_shares_the_cache_and_keeps_other_settings(project: Path, tmp_path: Path) -> None:
    clone(project, tmp_path / "clone", tmp_path / "cache", [])
    settings = Config(os.fspath(tmp_path / "clone" / ".dvc")).read("local")
    assert settings["cache"] == {"type": "copy", "dir": os.fspath(tmp_path / "cache")}
    assert Path(settings["core"]["site_cache_dir"]).is_relative_to(tmp_path / "clone")


def test_a_clone_has_the_results_of_the_stages_that_are_named(project: Path, tmp_path: Path) -> None:
    lock: dict[str, Any] = {
        "schema": "2.0",
        "stages": {name: {"cmd": f"make {name}"} for name in ("data", "train@1", "train@2")},
    }
    (project / "dvc.lock").write_text(json.dumps(lock))
    clone(project, tmp_path / "clone", tmp_path / "cache", {"data", "train@2", "train@3"})
    found = yaml.safe_load((tmp_path / "clone" / "dvc.lock").read_text())
    assert found["schema"] == "2.0"
    assert found["stages"] == {name: lock["stages"][name] for name in ("data", "train@2")}
    assert git(tmp_path / "clone", "diff", "--name-only") == "", "all is staged"


def test_hooks_of_the_user_do_not_run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {hooks}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "settings").write_text(f"[core]\n\thooksPath = {hooks}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    clone(project, tmp_path / "clone", tmp_path / "cache", [])
    assert not (hooks / "ran").exists()


def test_a_folder_without_a_commit_of_its_own_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no usable git repository"):
        clone(tmp_path / "empty", tmp_path / "clone", tmp_path / "cache", [])
    git(tmp_path / "empty", "init", "--quiet")
    with pytest.raises(UserError, match=r"empty: no usable git repository"):
        clone(tmp_path / "empty", tmp_path / "clone", tmp_path / "cache", [])
    with pytest.raises(UserError, match=r"new: found its git repository in .*a project"):
        clone(project / "new", tmp_path / "clone", tmp_path / "cache", [])
