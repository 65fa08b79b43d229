"""Groups of stages in the queue of a clone: DVC puts, copies and runs them, this says how far they are."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from tempfile import TemporaryFile

import psutil
from dvc.repo import Repo
from dvc.repo.experiments.executor.base import ExecutorInfo
from dvc.utils.serialize import ParseError

from newllm.errors import UserError
from newllm.parallel.groups import Group
from newllm.parallel.log import Log, StageTime
from newllm.parallel.processes import belonging_to, is_running, run

DVC = (sys.executable, "-m", "dvc")
IN_ONE_PROCESS = """
import json, sys
from dvc.cli import main
for command in json.loads(sys.argv[1]):
    if status := main(command):
        sys.exit(status)
"""
"""DVC's commands one after the other; it takes DVC some seconds to start."""
LONGEST_START = 60.0  # seconds that workers may take until they are seen


class Progress(Enum):
    """How far a group is."""

    WAITS = "waits"
    RUNS = "runs"
    DONE = "done"
    FAILED = "failed"


class Job:
    """A group in the queue.

    Attributes:
        path: its log; None before it runs.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.progress = Progress.WAITS
        self.path: Path | None = None
        self.log = Log()
        self._offset = 0

    def save(self, path: Path) -> None:
        """Copies the log, if there is one, to where it stays."""
        if self.path:
            self.path = Path(shutil.copyfile(self.path, path))

    def read(self, now: float) -> Iterator[StageTime]:
        """Reads what is new in the log; yields the stages that have ended."""
        if self.path is None:
            return
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            *lines, rest = file.read().split(b"\n")
            self._offset = file.tell() - len(rest)
            for line in lines:
                yield from self.log.read(line.decode("utf-8", "replace"), now)


class Queue:
    """DVC's queue of experiments in a clone, with a group of stages in each experiment."""

    def __init__(
        self, folder: Path, run_folder: Path, environment: Mapping[str, str], workers: int, options: Sequence[str] = ()
    ) -> None:
        """Nothing is queued yet.

        Args:
            folder: the clone.
            run_folder: that the environment names as the run's.
            environment: for DVC and what it starts.
            workers: how many experiments may run at once.
            options: of `dvc repro`, by which groups run.
        """
        self._folder, self._run_folder, self._environment = folder, run_folder, environment
        self._workers, self._options = workers, options
        self._queue = Repo(str(folder)).experiments.celery_queue
        self._started = 0.0
        self._seen = False
        self.jobs: dict[str, Job] = {}

    def put(self, groups: Sequence[Group], meanwhile: Callable[[], None] | None = None) -> None:
        """Queues groups as experiments, and starts workers for them: those that find nothing to do end after 10 s.

        Args:
            groups: that are not in the queue.
            meanwhile: is called every second or so, since this takes some.
        """
        commands = [["exp", "run", "--queue", *self._options, "--name", one.name, *one.targets] for one in groups]
        running = sum(job.progress is Progress.RUNS for job in self.jobs.values())
        self._dvc([*commands, ["queue", "start", "--jobs", str(min(self._workers, running + len(groups)))]], meanwhile)
        self.jobs |= {group.name: Job(group) for group in groups}
        self._started, self._seen = time.monotonic(), False

    def _dvc(self, commands: Sequence[Sequence[str]], meanwhile: Callable[[], None] | None) -> None:
        with TemporaryFile() as output:  # no pipe: workers that are started keep it open
            command = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(commands)]
            if status := run(command, self._folder, self._environment, output=output, meanwhile=meanwhile):
                output.seek(0)
                said = output.read().decode("utf-8", "replace").strip()
                raise UserError(f"DVC's queue: status {status}: {said}")

    def poll(self) -> Iterator[StageTime]:
        """Looks how far the jobs are; yields the stages that have ended since."""
        now = time.monotonic()
        workers = self._count_workers()
        for revision in list(self._queue.proc):
            with suppress(KeyError, ValueError, FileNotFoundError, ParseError):  # about to be written
                info = ExecutorInfo.load_json(self._queue.get_infofile_path(revision))
                process = self._queue.proc[revision]
                job = self.jobs[info.name or ""]
                if job.progress in (Progress.WAITS, Progress.RUNS):
                    job.progress, job.path = Progress.RUNS, Path(process.stdout)
                    runs = is_running(process.pid)  # asked before the log is read, which is complete if it has ended
                    yield from job.read(now)
                    if not runs:
                        yield from self._ended(job, revision, now)
        self._give_up(workers, now)

    def _ended(self, job: Job, revision: str, now: float) -> Iterator[StageTime]:
        if ExecutorInfo.load_json(self._queue.get_infofile_path(revision)).result_hash:
            job.progress = Progress.DONE
            yield from job.log.end(now)
        else:
            job.progress = Progress.FAILED

    def _count_workers(self) -> int:
        processes = belonging_to(self._run_folder)
        count = 0
        for process in processes:
            with suppress(psutil.Error):
                count += "queue-worker" in process.cmdline()
        self._seen = self._seen or count > 0
        return count

    def _give_up(self, workers: int, now: float) -> None:
        """What waits, and has no worker left to wait for, has failed."""
        if workers or not (self._seen or now - self._started > LONGEST_START):
            return
        for job in self.jobs.values():
            if job.progress is Progress.WAITS:
                job.progress = Progress.FAILED
                job.path = next(iter(sorted(Path(self._queue.wdir).glob("*.out"))), None)

    @property
    def waits(self) -> bool:
        """Whether a job waits for a worker."""
        return any(job.progress is Progress.WAITS for job in self.jobs.values())

    @property
    def is_finished(self) -> bool:
        """Whether no job waits or runs."""
        return all(job.progress in (Progress.DONE, Progress.FAILED) for job in self.jobs.values())
