"""Processes of a run are found by their environment, and end in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from newllm.parallel import processes
from newllm.parallel.processes import VARIABLE, belonging_to, end, is_running, run

WAITS = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + WAITS
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAITS!r}]); " + WAITS


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes that belong to a run, one that belongs to another."""
    made = {}
    for name, code in {"waits": WAITS, "stubborn": STUBBORN, "parent": WITH_CHILD, "other": WAITS}.items():
        folder = tmp_path / "other" if name == "other" else tmp_path
        made[name] = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {VARIABLE: str(folder)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    for process in (*made.values(), made["parent"]):  # of which the child says so too
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    yield made
    for process in made.values():
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_all_of_a_run_ends_and_nothing_else(started: dict[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    found = belonging_to(tmp_path)
    children = psutil.Process(started["parent"].pid).children()
    assert {process.pid for process in found} == {
        *(started[name].pid for name in ("waits", "stubborn", "parent")),
        *(child.pid for child in children),
    }
    assert len(children) == 1
    end(found, ((signal.SIGINT, 0.5), (signal.SIGKILL, 5.0)))
    assert not any(is_running(process.pid) for process in found)
    assert started["other"].poll() is None
    assert started["waits"].wait() == -signal.SIGINT
    assert started["stubborn"].wait() == -signal.SIGKILL
    assert belonging_to(tmp_path) == []


class Interrupting:
    """A process that has ended by itself just before, while the user presses Ctrl-C a second time."""

    pid = -1

    def send_signal(self, _: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise psutil.NoSuchProcess(self.pid)


def test_a_second_signal_does_not_interrupt_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "is_running", lambda _: False)
    before = signal.getsignal(signal.SIGINT)
    end([Interrupting()])
    assert signal.getsignal(signal.SIGINT) == before


def test_a_command_gives_its_lines_and_its_status(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import os, sys; print('out'); sys.stdout.flush(); print(os.getcwd(), file=sys.stderr); sys.exit(3)"
    environment = os.environ | {VARIABLE: str(tmp_path)}
    assert run([sys.executable, "-c", code], tmp_path, environment, lines.append) == 3
    assert lines == ["out", str(tmp_path.resolve())]
    with (tmp_path / "output").open("wb") as output:
        assert run([sys.executable, "-c", code], tmp_path, environment, output=output) == 3
    assert (tmp_path / "output").read_text().splitlines() == lines


def test_an_error_ends_the_command_and_all_of_its_run(tmp_path: Path) -> None:
    environment = os.environ | {VARIABLE: str(tmp_path)}
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run([sys.executable, "-c", WITH_CHILD], tmp_path, environment, lambda line: 1 // (line != "ready"))
    assert time.monotonic() - began < 8
    assert belonging_to(tmp_path) == []


def test_something_is_done_while_a_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TURN", 0.05)
    looks: list[float] = []
    command = [sys.executable, "-c", "import time; time.sleep(0.4); raise SystemExit(3)"]
    environment = os.environ | {VARIABLE: str(tmp_path)}
    assert run(command, tmp_path, environment, meanwhile=lambda: looks.append(time.monotonic())) == 3
    assert len(looks) > 2
    with pytest.raises(KeyError):
        run([sys.executable, "-c", WAITS], tmp_path, environment, meanwhile=lambda: {}["an error"])
    assert belonging_to(tmp_path) == []
