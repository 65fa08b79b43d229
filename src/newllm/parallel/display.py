"""How far the jobs are: a table that stays in its place on a terminal, plain lines now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Collection
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from newllm.parallel.log import StageTime
from newllm.parallel.queue import Job, Progress

LINE_INTERVAL = 60.0  # seconds between plain lines about the same job


class Display:
    """Shows jobs while they run; a context."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._shown_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._live.stop()

    def ended(self, stage: StageTime) -> None:
        """A stage has ended."""
        place = f" on {stage.gpu}" if stage.gpu else ""
        self._console.print(f"{stage.stage}: {stage.seconds:.0f} s{place}", markup=False)

    def show(self, jobs: Collection[Job]) -> None:
        """Shows where the jobs are now."""
        running = [job for job in jobs if job.progress is Progress.RUNS]
        if self._console.is_terminal:
            table = Table.grid(Column(no_wrap=True), Column(no_wrap=True), padding=(0, 2, 0, 0))
            for job in running:
                table.add_row(Text(job.log.stage or job.group.name), Text(job.log.last))
            self._live.update(Group(table, Text(_counts(jobs))), refresh=True)
            return
        now = time.monotonic()
        for job in running:
            if now - self._shown_at.get(job.group.name, -LINE_INTERVAL) >= LINE_INTERVAL:
                self._shown_at[job.group.name] = now
                self._console.print(f"{job.log.stage or job.group.name}: {job.log.last or 'begins'}", markup=False)


def _counts(jobs: Collection[Job]) -> str:
    counts = Counter(job.progress for job in jobs)
    return ", ".join(f"{counts[progress]} {progress.value}" for progress in Progress if counts[progress])
