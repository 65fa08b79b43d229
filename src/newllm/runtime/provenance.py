"""Which code computed a result, and what else determines it."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from newllm.files import sha256
from newllm.model.definition import ModelShape, Parameters
from newllm.runtime.device import describe


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that is checked out in `folder` and whether its code or pipeline differ from it; None without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--", "src", "stages", "dvc.yaml")
    return commit, None if changes is None else bool(changes)


def provenance(folder: Path, device: torch.device) -> dict[str, Any]:
    """Where and with which code a result is computed, by the names of a `TrainingRecord`.

    To be read before a training: a commit that is made meanwhile in `folder` is not that of the code that runs.
    """
    commit, dirty = git_state(folder)
    return {
        "device": describe(device),
        "torch_version": torch.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
    }


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


def code_hash() -> str:
    """SHA-256 of the code that trains: all of `model` and `training`."""
    library = Path(__file__).parent.parent
    paths = sorted(path for wing in ("model", "training") for path in (library / wing).glob("*.py"))
    return digest([[str(path.relative_to(library)), sha256(path)] for path in paths])


def identity(
    parameters: Mapping[str, Any],
    shape: ModelShape,
    windows: Sequence[Path],
    device: torch.device,
    start: tuple[Parameters, Parameters | None, int] | None = None,
) -> dict[str, Any]:
    """Everything that determines a training's result, as JSON values.

    The device's name is among it, and a CPU's number of threads: others round differently.

    Args:
        parameters: sections of params.yaml.
        shape: the model's sizes.
        windows: files of the training and validation windows.
        device: where it trains.
        start: parameters to go on from, which of their entries learn, and the phase.
    """
    begun = start and [_hash(start[0]), start[1] and _hash(start[1]), start[2]]
    return {
        "parameters": dict(parameters),
        "shape": asdict(shape),
        "windows": [sha256(path) for path in windows],
        "code": code_hash(),
        "device": describe(device),
        "torch": torch.__version__,
        "start": begun,
    }


def digest(values: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _hash(tensors: Parameters) -> str:
    contents = {name: value.detach().numpy().tobytes() for name, value in tensors.items()}
    return digest([[name, hashlib.sha256(content).hexdigest()] for name, content in contents.items()])
