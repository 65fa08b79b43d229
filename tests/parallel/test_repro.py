"""`python -m newllm.parallel` on a pipeline of toys: what fails, what is left, and what is the user's."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.lock import LockError
from dvc.repo import Repo

from newllm.errors import UserError
from newllm.parallel import repro
from newllm.parallel.__main__ import SIGNALS, _end
from newllm.parallel.groups import Group
from newllm.parallel.processes import VARIABLE, belonging_to
from newllm.parallel.queue import Job, Progress, Queue
from newllm.parallel.repro import Plan, Workspace, alone
from newllm.runtime.git import isolated
from newllm.runtime.gpus import Gpu

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("parallel")]

ROOT = Path(__file__).parent.parent.parent
PIPELINE = """
stages:
  data:
    cmd: python work.py data
    deps: [work.py]
    outs: [data]
  train:
    foreach: [1, 2, 3]
    do:
      cmd: python work.py models/${item} data
      deps: [work.py, helper.py, data]
      outs: ["models/${item}"]
  evaluate:
    foreach: [1, 2, 3]
    do:
      cmd: python work.py metrics/${item}.json models/${item}
      deps: [work.py, "models/${item}"]
      metrics: ["metrics/${item}.json": {cache: false}]
  report:
    cmd: python work.py report.json metrics/1.json metrics/2.json metrics/3.json
    deps: [work.py, metrics]
    metrics: [report.json: {cache: false}]
"""
MORE = """
  more:
    foreach: [1, 2]
    do:
      cmd: python work.py metrics/more-${item}.json metrics/${item}.json data
      deps: [work.py, data, "metrics/${item}.json"]
      metrics: ["metrics/more-${item}.json": {cache: false}]
"""
WORK = """
import json, os, pathlib, sys, time
output, *inputs = sys.argv[1:]
if output == os.environ.get("BROKEN"):
    sys.exit("this stage is broken")
if output.startswith("models"):
    import helper
pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
value = sum(len(pathlib.Path(name).read_text()) for name in inputs)
# as of a training on a GPU, no two of which are equal to the last bit
unlike = {"began": time.time_ns()} if output.startswith("models") else {}
pathlib.Path(output).write_text(json.dumps({"value": value, **unlike}))
"""


class Toy:
    """A project in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, status: int = 0, **variables: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = isolated(os.environ) | {"PATH": path, "PYTHONPATH": str(ROOT / "src")} | variables
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, output
        return output

    def parallel(self, *arguments: str, status: int = 0, **variables: str) -> str:
        output = self.run(sys.executable, "-m", "newllm.parallel", *arguments, status=status, **variables)
        assert "Traceback" not in output
        return output

    def users(self) -> str:
        """What is the user's: references, among them experiments and what is queued, and files that git sees."""
        references = self.run("git", "for-each-ref", "--format=%(refname) %(objectname)")
        queued = sorted(path.name for path in (self.folder / ".dvc/tmp/exps/celery/broker/in").iterdir())
        return f"{references}\n{queued}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """With a queued experiment of the user's, and changes that are not committed."""
    toy = Toy(tmp_path_factory.mktemp("a toy"))
    (toy.folder / "dvc.yaml").write_text(PIPELINE)
    (toy.folder / "work.py").write_text("raise SystemExit('the committed code')")
    toy.run("git", "init", "--quiet")
    toy.run("dvc", "init", "--quiet")
    toy.run("git", "add", "--all")
    toy.run("git", "commit", "--quiet", "--message", "All")
    toy.run("dvc", "exp", "run", "--queue", "--name", "mine", "data")
    (toy.folder / "work.py").write_text(WORK)
    (toy.folder / "helper.py").write_text("# new\n")
    return toy


def test_a_failed_stage_lets_the_others_finish_and_nothing_is_left(toy: Toy) -> None:
    users = toy.users()
    output = toy.parallel("--jobs", "2", status=1, BROKEN="models/2")
    log = toy.folder / ".dvc/tmp/parallel/train@2.log"
    assert f"error: train@2 has failed; its log, {log}, ends so:" in output
    assert "this stage is broken" in output
    assert "this stage is broken" in log.read_text()
    done = ["metrics/1.json", "metrics/3.json", "models/1", "models/3"]
    assert sorted(str(path.relative_to(toy.folder)) for path in toy.folder.glob("m*s/*[0-9n]")) == done
    assert sorted(path.name for path in log.parent.iterdir()) == ["lock", "train@2.log"]
    assert toy.users() == users
    assert belonging_to(log.parent) == []

    # what failed alone is computed
    output = toy.parallel("--jobs", "2")
    assert [line for line in output.splitlines() if line.startswith("Running stage")] == [
        f"Running stage '{name}':" for name in ("train@2", "evaluate@2", "report")
    ]
    assert sorted(path.name for path in log.parent.iterdir()) == ["lock"]
    assert toy.users() == users
    assert "Queued" in toy.run("dvc", "queue", "status")


