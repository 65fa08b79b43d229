"""A stranger's machine: settings of git and DVC, and variables that name a repository, which nothing may touch."""

import os
import stat
from pathlib import Path

import pytest

from newllm.runtime.git import git, isolated

GIT_SETTINGS = """
[user]
    useConfigOnly = true
[commit]
    gpgsign = true
[gpg]
    program = false
[core]
    hooksPath = {folder}/hooks
    autocrlf = true
[init]
    templateDir = {folder}/template
    defaultObjectFormat = sha256
"""
DVC_SETTINGS = "[core]\n    no_scm = true\n"


class Stranger:
    """Makes the repository and the settings in `folder`; `enter` sets the variables as git does in a hook."""

    def __init__(self, folder: Path) -> None:
        self.repository, self._folder = folder / "repository", folder
        for name in ("hooks", "template/hooks", "settings/git", "settings/dvc", "repository"):
            (folder / name).mkdir(parents=True)
        for hooks in ("hooks", "template/hooks"):
            for name in ("pre-commit", "post-commit", "post-checkout"):
                hook = folder / hooks / name
                hook.write_text(f"#!/bin/sh\ntouch '{folder}/hook'\nexit 1\n")
                hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
        (folder / "settings/git/config").write_text(GIT_SETTINGS.format(folder=folder))
        (folder / "settings/git/ignore").write_text("*.py\n")
        (folder / "settings/git/attributes").write_text("* text eol=crlf\n")
        (folder / "settings/dvc/config").write_text(DVC_SETTINGS)
        (self.repository / "file").write_text("file\n")
        for command in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "--message", "theirs"]):
            git(self.repository, *command, environment=isolated(os.environ))
        self._before = self._contents()

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith(("GIT_CONFIG", "DVC_"))]:
            monkeypatch.delenv(name)
        place = self.repository / ".git"
        variables = {"GIT_DIR": place, "GIT_WORK_TREE": self.repository, "GIT_INDEX_FILE": place / "index"}
        variables |= {"GIT_OBJECT_DIRECTORY": place / "objects", "GIT_TEMPLATE_DIR": self._folder / "template"}
        variables |= {"GIT_CONFIG_GLOBAL": self._folder / "settings/git/config"}
        variables |= {"XDG_CONFIG_HOME": self._folder / "settings", "HOME": self._folder}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    def assert_untouched(self) -> None:
        assert self._contents() == self._before
        assert not (self._folder / "hook").exists(), "a hook of the user's ran"

    def _contents(self) -> dict[str, bytes]:
        files = (path for path in self.repository.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}
