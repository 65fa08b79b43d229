"""Which code computed a result."""

import subprocess
from pathlib import Path


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in `folder` and whether its code or pipeline differ from it; None without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--", "src", "stages", "dvc.yaml")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            ["git", *arguments],  # noqa: S607 (git is found on the PATH)
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
