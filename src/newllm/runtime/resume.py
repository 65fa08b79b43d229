"""States of trainings that have not ended, so that a killed training goes on where it was.

A training has a folder of its own, named by its stage and by a hash of everything that determines its result, so that
a state is never taken for another training. In it:

    identity.json            what the hash is of, for people
    lock                     held by the process that trains, which the kernel lets go of when the process ends
    <number>-<sha256>.safetensors    the last two states; the name holds the checksum, so that one rename completes both
    unfinished               a state that is being written

DVC deletes a stage's outputs before the stage runs, so the folder is no output.

`python -m newllm.runtime.resume` lists the states, and removes them.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load, save
from torch import Tensor

from newllm.errors import UserError
from newllm.files import read_json, write_json
from newllm.runtime.console import keep_output_from_failing
from newllm.runtime.provenance import code_hash, digest

FOLDER_VARIABLE = "NEWLLM_STATES"
IDENTITY = "identity.json"
GENERATIONS = 2
LONGEST_UNWRITTEN = 300.0  # seconds; where epochs are long, no more than this and an epoch is lost
LARGEST_SHARE = 0.02  # of the time may be spent on writing; where epochs are short, fewer states are written
IN_USE = "in use"
FOLDER = re.compile(r".+-[0-9a-f]{16}")  # of a training: its stage and its hash


@dataclass(frozen=True)
class State:
    """A training after an epoch.

    Attributes:
        tensors: copies, which do not change any more.
        values: whatever else it goes on from, as JSON values.
        where: for people: how far it is.
    """

    tensors: Mapping[str, Tensor]
    values: Any
    where: str


def folder_of_states(environment: Mapping[str, str], project: Path) -> Path:
    """Where states lie: `checkpoints` in the project, or the folder that the environment names.

    Raises:
        UserError: the environment names a relative path, which an experiment in a copy would take for one in the copy.
    """
    named = environment.get(FOLDER_VARIABLE)
    if not named:
        return project / "checkpoints"
    if not Path(named).is_absolute():
        raise UserError(f"{FOLDER_VARIABLE}: found {named}, expected an absolute path; set it to one, or unset it")
    return Path(named)


class StateStore:
    """Keeps the states of one training; a context that holds the training's lock.

    On leaving it without an error the states are removed, on a signal (SystemExit, KeyboardInterrupt) the last epoch's
    is written. Errors of the disk are OSError and name the path; the states before stay as they are.
    """

    def __init__(self, root: Path, stage: str, identity: Mapping[str, Any], every: int) -> None:
        """Nothing is touched yet.

        Args:
            root: the folder of all states.
            stage: the DVC stage's name.
            identity: everything that determines the result, see `identity`.
            every: epochs between two states that are written.
        """
        self.stage, self._identity, self._every = stage, identity, every
        self._hash = digest({"stage": stage, **identity})
        self.folder = root / f"{stage}-{self._hash[:16]}"
        self._last: tuple[State, torch.cuda.Event | None] | None = None
        self._unwritten = 0  # epochs
        self._written_at = time.monotonic()
        self._cost = 0.0  # seconds that the last write took

    def __enter__(self) -> Self:
        self._lock = _locked(self.folder, self.stage)
        with _naming(self.folder / IDENTITY):
            write_json(self.folder / IDENTITY, {"stage": self.stage, **self._identity})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with _signals_ignored():
            if kind is not None and issubclass(kind, SystemExit | KeyboardInterrupt):
                self._write_last()
            if kind is None or not generations(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)  # results are written; what stays does no harm
            os.close(self._lock)

    def resume(self) -> State | None:
        """The last whole state on the disk, or None; says which, and names and removes damaged ones."""
        found = generations(self.folder)
        for path in reversed(found):
            try:
                state = _decode(path, self._hash)
            except (OSError, ValueError) as error:
                print(f"{path}: damaged ({error}), so it is removed; looking for the state before", flush=True)
                path.unlink()
                continue
            print(f"{self.stage}: going on {state.where}", flush=True)
            return state
        if found:
            print(f"{self.stage}: no state is whole; the training starts anew", flush=True)
        return None

    def keep(self, state: State) -> None:
        """Takes the state after an epoch and writes it if it is time."""
        copied = None
        if any(tensor.is_cuda for tensor in state.tensors.values()):
            copied = torch.cuda.Event()
            copied.record()
        self._last = state, copied
        self._unwritten += 1
        elapsed = time.monotonic() - self._written_at
        is_due = self._unwritten >= self._every or elapsed >= LONGEST_UNWRITTEN
        if is_due and self._cost <= LARGEST_SHARE * elapsed:
            self._write(state, copied)

    def _write_last(self) -> None:
        if self._last and self._unwritten:
            self._write(*self._last)
        if generations(self.folder):
            place = self._last[0].where if self._last else "as before"
            print(f"{self.stage}: ended by a signal; `dvc repro` goes on {place}", flush=True)
        else:
            print(f"{self.stage}: ended by a signal within the first epoch; nothing to go on from", flush=True)

    def _write(self, state: State, copied: torch.cuda.Event | None) -> None:
        began = time.monotonic()
        content = _encode(state, copied, self._hash)
        earlier = generations(self.folder)
        number = int(earlier[-1].name.split("-")[0]) + 1 if earlier else 1
        path = self.folder / f"{number:08}-{hashlib.sha256(content).hexdigest()}.safetensors"
        beside = self.folder / "unfinished"
        try:
            with _naming(beside):
                with beside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
                _sync_folder(self.folder)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)  # room for others
            raise
        for old in earlier[: 1 - GENERATIONS]:
            old.unlink()
        self._unwritten, self._written_at = 0, time.monotonic()
        self._cost = self._written_at - began


def _encode(state: State, copied: torch.cuda.Event | None, identity_hash: str) -> bytes:
    """The content of a safetensors file; JSON keeps every bit of a float.

    Args:
        state: a state.
        copied: when a GPU has made its tensors; None on a CPU.
        identity_hash: of the training.
    """
    about = {"identity": identity_hash, "values": json.dumps(state.values), "where": state.where}
    content: bytes = save(_on_host(state.tensors, copied), about)
    return content


def _on_host(tensors: Mapping[str, Tensor], copied: torch.cuda.Event | None) -> dict[str, Tensor]:
    if copied is None:
        return {name: value.contiguous() for name, value in tensors.items()}
    # by a stream of its own: before it, that of the training may have most of an epoch yet to compute
    copied.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        return {name: value.cpu().contiguous() for name, value in tensors.items()}


def _decode(path: Path, identity_hash: str) -> State:
    """Reads a state from a file whose name ends in its SHA-256.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or is that of a training with another `identity_hash`.
    """
    content = path.read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), path.stem.split("-")[1]
    if found != expected:
        raise ValueError(f"its SHA-256 is {found[:16]}..., expected {expected[:16]}...")
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    if about["identity"] != identity_hash:
        raise ValueError("it is of another training")
    return State(load(content), json.loads(about["values"]), about["where"])


def generations(folder: Path) -> list[Path]:
    """The states in a training's folder, the last one last; whether they are whole is not looked at."""
    return sorted(folder.glob("*-*.safetensors"))


def is_locked(folder: Path) -> bool:
    """Whether a process trains with the states in `folder`."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _locked(folder: Path, stage: str) -> int:
    """Makes the folder and takes its lock, which holds until the descriptor is closed or the process ends."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.read(lock, 20).decode() or "unknown"
            os.close(lock)
            raise UserError(
                f"{folder}: process {process} trains {stage} already; wait for it, or end it and run again"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (folder / "lock").stat()):
                os.ftruncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
                return lock
        os.close(lock)  # who held it has removed it


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of writing to an open file does not say which."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not interrupt what the first has begun."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """What can be done with the states in each training's folder in `root`; other folders there are not ours."""
    code = code_hash()
    ours = [folder for folder in root.glob("*-*") if FOLDER.fullmatch(folder.name) and (folder / "lock").is_file()]
    return {folder: _status(folder, code) for folder in sorted(ours)}


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
    keep_output_from_failing()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
