"""git in repositories that are made here, among variables and settings that name others."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from newllm.errors import UserError
from newllm.runtime.git import git, in_folder, isolated
from tests.strangers import Stranger

pytestmark = pytest.mark.git


def test_tests_themselves_are_isolated() -> None:
    """As tests/conftest.py sees to, for those that start git or DVC in the environment that they find."""
    assert os.environ["GIT_CONFIG_GLOBAL"] == os.devnull
    assert isolated(os.environ) == dict(os.environ)


def test_a_repository_of_ones_own_is_reached_by_nothing(stranger: Stranger, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "text.py").write_bytes(b"one\r\ntwo\n")
    environment = isolated(os.environ)
    git(folder, "init", "--quiet", environment=environment)
    git(folder, "add", "--all", environment=environment)
    git(folder, "commit", "--quiet", "--message", "own", environment=environment)
    assert git(folder, "ls-files") == "text.py", "the user's ignored names do not count"
    assert git(folder, "cat-file", "-s", "HEAD:text.py") == "9", "nor the user's line endings"
    assert git(folder, "cat-file", "commit", "HEAD").count("New-LLM depth study <study@localhost>") == 2
    assert len(git(folder, "rev-parse", "HEAD")) == 40, "nor another format of repositories"
    stranger.assert_untouched()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_DEFAULT_HASH", "sha256"),
        ("GIT_AUTHOR_NAME", ""),
        ("GIT_CONFIG_PARAMETERS", "'commit.gpgsign=true'"),
        ("DVC_STUDIO_TOKEN", "secret"),
        ("DVC_EXP_AUTO_PUSH", "true"),
    ],
)
def test_no_variable_of_the_users_is_left(name: str, value: str) -> None:
    before: Mapping[str, str] = {"PATH": "bin", "GIT_EXEC_PATH": "libexec", name: value}
    after = isolated(before)
    assert after.get(name) != value
    assert (after["PATH"], after["GIT_EXEC_PATH"]) == ("bin", "libexec")
    assert before[name] == value


def test_dvc_reads_no_settings_of_the_user(stranger: Stranger, tmp_path: Path) -> None:
    command = ["dvc", "config", "--list", "--show-origin"]
    (tmp_path / ".dvc").mkdir()
    found = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        for environment in (dict(os.environ), isolated(os.environ))
    ]
    assert "core.no_scm" in found[0]
    assert found[1] == ""


def test_reading_is_in_the_folders_own_repository(stranger: Stranger, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    git(own, "init", "--quiet", environment=isolated(os.environ))
    assert git(own, "rev-parse", "--show-toplevel") == str(own.resolve())
    assert in_folder(os.environ)["GIT_CONFIG_GLOBAL"] == os.environ["GIT_CONFIG_GLOBAL"], "with the user's settings"
    stranger.assert_untouched()


def test_gits_own_words_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match=r"git rev-parse in .*: fatal: not a git repository"):
        git(tmp_path, "rev-parse", "HEAD")
    with pytest.raises(UserError, match="nowhere"):
        git(tmp_path / "nowhere", "rev-parse", "HEAD")
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nprintf 'no tools \\377' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"git status in .*: no tools \ufffd"):
        git(tmp_path, "status")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="'git'; git must be installed, and on the PATH"):
        git(tmp_path, "status")
