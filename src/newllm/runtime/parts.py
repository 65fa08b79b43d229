"""States of a study that trains in several parts, one after the other: killed, it goes on within its part."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from newllm.runtime.resume import State, StateStore

Result = TypeVar("Result")


class PartsStore(StateStore):
    """A `StateStore` for parts in a fixed order; a training that is given it keeps the state of the part in hand.

    A state holds, beside that of the training in hand, what every part before came to, so that none is done twice.
    """

    def __init__(self, root: Path, stage: str, identity: Mapping[str, Any], every: int) -> None:
        """See `StateStore`."""
        super().__init__(root, stage, identity, every)
        self._finished: list[Any] = []
        self._within: State | None = None
        self._next = 0
        self._part = ""

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """What the next part comes to, as JSON values; computed only if no state has it.

        Args:
            name: of the part, for people.
            compute: trains it, with this store.
        """
        if self._next == 0:
            self._restore()
        self._next += 1
        self._part = name
        if self._next > len(self._finished):
            value = compute()
            self._within = None
            self._finished.append(value)
            super().keep(State({}, {"finished": self._finished, "within": None}, f"after {name}"))
        return self._finished[self._next - 1]

    def last(self, name: str, compute: Callable[[], Result]) -> Result:
        """What the last part comes to, which need not be JSON: it is written elsewhere, and not kept here."""
        self._part = name
        return compute()

    def _restore(self) -> None:
        if state := super().resume():
            self._finished = state.values["finished"]
            if state.values["within"] is not None:
                self._within = State(state.tensors, state.values["within"], state.where)

    def resume(self) -> State | None:
        """The state of the part in hand, if it was killed; once."""
        state, self._within = self._within, None
        return state

    def keep(self, state: State) -> None:
        """Takes the state of the part in hand after an epoch and writes it if it is time."""
        values = {"finished": list(self._finished), "within": state.values}
        super().keep(State(state.tensors, values, f"in {self._part}, {state.where}"))
