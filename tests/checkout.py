"""The checkout that is tested, for tests of what is committed in it."""

from pathlib import Path

import pytest

from newllm.errors import UserError
from newllm.runtime.git import git

ROOT = Path(__file__).resolve().parent.parent


def in_git() -> set[str]:
    """The committed files; the test is skipped where git does not know them, as in a folder that was unpacked."""
    try:  # the checkout may be another user's, as in a container
        names = set(git(ROOT, "-c", f"safe.directory={ROOT}", "ls-files", "-z").split("\0"))
    except UserError as error:
        pytest.skip(f"needs the project's own repository: {error}")
    if "dvc.yaml" not in names:
        pytest.skip(f"needs the project's own repository: the one that holds {ROOT} does not have its files")
    return names