def test_what_is_missing_is_not_computed_again_for_what_does_not_need_it(toy: Toy) -> None:
    """As on a machine that has the results of git and not the weights."""
    toy.run("dvc", "repro", "--quiet")
    for lost in (toy.folder / "models", toy.folder / ".dvc/cache"):
        shutil.rmtree(lost)
    (toy.folder / "data").unlink()
    pipeline = toy.folder / "dvc.yaml"
    before = pipeline.read_text()
    pipeline.write_text(before.replace(" metrics/3.json\n", "\n"))
    assert "Running stage 'report'" in toy.parallel("--jobs", "2", "--allow-missing")
    assert not (toy.folder / "data").exists(), "which no stage needed"
    pipeline.write_text(before + MORE)
    output = toy.parallel("--jobs", "2", "--allow-missing")
    assert "2 groups of stages are out of date, 2 at once: more@2, more@1" in output
    assert not (toy.folder / "models").exists()
    assert {path.name for path in (toy.folder / "metrics").glob("more-*")} == {"more-1.json", "more-2.json"}
    for jobs in ("1", "2"):
        assert "Running stage" not in toy.parallel("--jobs", jobs, "--allow-missing")
    pipeline.write_text(before)
    toy.parallel("--jobs", "2")


def test_what_no_clone_can_have_is_used_in_the_project(toy: Toy) -> None:
    """Weights that are in the project, and that the cache has lost."""
    toy.run("dvc", "repro", "--quiet")
    shutil.rmtree(toy.folder / ".dvc/cache")
    pipeline = toy.folder / "dvc.yaml"
    before = pipeline.read_text()
    pipeline.write_text(before.replace('deps: [work.py, "models/${item}"]', 'deps: [helper.py, "models/${item}"]'))
    output = toy.parallel("--jobs", "2", "--allow-missing")
    assert "Running stage 'train@" not in output
    assert [f"Running stage 'evaluate@{depth}'" in output for depth in (1, 2, 3)] == [True] * 3
    pipeline.write_text(before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
def test_at_the_end_it_waits_for_whoever_has_locked_the_project(toy: Toy) -> None:
    toy.run("dvc", "repro", "--quiet")
    workspace = Workspace(toy.folder, {})
    with Repo(str(toy.folder)) as other:
        other.lock.lock()
        with pytest.raises(LockError):
            workspace.restore([])
        opening = threading.Timer(1.0, other.lock.unlock)
        opening.start()
        assert workspace.restore([], wait=True).changed == set()
        opening.join()


def test_what_another_has_computed_is_taken_though_dvc_lock_names_what_is_lost(toy: Toy, tmp_path: Path) -> None:
    """As of machines that share a cache, and begin with the results of git, whose weights nobody has."""
    toy.run("dvc", "repro", "--quiet")
    source = Toy(tmp_path / "source")
    shutil.copytree(toy.folder, source.folder, ignore=shutil.ignore_patterns("cache", "models", "data", "tmp"))
    source.run("git", "add", "--all")
    source.run("git", "commit", "--quiet", "--message", "Results")
    node, other = Toy(tmp_path / "node"), Toy(tmp_path / "other")
    for clone in (node, other):
        source.run("git", "clone", "--quiet", str(source.folder), str(clone.folder))
        clone.run("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    assert "Running stage 'train@1'" in node.run("dvc", "repro", "evaluate")
    trained = [path.read_bytes() for path in sorted(node.folder.glob("models/[0-9]"))]
    assert len(trained) == 3
    assert "Running stage" not in other.parallel("--jobs", "2")
    assert [path.read_bytes() for path in sorted(other.folder.glob("models/[0-9]"))] == trained
    assert "Running stage" not in other.run("dvc", "repro")

    # what dvc.lock names, and the cache has, is preferred to what was computed later
    lock, model = other.folder / "dvc.lock", other.folder / "models/1"
    before = lock.read_bytes()
    other.run("dvc", "repro", "--quiet", "--force", "--single-item", "train@1")
    assert model.read_bytes() != trained[0]
    lock.write_bytes(before)
    model.unlink()
    assert "Running stage" not in other.parallel("--jobs", "2")
    assert model.read_bytes() == trained[0]


def test_what_has_changed_meanwhile_is_not_computed_in_the_project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy.folder / "helper.py").write_text("# changed\n")
    monkeypatch.chdir(toy.folder)
    place = toy.folder / ".dvc/tmp/parallel"
    workspace = Workspace(toy.folder, isolated(os.environ) | {VARIABLE: str(place)})
    with pytest.raises(UserError, match=r"train@1: .* changed meanwhile; run the same command again"):
        workspace.repro(["train@1"], [Group(("train@1", "evaluate@1"), ("evaluate@1",))])
    assert belonging_to(place) == []


def test_what_waits_without_a_worker_has_failed(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(toy.folder, toy.folder / "run", {}, 2)
    queue.jobs["train@1"] = job = Job(Group(("train@1",), ("train@1",)))
    monkeypatch.setattr(queue, "_dvc", lambda *_: None)
    queue.put([])
    assert list(queue.poll()) == []
    assert job.progress is Progress.WAITS, "workers may be about to start"
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 100)
    assert list(queue.poll()) == []
    assert job.progress is Progress.FAILED
    assert queue.is_finished


def test_groups_need_what_is_common_and_what_is_up_to_date_of_their_own() -> None:
    groups = [Group((f"train@{i}", f"evaluate@{i}"), (f"evaluate@{i}",)) for i in (1, 2, 3)]
    plan = Plan(["data"], groups, {"evaluate@2", "train@3", "report"}, False)
    assert plan.needed == {"data", "train@2", "evaluate@3"}


@pytest.mark.parametrize(("workers", "started"), [(2, ["2", "2", "2"]), (6, ["2", "3", "4"])])
def test_whatever_is_queued_starts_its_worker(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, workers: int, started: list[str]
) -> None:
    """Workers end ten seconds after the queue is empty, and so may have ended before more is queued."""
    queue = Queue(toy.folder, toy.folder / "run", {}, workers)
    commands: list[list[str]] = []
    monkeypatch.setattr(queue, "_dvc", lambda given, _: commands.extend(given))
    for names in (("train@3", "train@2"), ("train@1",), ("train@4",)):
        queue.put([Group((name,), (name,)) for name in names])
        for job in queue.jobs.values():
            job.progress = Progress.RUNS
    assert [command[-1] for command in commands if command[:2] == ["queue", "start"]] == started
    assert [command[-1] for command in commands if command[0] == "exp"] == ["train@3", "train@2", "train@1", "train@4"]


class Workers:
    """In the place of DVC's queue: takes a group at each look, the last that was put first, and ends it at the next.

    As many groups run at once as there are workers, which end where nothing waits.
    """

    def __init__(self, *arguments: Any) -> None:
        self.jobs: dict[str, Job] = {}
        self.taken: list[str] = []
        self.at_once = 0
        self.all, self.count = arguments[3], 0

    def put(self, groups: list[Group], meanwhile: Callable[[], None] | None = None) -> None:
        assert meanwhile or not self.jobs, "queueing takes seconds, in which stages end that run already"
        self.jobs |= {group.name: Job(group) for group in groups}
        self.count = self.all

    def poll(self) -> list[object]:
        running = [job for job in self.jobs.values() if job.progress is Progress.RUNS]
        waiting = [job for job in self.jobs.values() if job.progress is Progress.WAITS]
        self.at_once = max(self.at_once, len(running))
        if waiting and len(running) < self.count:
            waiting[-1].progress = Progress.RUNS
            self.taken.append(waiting[-1].group.name)
            running.append(waiting.pop())
        elif running:
            running[0].progress = Progress.DONE
        if not waiting:
            self.count = len(running)
        return []

    waits, is_finished = Queue.waits, Queue.is_finished


def test_the_longest_begin_first_on_all_workers_whatever_order_the_queue_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues: list[Workers] = []

    def started(*arguments: Any) -> Workers:
        queues.append(Workers(*arguments))
        return queues[0]

    monkeypatch.setattr(repro, "Queue", started)
    monkeypatch.setattr(repro, "TURN", 0)
    monkeypatch.setattr(Workspace, "clone", lambda *_: {})
    groups = [Group((f"train@{depth}",), (f"train@{depth}",)) for depth in (8, 7, 6, 5, 4, 3)]
    assert repro._run_beside(Workspace(tmp_path, {}), tmp_path, groups, [], 2, 4) == []
    (queue,) = queues
    assert queue.at_once == 4, "two that begin, and two that wait for them"
    assert sorted(queue.taken[:2]) == ["train@7", "train@8"]
    assert queue.taken[2:] == ["train@6", "train@5", "train@4", "train@3"]


@pytest.mark.parametrize(("jobs", "workers", "devices"), [(1, 3, "a"), (2, 6, "a,b"), (8, 8, "a,b")])
def test_each_gpu_has_a_group_that_waits_for_it(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, jobs: int, workers: int, devices: str
) -> None:
    asked: list[object] = []

    def beside(workspace: Workspace, *arguments: Any) -> list[Job]:
        asked.extend([workspace._variables["CUDA_VISIBLE_DEVICES"], *arguments[-2:]])
        raise UserError("seen")

    monkeypatch.chdir(toy.folder)
    monkeypatch.setattr(repro, "_run_beside", beside)
    groups = [Group((name,), (name,)) for name in ("train@1", "train@2")]
    plan = Plan([], groups, {"train@1", "train@2"}, False)
    monkeypatch.setattr(Workspace, "restore", lambda *_: plan)
    with pytest.raises(UserError, match="seen"):
        repro.repro(toy.folder, jobs, [], [Gpu("a", "a", "A"), Gpu("b", "b", "B")][:jobs])
    assert asked == [devices, jobs, workers]


def test_what_was_computed_is_restored_though_the_project_is_locked(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """By waiting for whoever has locked it; before, that is an error at once."""
    groups = [Group((name,), (name,)) for name in ("train@1", "train@2")]
    waits: list[bool] = []
    commands: list[list[str]] = []

    def restore(*_: object, wait: bool = False) -> Plan:
        waits.append(wait)
        return Plan([], groups, {"train@1", "train@2"}, False)

    def run(command: list[str], *_: object) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(Workspace, "restore", restore)
    monkeypatch.setattr(repro, "_run_beside", lambda *_: [])
    monkeypatch.setattr(repro, "run", run)
    repro.repro(toy.folder, 2, [])
    assert waits == [False, True]
    assert [command[len(repro.DVC) :] for command in commands] == [["--wait-for-lock", "repro"]]


def test_what_a_killed_run_has_left_is_ended_and_removed(tmp_path: Path) -> None:
    place = tmp_path / "parallel"
    (place / "project" / "copies").mkdir(parents=True)
    (place / "train@1.log").write_text("of a failure before")
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); signal.pause()"
    left = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={VARIABLE: str(place)})
    assert left.stdout
    assert left.stdout.readline() == b"ready\n"
    with alone(place):
        assert left.wait() == -signal.SIGINT
        assert [path.name for path in place.iterdir()] == ["lock"]
        (place / "project").mkdir()
        with pytest.raises(UserError, match="parallel: another such command runs here"), alone(place):
            pass
        assert (place / "project").exists()
    assert [path.name for path in place.iterdir()] == ["lock"]
    left.stdout.close()


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    assert "found no dvc.yaml" in Toy(tmp_path).parallel("--jobs", "2", status=1)


@pytest.mark.parametrize("name", ["prøj", "a#b", "why?"])
def test_a_folder_in_which_dvcs_queue_does_not_work_is_refused(name: str, tmp_path: Path) -> None:
    project = tmp_path / name
    (project / ".dvc").mkdir(parents=True)
    (project / "dvc.yaml").touch()
    with pytest.raises(UserError, match=r"in the folder's name, expected none"):
        repro.repro(project, 2, [])


def test_errors_of_the_disk_name_the_place(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "tmp").write_text("a file where a folder should be")
    (tmp_path / "dvc.yaml").touch()
    assert f"error: {tmp_path}/.dvc/tmp/parallel: " in Toy(tmp_path).parallel("--jobs", "2", status=1)


def test_a_second_signal_does_not_interrupt_the_first() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            _end(signal.SIGINT, None)
        assert ended.value.code == 130
        assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_less_than_one_job_is_refused(tmp_path: Path) -> None:
    assert "--jobs: found 0, expected 1 or more" in Toy(tmp_path).parallel("--jobs", "0", status=2)
