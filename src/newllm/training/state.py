"""What a training is after an epoch, and the file that holds it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from newllm.training.results import EpochRow, SeedResult, Training


@dataclass(frozen=True)
class StackState:
    """A stack of seeds after an epoch: copies of its tensors, and what JSON can hold."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """A training after an epoch.

    Attributes:
        finished: the stacks of seeds that are trained.
        waiting: the seeds of the stacks that are not; `stack` is of the first.
        stack: where that one is; None: at its beginning.
    """

    finished: Sequence[Training]
    waiting: Sequence[list[int]]
    stack: StackState | None


def encode(state: State, copied: torch.cuda.Event | None, identity_hash: str) -> bytes:
    """The content of a safetensors file; JSON keeps every bit of a float.

    Args:
        state: a state.
        copied: when a GPU has made its tensors; None on a CPU.
        identity_hash: of the training.
    """
    tensors = {
        f"finished.{index}.{name}": value.clone()
        for index, training in enumerate(state.finished)
        for name, value in training.parameters.items()
    }
    if state.stack:
        tensors |= {f"stack.{name}": value for name, value in _on_host(state.stack.tensors, copied).items()}
    values = {
        "finished": [
            [[vars(row) for row in training.curves], [vars(result) for result in training.results]]
            for training in state.finished
        ],
        "waiting": state.waiting,
        "stack": state.stack and state.stack.values,
    }
    content: bytes = save(tensors, {"identity": identity_hash, "values": json.dumps(values)})
    return content


def _on_host(tensors: Mapping[str, Tensor], copied: torch.cuda.Event | None) -> dict[str, Tensor]:
    if copied is None:
        return dict(tensors)
    # by a stream of its own: before it, that of the training may have most of an epoch yet to compute
    copied.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        return {name: value.cpu() for name, value in tensors.items()}


def decode(path: Path, identity_hash: str) -> State:
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
    tensors, values = load(content), json.loads(about["values"])
    finished = [
        Training(
            _within(tensors, f"finished.{index}."),
            [EpochRow(**row) for row in curves],
            [SeedResult(**result) for result in results],
        )
        for index, (curves, results) in enumerate(values["finished"])
    ]
    stack = values["stack"] and StackState(_within(tensors, "stack."), values["stack"])
    return State(finished, values["waiting"], stack)


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def where(state: State) -> str:
    """For people: after which seeds and epochs the state is."""
    trained = [result.seed for training in state.finished for result in training.results]
    places = [f"seeds {_listed(trained)} trained"] if trained else []
    if state.stack:
        places.append(f"epoch {state.stack.values['epoch']} of seeds {_listed(state.waiting[0])}")
    return f"after {' and '.join(places)}" if places else "from the beginning, with fewer seeds at once"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
