"""How far a training is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Protocol, Self

from tqdm import tqdm

LINE_INTERVAL = 15.0  # seconds between plain lines


class Epoch(Protocol):
    """What is shown of a row's epoch; losses in nats."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def val_loss(self) -> float: ...


class Progress:
    """Shows what trains, epoch, losses, tokens a second and time left of a training of `rows` rows x `epochs` epochs.

    What trains is named by `title`, or by its depth.
    """

    def __init__(
        self, num_layers: int, epochs: int, rows: int, steps: int, silent: bool = False, title: str = ""
    ) -> None:
        self._title = title or f"{num_layers} layer{'s' if num_layers > 1 else ''}"
        self._epochs, self._steps = epochs, steps
        self._started = self._last_line = time.monotonic()
        self._silent = silent
        terminal = sys.stderr.isatty() and not silent
        self._bar = tqdm(
            total=rows * epochs * steps, desc=self._title, unit="step", disable=not terminal, dynamic_ncols=True
        )
        self._done = 0  # steps of all rows
        self._resumed = 0  # those of them that took no time now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, rows: int) -> None:
        """One training step of so many rows was handed to the device."""
        self._bar.update(rows)

    def epoch(self, names: str, rows: Sequence[Epoch], tokens_per_second: float) -> None:
        """An epoch of some rows has ended; `names` are theirs, for people."""
        if not rows:
            return
        self._done += len(rows) * self._steps
        epochs = sorted({row.epoch for row in rows})
        number = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        text = (
            f"{number}/{self._epochs}, train loss {fmean(row.train_loss for row in rows):.4f}, "
            f"val loss {fmean(row.val_loss for row in rows):.4f}, {tokens_per_second:,.0f} tokens/s"
        )
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._silent:
            return
        is_end = epochs[0] == 1 or epochs[-1] == self._epochs
        if self._bar.disable and (is_end or now - self._last_line >= LINE_INTERVAL):
            self._last_line = now
            total = self._bar.total or 1
            left = (now - self._started) * (total - self._done) / (self._done - self._resumed)
            print(f"{self._title}, {names}: {text}, {_duration(left)} left", flush=True)

    def resume(self, epochs: int) -> None:
        """So many epochs of all rows together are behind, and those of this run took no time: it begins anew."""
        self._resumed = self._done = self._bar.initial = self._bar.n = epochs * self._steps

    def skip(self, epochs: int) -> None:
        """Epochs of a row that need not be trained."""
        self._done += epochs * self._steps
        self._resumed += epochs * self._steps
        self._bar.update(epochs * self._steps)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
