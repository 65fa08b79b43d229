"""The checkout that is tested, for tests of what is committed in it."""

from pathlib import Path

import pytest
import yaml

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


def write_parameters(folder: Path) -> None:
    """params.yaml as it is here, but without the stages of part 2, which is made up apart."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["search"] |= {"depths": [], "equal_parameters": {}}
    values["lstm"]["hidden_sizes"], values["recipes"] = [], {}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
