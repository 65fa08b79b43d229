"""Lists the states of trainings that have not ended, and removes them: python -m newllm.training.stale_states."""

import argparse
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from newllm.errors import UserError
from newllm.files import read_json
from newllm.training.provenance import code_hash
from newllm.training.states import IDENTITY, folder_of_states, generations, is_locked

IN_USE = "in use"


def main() -> None:
    """Lists; with --remove, removes those that this code and torch cannot go on from, with --all any not in use."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remove", action="store_true", help="remove stale states: of other code or another torch")
    parser.add_argument("--all", action="store_true", help="with --remove: all that no training uses now")
    options = parser.parse_args()
    root = folder_of_states(os.environ, Path.cwd())
    found = statuses(root)
    for folder, status in found.items():
        removed = options.remove and status != IN_USE and (options.all or status.startswith("stale"))
        print(f"{'removed ' if removed else ''}{_described(folder)}: {status}")
        if removed:
            shutil.rmtree(folder)
    if not found:
        print(f"{root}: no states")


def statuses(root: Path) -> Mapping[Path, str]:
    """What can be done with the states in each training's folder in `root`."""
    code = code_hash()
    return {folder: _status(folder, code) for folder in sorted(root.glob("*-*")) if folder.is_dir()}


def _status(folder: Path, code: str) -> str:
    if is_locked(folder):
        return IN_USE
    try:
        made_by = read_json(folder / IDENTITY, "")
    except UserError:
        return f"stale: no readable {IDENTITY}"
    if not generations(folder):
        return "stale: killed before the first state"
    if made_by.get("code") != code:
        return "stale: of other code than that in src"
    if made_by.get("torch") != torch.__version__:
        return f"stale: of torch {made_by.get('torch')}"
    return "the same training goes on from it"


def _described(folder: Path) -> str:
    states = generations(folder)
    size = sum(path.stat().st_size for path in states) / 2**20
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
    return f"{folder}: {len(states)} states, {size:.1f} MiB, of {when}"


if __name__ == "__main__":
    main()
