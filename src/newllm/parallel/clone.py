"""A clone of the project that has all that the project's folder has and git does not ignore."""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from dvc.config import Config
from dvc.utils.serialize import dump_yaml, load_yaml

from newllm.errors import UserError
from newllm.runtime.git import git


def clone(project: Path, folder: Path, cache: Path, stages: Collection[str]) -> None:
    """Clones a project into a new folder, with its changes and new files staged, so that experiments begin with them.

    The commit is the same, and so is what results say of the code that computed them. Of `dvc.lock` only what
    experiments need goes along, since DVC reads all of it some ten times for each of them.

    Args:
        project: git's and DVC's.
        folder: does not exist yet.
        cache: DVC's cache of the project, which the clone shares.
        stages: whose results `dvc.lock` keeps.

    Raises:
        UserError: the project is not the root of a git repository with a commit.
    """
    remedy = "DVC's queue needs one with a commit at the root of the project; commit it, or run one job, `dvc repro`"
    try:
        root = Path(git(project, "rev-parse", "--show-toplevel"))
        git(project, "rev-parse", "--verify", "HEAD")
    except UserError as error:
        raise UserError(f"{project}: no usable git repository ({error}); {remedy}") from None
    if not root.samefile(project):
        raise UserError(f"{project}: found its git repository in {root}; {remedy}")
    # no hooks or templates of the user's: what they do is meant for the repositories that the user works in
    git(project, "clone", "--quiet", "--template=", "--config=core.hooksPath=/dev/null", str(project), str(folder))
    changed = git(project, "diff", "--name-only", "--no-renames", "-z", "HEAD")
    new = git(project, "ls-files", "--others", "--exclude-standard", "-z")
    names = [name for name in f"{changed}\0{new}".split("\0") if name]
    for name in names:  # all before any is copied: a file may have become a folder, or a folder a file
        _remove(folder / name)
    for name in names:
        _copy(project / name, folder / name)
    lock = folder / "dvc.lock"
    if lock.is_file():
        found = load_yaml(lock)
        kept = {name: result for name, result in found.get("stages", {}).items() if name in stages}
        dump_yaml(lock, found | {"stages": kept})
    git(folder, "add", "--all")
    settings = project / ".dvc" / "config.local"
    if settings.is_file():
        shutil.copyfile(settings, folder / ".dvc" / "config.local")
    with Config(os.fspath(folder / ".dvc")).edit("local") as config:
        config["cache"] = config.get("cache", {}) | {"dir": os.fspath(cache)}
        # what DVC notes of the experiments' copies, so that it goes with the clone
        config["core"] = config.get("core", {}) | {"site_cache_dir": os.fspath(folder / ".dvc" / "tmp" / "site")}


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        with suppress(NotADirectoryError):
            target.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a file or link."""
    if source.is_symlink() or source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
