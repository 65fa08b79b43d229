"""How far a training is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

LINE_INTERVAL = 15.0  # seconds between plain lines


class Progress:
    """Shows depth, epoch, losses, tokens a second and time left of a training of `epochs` epochs x `rounds` stacks."""

    def __init__(self, num_layers: int, epochs: int, rounds: int, steps: int, silent: bool = False) -> None:
        self._title = f"{num_layers} layer{'s' if num_layers > 1 else ''}"
        self._epochs, self._steps = epochs, steps
        self._started = self._last_line = time.monotonic()
        self._silent = silent
        terminal = sys.stderr.isatty() and not silent
        self._bar = tqdm(
            total=epochs * rounds * steps, desc=self._title, unit="step", disable=not terminal, dynamic_ncols=True
        )
        self._done = 0
        self._resumed = 0  # steps that an earlier run has done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One training step was handed to the device."""
        self._bar.update()

    def epoch(self, seeds: Sequence[int], epoch: int, losses: tuple[float, float], tokens_per_second: float) -> None:
        """An epoch of some seeds has ended with mean (training, validation) losses in nats."""
        self._done += self._steps
        text = (
            f"epoch {epoch}/{self._epochs}, train loss {losses[0]:.4f}, val loss {losses[1]:.4f}, "
            f"{tokens_per_second:,.0f} tokens/s"
        )
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._silent:
            return
        if self._bar.disable and (epoch in (1, self._epochs) or now - self._last_line >= LINE_INTERVAL):
            self._last_line = now
            total = self._bar.total or 1
            left = (now - self._started) * (total - self._done) / (self._done - self._resumed)
            print(f"{self._title}, {_named(seeds)}: {text}, {_duration(left)} left", flush=True)

    def split(self, epochs: int) -> None:
        """A stack is trained as two, one after the other."""
        self._bar.total = (self._bar.total or 0) + epochs * self._steps

    def resume(self, epochs: int) -> None:
        """A run that was killed has trained the first epochs of this stack; they took no time now."""
        self._resumed = self._done = self._bar.initial = self._bar.n = epochs * self._steps

    def skip(self, epochs: int) -> None:
        """Epochs that early stopping has spared."""
        self._bar.total = (self._bar.total or 0) - epochs * self._steps


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
