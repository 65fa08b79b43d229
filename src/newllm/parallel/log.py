"""What the log of some stages says: which one runs, for how long, on which GPU, and how far it is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

RUNNING = re.compile(r"Running stage '(.+)':$")
ENDED = re.compile(r"(Updating lock file|Stage ')")
WAITS = re.compile(r"\S+: waits for one of these GPUs")
GPU = re.compile(r"\S+: on (GPU .+)$")


@dataclass(frozen=True)
class StageTime:
    """A stage that has run.

    Attributes:
        gpu: its title, None on a CPU.
        seconds: from DVC's first line about it to the last, the start of Python included, and no waiting for a GPU.
    """

    stage: str
    gpu: str | None
    seconds: float


class Log:
    """Follows DVC's lines about the stages of one `dvc repro` or experiment."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.last = ""
        self._gpu: str | None = None
        self._since = 0.0
        self._waits: float | None = None

    def read(self, line: str, now: float) -> Iterator[StageTime]:
        """Takes a line that was written at about `now`, in seconds; yields the stage that it ends."""
        if running := RUNNING.match(line):
            yield from self.end(now)
            self.stage, self._gpu, self._since, self._waits = running[1], None, now, None
        elif ENDED.match(line):
            yield from self.end(now)
        elif WAITS.match(line):
            self._waits = now
        elif gpu := GPU.match(line):
            self._gpu = gpu[1]
            self._since += 0.0 if self._waits is None else now - self._waits
        if line.strip():
            self.last = line.strip()

    def end(self, now: float) -> Iterator[StageTime]:
        """The log is complete; yields the stage that ran last."""
        if self.stage:
            yield StageTime(self.stage, self._gpu, now - self._since)
        self.stage = None
