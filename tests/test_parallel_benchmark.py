"""The benchmark of several jobs: what it writes, from runs that are made up."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parallel
from benchmarks.parallel import BEGIN, END, add, begin, is_ready, table, timed, write_notes
from newllm.errors import UserError

GPU = "GPU 0, NVIDIA H100"


def made_up(project: Path, name: str, code: str) -> None:
    """A module that stands in for DVC or for newllm.parallel."""
    path = project / "src" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)


def test_the_seconds_of_trainings_are_read_from_both_commands(tmp_path: Path) -> None:
    made_up(
        tmp_path,
        "dvc.py",
        f"""
import time
print("Running stage 'train@1':", flush=True)
print("train@1: on {GPU}, GPU-1", flush=True)
time.sleep(0.6)
print("Running stage 'evaluate@1':")
""",
    )
    seconds, trainings = timed(tmp_path, 1)
    assert seconds > 0.6
    assert [(row["stage"], row["gpu"]) for row in trainings] == [("train@1", f"{GPU}, GPU-1")]
    assert 1 <= trainings[0]["seconds"] <= round(seconds)
    made_up(tmp_path, "newllm/__init__.py", "")
    made_up(
        tmp_path,
        "newllm/parallel.py",
        f"""
import sys
assert sys.argv[1:] == ["--jobs", "2", "evaluate", "diagnose"]
print("train@2: begins\\ntrain@2: 12 s on {GPU}, GPU-1\\nevaluate@2: 3 s\\ntrain@1: 7 s")
""",
    )
    _, trainings = timed(tmp_path, 2)
    assert trainings == [
        {"stage": "train@1", "gpu": None, "seconds": 7},
        {"stage": "train@2", "gpu": f"{GPU}, GPU-1", "seconds": 12},
    ]


def test_a_failed_run_is_no_measurement(tmp_path: Path) -> None:
    made_up(tmp_path, "dvc.py", "raise SystemExit(3)")
    with pytest.raises(UserError, match="ended with status 3"):
        timed(tmp_path, 1)


def test_numbers_of_jobs_come_together_if_they_are_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "git", lambda *_: "0123456789abcdef")
    results = begin(tmp_path / "none.json", [GPU, GPU.replace("0", "1", 1)])
    assert (results["device"], results["gpus"], results["git_commit"]) == ("NVIDIA H100", 2, "0123456789abcdef")
    add(results, 2, 60.0, [{"stage": "train@8", "gpu": GPU, "seconds": 30}])
    assert results["rows"] == [{"jobs": 2, "seconds": 60.0, "speedup": None}]
    file = tmp_path / "found.json"
    parallel.write_json(file, results)
    again = begin(file, [GPU, GPU])
    alone = [{"stage": "train@8", "gpu": GPU, "seconds": 29}]
    add(again, 1, 90.0, alone)
    assert again["rows"] == [
        {"jobs": 1, "seconds": 90.0, "speedup": 1.0},
        {"jobs": 2, "seconds": 60.0, "speedup": 1.5},
    ]
    add(again, 3, 45.0, results["trainings"])
    assert again["trainings"] == alone, "those of the fewest jobs"
    assert begin(file, [GPU])["rows"] == [], "another machine"


RESULTS: dict[str, Any] = {
    "device": "NVIDIA H100",
    "gpus": 4,
    "git_commit": "0123456789abcdef",
    "date": "2026-11-26",
    "rows": [{"jobs": 1, "seconds": 720.0, "speedup": 1.0}, {"jobs": 4, "seconds": 200.0, "speedup": 3.6}],
    "trainings": [{"stage": f"train@{depth}", "gpu": GPU, "seconds": 10 * depth} for depth in range(1, 9)],
}


def test_the_table_has_what_the_file_has_and_a_sweep() -> None:
    lines = table(RESULTS).splitlines()
    assert "| 1 | 720 | 1.00 |" in lines
    assert "| 4 | 200 | 3.60 |" in lines
    # 1,000 recipes with ten seeds are 2,000 times five seeds of one: 2,000 x 720 s = 400 hours
    assert "| 1 | 16.7 days |" in lines
    assert "| 4 | 4.2 days |" in lines
    assert "| 64 | 6.2 hours |" in lines
    assert "| 1,024 | 0.4 hours |" in lines
    assert any("`train@8`, 80 s" in line and "360 s" in line for line in lines)


def test_the_notes_get_the_table_between_their_marks(tmp_path: Path) -> None:
    notes = tmp_path / "NOTES.md"
    notes.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_notes(notes, RESULTS)
    assert notes.read_text() == f"before\n{BEGIN}\n{table(RESULTS)}\n{END}\nafter\n"
    marks = parallel.NOTES.read_text()
    assert (marks.count(BEGIN), marks.count(END)) == (1, 1)


def test_changes_that_are_not_committed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "git", lambda *_: " M src/newllm/files.py")
    monkeypatch.setattr(sys, "argv", ["parallel", "--jobs", "1", "--folder", str(tmp_path)])
    with pytest.raises(UserError, match="changes that are not committed"):
        parallel.main()


def test_what_was_trained_or_is_of_another_commit_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {tmp_path: "a", parallel.ROOT: "a"}
    monkeypatch.setattr(parallel, "git", lambda folder, *_: commits[folder])
    assert not is_ready(tmp_path), "no data"
    (tmp_path / "data" / "windows").mkdir(parents=True)
    assert is_ready(tmp_path)
    commits[parallel.ROOT] = "b"
    assert not is_ready(tmp_path)
    commits[tmp_path] = "b"
    (tmp_path / "models" / "1").mkdir(parents=True)
    assert not is_ready(tmp_path)


def test_notes_without_a_file_say_what_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "FILE", tmp_path / "none.json")
    monkeypatch.setattr(sys, "argv", ["parallel", "--notes"])
    with pytest.raises(UserError, match=r"none\.json: no such file; run `python -m benchmarks\.parallel`"):
        parallel.main()
