"""Which code computed a result, and what else determines it."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from newllm.errors import UserError
from newllm.files import sha256
from newllm.model.definition import ModelShape, Parameters
from newllm.runtime.device import describe
from newllm.runtime.git import git


def git_state(folder: Path) -> tuple[str, bool]:
    """The commit that holds the project in `folder`, and whether code or pipeline differ from it.

    Raises:
        UserError: there is no git or no repository, or its commit does not hold the project (a copy of the project
            that was unpacked within another repository); with git's own message.
    """
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "rev-parse", "HEAD:./dvc.yaml")
    changes = git(folder, "status", "--porcelain", "--", "src", "stages", "dvc.yaml")
    return commit, bool(changes)


def provenance(folder: Path, device: torch.device) -> dict[str, Any]:
    """Where and with which code a result is computed, by the names of a `TrainingRecord`.

    To be read before a training: a commit that is made meanwhile in `folder` is not that of the code that runs.
    """
    commit, dirty, problem = None, None, None
    try:
        commit, dirty = git_state(folder)
    except UserError as error:
        problem = str(error)
        print(f"the results will name no commit: {problem}", file=sys.stderr)
    return {
        "device": describe(device),
        "torch_version": torch.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "git_problem": problem,
    }


def code_hash() -> str:
    """SHA-256 of the code that trains: all of `model`, `training` and `studies`."""
    library = Path(__file__).parent.parent
    paths = sorted(path for wing in ("model", "training", "studies") for path in (library / wing).glob("*.py"))
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
