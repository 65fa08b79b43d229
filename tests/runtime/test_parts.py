"""A study in parts: what had ended is not done again, what had begun goes on, wherever a kill came."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from newllm.runtime.parts import PartsStore
from newllm.runtime.resume import State


class Study:
    """Parts of four epochs each, whose state is a sum; `log` tells which epochs were computed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, int]] = []

    def train(self, store: PartsStore, name: str, killed_at: tuple[str, int] | None) -> list[float]:
        state = store.resume()
        total, begun = (state.tensors["total"].clone(), state.values) if state else (torch.zeros(1), 0)
        for epoch in range(begun + 1, 5):
            if (name, epoch) == killed_at:
                raise KeyboardInterrupt
            self.log.append((name, epoch))
            total += epoch * len(name)
            if epoch < 4:
                store.keep(State({"total": total.clone()}, epoch, f"after epoch {epoch}"))
        return total.tolist()

    def run(self, killed_at: tuple[str, int] | None = None) -> list[list[float]]:
        def compute(name: str) -> Callable[[], list[float]]:
            return lambda: self.train(store, name, killed_at)

        with PartsStore(self.root, "parts", {"of": "a test"}, 1) as store:
            found = [store.part(name, compute(name)) for name in ("a", "bb")]
            return [*found, store.last("ccc", compute("ccc"))]


@pytest.mark.parametrize("killed_at", [("a", 1), ("a", 3), ("bb", 1), ("bb", 4), ("ccc", 1), ("ccc", 2)])
def test_every_epoch_is_computed_once(
    tmp_path: Path, killed_at: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        study.run(killed_at)
    killed = len(study.log)
    assert study.run() == [[10.0], [20.0], [30.0]]
    assert study.log == [(name, epoch) for name in ("a", "bb", "ccc") for epoch in range(1, 5)]
    name, epoch = killed_at
    if epoch > 1:
        assert f"going on in {name}, after epoch {epoch - 1}" in capsys.readouterr().out
    assert killed < 12
    assert not [*tmp_path.iterdir()], "states are left"
