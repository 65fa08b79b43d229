"""What is read from DVC's lines about stages."""

from pathlib import Path

from rich.console import Console

from newllm.parallel.display import Display
from newllm.parallel.groups import Group
from newllm.parallel.log import Log, StageTime
from newllm.parallel.queue import Job, Progress

LINES = [
    (0, "Stage 'tokenize' didn't change, skipping"),
    (1, "Running stage 'train@1':"),
    (2, "> python -m stages.train --num-layers 1"),
    (3, "train@1: on GPU 1, NVIDIA H100, GPU-12"),
    (4, "1 layer, seed 0: epoch 1/2, train loss 3.0"),
    (9, "Updating lock file 'dvc.lock'"),
    (9, ""),
    (10, "Running stage 'evaluate@1':"),
    (13, "Running stage 'diagnose@1':"),
    (15, "diagnose@1: waits for one of these GPUs (GPU 1, NVIDIA H100: train@2, process 12)"),
    (18, "diagnose@1: on GPU 1, NVIDIA H100, GPU-12"),
]


def test_stages_with_their_gpus_and_seconds() -> None:
    log = Log()
    ended = [stage for now, line in LINES for stage in log.read(line, now)]
    assert ended == [StageTime("train@1", "GPU 1, NVIDIA H100, GPU-12", 8), StageTime("evaluate@1", None, 3)]
    assert log.stage == "diagnose@1"
    assert list(log.end(20)) == [StageTime("diagnose@1", "GPU 1, NVIDIA H100, GPU-12", 4)], "without the wait"
    assert log.stage is None
    assert list(log.end(30)) == []


def test_the_last_line_is_the_last_with_something_in_it() -> None:
    log = Log()
    for line in ("one", "  two", "", " "):
        assert list(log.read(line, 0)) == []
    assert log.last == "two"


def test_a_log_is_read_as_it_grows_by_whole_lines(tmp_path: Path) -> None:
    job = Job(Group(("train@1",), ("train@1",)))
    assert list(job.read(0)) == []
    job.path = tmp_path / "log"
    assert list(job.read(0)) == []
    with job.path.open("wb", buffering=0) as file:
        file.write(b"Running stage 'train@1':\nRunning sta")
        assert list(job.read(1)) == []
        assert job.log.last == "Running stage 'train@1':"
        file.write("ge 'täst':\n".encode())
        assert list(job.read(3)) == [StageTime("train@1", None, 2)]
    assert job.log.stage == "täst"


def job(name: str, progress: Progress, last: str = "") -> Job:
    made = Job(Group((name,), (name,)))
    made.progress, made.log.last = progress, last
    return made


def test_a_terminal_shows_every_running_job_and_counts_all() -> None:
    console = Console(force_terminal=True, width=60, record=True, highlight=False)
    jobs = [job("train@8", Progress.RUNS, "epoch 7/9, 0:12 left"), job("train@1", Progress.WAITS)]
    jobs += [job("train@2", Progress.DONE), job("train@3", Progress.DONE), job("train@4", Progress.FAILED)]
    with Display(console) as display:
        display.ended(StageTime("train@2", "GPU 0, a name", 61.4))
        display.show(jobs)
    text = console.export_text()
    assert "train@8  epoch 7/9, 0:12 left" in text
    assert "1 waits, 1 runs, 2 done, 1 failed" in text
    assert "train@2: 61 s on GPU 0, a name" in text


def test_elsewhere_a_job_has_a_line_now_and_then() -> None:
    console = Console(force_terminal=False, record=True)
    running = job("train@8", Progress.RUNS, "epoch 1/9")
    with Display(console) as display:
        display.show([running])
        running.log.last = "epoch 2/9"
        display.show([running])
    assert console.export_text() == "train@8: epoch 1/9\n"
