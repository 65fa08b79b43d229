"""What the command starts, found again by a variable of the environment, and ended together."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

VARIABLE = "NEWLLM_PARALLEL"  # names the folder of the run to which a process belongs, and all that it starts
# signals, with the seconds until the next: at first as at Ctrl-C, so that trainings write their states
GENTLY = ((signal.SIGINT, 4.0), (signal.SIGINT, 3.0), (signal.SIGKILL, 1.0))
TURN = 1.0  # seconds between two looks at what runs
AT_ONCE = ((signal.SIGKILL, 1.0),)


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
    output: IO[bytes] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Runs a command until it ends and returns its status.

    It runs in a process group of its own: at Ctrl-C on a terminal this process alone gets the signal. Then, as at any
    error of `on_line` or `meanwhile`, it ends all of its run, which the environment names.

    Args:
        command: and its arguments.
        folder: where it runs.
        environment: with `VARIABLE`.
        on_line: gets each line that the command, or anything that it leaves running, writes.
        output: a file that gets all that is written, without `on_line`; the standard output without either.
        meanwhile: is called every second or so until it ends, without `on_line`.
    """
    with subprocess.Popen(  # noqa: S603 (arguments are not a shell's)
        command,
        cwd=folder,
        env=environment,
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if on_line else output,
        stderr=subprocess.STDOUT if on_line or output else None,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                assert on_line  # noqa: S101 (as there is a pipe)
                on_line(line.rstrip("\n"))
            while meanwhile:
                try:
                    return process.wait(TURN)
                except subprocess.TimeoutExpired:
                    meanwhile()
            return process.wait()
        except BaseException:
            end_run(Path(environment[VARIABLE]))
            raise


def end_run(folder: Path) -> None:
    """Ends all of the run in `folder` within 10 s.

    What DVC's queue runs is ended at once, for it has nothing to save, takes seconds to say so, and workers would begin
    the next experiment; a stage gets the time to write its state.
    """
    end([process for process in belonging_to(folder) if _is_of_queue(process)], AT_ONCE)
    end(belonging_to(folder))


def _is_of_queue(process: psutil.Process) -> bool:
    """Whether it is a worker, what has started it, or DVC in the copy of an experiment."""
    with suppress(psutil.Error):
        return not {"queue", "queue-worker", "exec-run"}.isdisjoint(process.cmdline())
    return False


def belonging_to(folder: Path) -> list[psutil.Process]:
    """All processes of the run in `folder`, whoever started them, except this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == str(folder):
                found.append(process)
    return found


def end(processes: Sequence[psutil.Process], turns: Sequence[tuple[signal.Signals, float]] = GENTLY) -> None:
    """Ends processes by one signal after the other."""
    with _signals_ignored():
        for number, seconds in turns:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            until = time.monotonic() + seconds
            while (
                processes := [process for process in processes if is_running(process.pid)]
            ) and time.monotonic() < until:
                time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that has, and for which nobody waits, is still listed."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not interrupt what the first has begun."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
