"""git as a subprocess: in the repository of the folder that is meant, whatever the environment says.

git tells hooks, `rebase --exec` and `bisect run` by variables which repository they belong to, and every git that they
start obeys them, wherever it runs.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from newllm.errors import UserError

IDENTITY = {"NAME": "New-LLM depth study", "EMAIL": "study@localhost"}
NO_FOLDER = "/nonexistent"


def isolated(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment for git and DVC in a repository that the caller made: no other one, no settings of the user.

    Settings are those of git (signing, hooks, templates, line endings, formats, ignored files) and of DVC (caches,
    remotes, tokens), in variables and in files. Commits have an author of their own.

    Args:
        variables: the environment to begin with, such as `os.environ`; it is not changed.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith(("GIT_", "DVC_"))}
    if "GIT_EXEC_PATH" in variables:  # where a git that was moved finds its own programs
        kept["GIT_EXEC_PATH"] = variables["GIT_EXEC_PATH"]
    # The files of ignored names and attributes have defaults of their own, besides those that the settings name.
    settings = {"core.excludesFile": os.devnull, "core.attributesFile": os.devnull}
    kept["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (name, value) in enumerate(settings.items()):
        kept |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    kept |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
    kept |= {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()}
    return kept | {"DVC_GLOBAL_CONFIG_DIR": NO_FOLDER, "DVC_SYSTEM_CONFIG_DIR": NO_FOLDER, "DVC_NO_ANALYTICS": "1"}


def in_folder(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment for git in a repository of the user's: that of the folder in which it runs, with all settings."""
    settings = ("GIT_CONFIG_", "GIT_CEILING_", "GIT_DISCOVERY_", "GIT_EXEC_PATH")
    return {
        name: value for name, value in variables.items() if not name.startswith("GIT_") or name.startswith(settings)
    }


def git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What git writes to its output, without line breaks at its ends; it takes no lock that it can do without.

    Args:
        folder: where it runs.
        arguments: the command and its arguments.
        environment: that of `in_folder` unless given.

    Raises:
        UserError: git is not installed, or it fails; the text is its own message.
    """
    try:
        done = subprocess.run(  # noqa: S603 (arguments are not a shell's)
            ["git", "--no-optional-locks", *arguments],  # noqa: S607 (git is found on the PATH)
            cwd=folder,
            env=in_folder(os.environ) if environment is None else environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise UserError(f"git in {folder}: {error}; git must be installed, and on the PATH") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
        raise UserError(f"git {arguments[0]} in {folder}: {said}")
    return done.stdout.strip("\n")
