"""Killed trainings go on where they were, and end with the bits of those that were not killed."""

import itertools
import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from newllm.errors import UserError
from newllm.runtime import provenance, resume
from newllm.runtime.provenance import digest, identity
from newllm.runtime.resume import State, StateStore, folder_of_states, generations, is_locked
from newllm.studies.expansion import grow, grown_shape, is_new
from newllm.training import trainer
from newllm.training.records import EpochRow, Training
from newllm.training.stack import Start
from newllm.training.trainer import StackTrainer
from tests.training.fitting import fit
from tests.training.test_trainer import DATA, SHAPE, settings

ROOT = Path(__file__).parents[2]
PATIENT = settings(epochs=6)
IMPATIENT = settings(epochs=30, base_learning_rate=0.1, patience=4)  # its seeds stop early, at different epochs


class Killed(BaseException):
    """What no handler sees: as if the process ended here."""


@pytest.fixture(autouse=True)
def always_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings as short as these would write few states."""
    monkeypatch.setattr(resume, "LARGEST_SHARE", math.inf)


def kept(folder: Path, every: int = 1, **changes: object) -> StateStore:
    return StateStore(folder, "train@2", {"of": "a test"} | changes, every)


def run(folder: Path, config: Any, every: int = 1, **options: Any) -> Training:
    with kept(folder, every) as where:
        return fit(SHAPE, 0.1, config, DATA, store=where, **options)


def assert_same(found: Training, expected: Training) -> None:
    """Bit for bit, times apart."""
    for name, value in expected.parameters.items():
        assert torch.equal(found.parameters[name], value), name
    assert [replace(row, seconds=0) for row in found.curves] == [replace(row, seconds=0) for row in expected.curves]
    without_times = {"train_seconds": 0, "tokens_per_second": 0}
    assert [replace(result, **without_times) for result in found.results] == [
        replace(result, **without_times) for result in expected.results
    ]


def killed_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    original, count = StackTrainer.next_step, 0

    def next_step(self: StackTrainer, size: int) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        original(self, size)

    monkeypatch.setattr(StackTrainer, "next_step", next_step)


@pytest.mark.parametrize("config", [PATIENT, IMPATIENT], ids=["patient", "impatient"])
@pytest.mark.parametrize(("places", "every"), [(1, 3), (2, 1), (3, 1)])
def test_killed_again_and_again_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, places: int, every: int
) -> None:
    expected = fit(SHAPE, 0.1, config, DATA, places=places)
    kills = 0
    while True:
        with monkeypatch.context() as patch:
            killed_at_step(patch, 10 * every + 7 * (kills % 7) + 2)  # 10 steps an epoch
            try:
                found = run(tmp_path, config, every, places=places)
                break
            except Killed:
                kills += 1
    assert kills >= 2
    assert config is PATIENT or len({result.epochs_run for result in found.results}) > 1, "seeds left the stack"
    assert_same(found, expected)
    assert not [*tmp_path.glob("*")], "states of a finished training are removed"


def test_times_of_all_parts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        killed_at_step(patch, 35)
        with pytest.raises(Killed):
            run(tmp_path, PATIENT, places=3)
    (folder,) = tmp_path.iterdir()
    before = json_of(generations(folder)[-1])["histories"]
    found = run(tmp_path, PATIENT, places=3)
    for seed, history in before:
        curve = history["curve"]
        rows = [row for row in found.curves if row.seed == seed]
        assert [row.seconds for row in rows[:3]] == [row["seconds"] for row in curve]
        assert found.results[seed].train_seconds == pytest.approx(sum(row.seconds for row in rows))


def json_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    values: dict[str, Any] = json.loads(header["__metadata__"]["values"])
    return values


def test_the_clock_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps back and forth, and the last state is the oldest by its time."""
    expected = fit(SHAPE, 0.1, PATIENT, DATA, places=3)
    jumps = itertools.cycle([2e9, 0.0, 1e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    with monkeypatch.context() as patch:
        killed_at_step(patch, 35)
        with pytest.raises(Killed):
            run(tmp_path, PATIENT, places=3)
    (folder,) = tmp_path.iterdir()
    for years, path in enumerate(reversed(generations(folder)), start=10):
        os.utime(path, (years * 3.15e7, years * 3.15e7))
    assert {len(history["curve"]) for _, history in json_of(generations(folder)[-1])["histories"]} == {3}
    assert_same(run(tmp_path, PATIENT, places=3), expected)


def test_finished_stacks_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        killed_at_step(patch, 2 * 60 + 15)  # seed 2, epoch 2
        with pytest.raises(Killed):
            run(tmp_path, PATIENT)
    trained = []

    class Watched(StackTrainer):
        def next_step(self, size: int) -> None:
            trained.append((self.members, len(self.ledger.histories[2].curve), self.steps_done))
            super().next_step(size)

    monkeypatch.setattr(trainer, "StackTrainer", Watched)
    run(tmp_path, PATIENT)
    assert trained == [([2], epoch, step) for epoch in range(1, 6) for step in range(10)]


@pytest.mark.parametrize("pattern", ["freeze", "finetune"])
def test_a_grown_model_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    config = settings(epochs=4)
    shape = grown_shape(SHAPE, 2, joint_norm=False)
    base = fit(SHAPE, 0.1, settings(epochs=1), DATA).parameters
    start = Start(grow(base, SHAPE, shape, config.seeds), is_new(SHAPE, shape) if pattern == "freeze" else None)
    expected = fit(shape, 0.1, config, DATA, start=start)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at_step(patch, 67)
        with kept(tmp_path) as where:
            fit(shape, 0.1, config, DATA, start=start, store=where)
    with kept(tmp_path) as where:
        assert_same(fit(shape, 0.1, config, DATA, start=start, store=where), expected)


def test_a_stack_that_did_not_fit_stays_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(StackTrainer):
        def next_step(self, size: int) -> None:
            if len(self.members) > 2:
                raise torch.OutOfMemoryError("no memory")
            super().next_step(size)

    monkeypatch.setattr(trainer, "StackTrainer", Small)
    expected = fit(SHAPE, 0.1, PATIENT, DATA, places=3)
    for steps in (5, 25, 65):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at_step(patch, steps)
            run(tmp_path, PATIENT, places=3)
    assert json_of(generations(next(tmp_path.iterdir()))[-1])["places"] == 2
    assert_same(run(tmp_path, PATIENT, places=3), expected)


def test_a_resumed_stack_that_does_not_fit_any_more_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at_step(patch, 25)
        run(tmp_path, PATIENT, places=2)
    original = StackTrainer.next_step

    def next_step(self: StackTrainer, size: int) -> None:
        if len(self.members) > 1:
            raise torch.OutOfMemoryError("no memory")
        original(self, size)

    monkeypatch.setattr(StackTrainer, "next_step", next_step)
    assert_same(run(tmp_path, PATIENT, places=2), fit(SHAPE, 0.1, PATIENT, DATA))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif how == "short":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["flipped", "short", "empty"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_state_is_named_and_the_one_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str, count: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at_step(patch, 45)
        run(tmp_path, PATIENT, places=3)
    (folder,) = tmp_path.iterdir()
    found = generations(folder)
    assert len(found) == 2
    for path in found[-count:]:
        damage(path, how)
    capsys.readouterr()
    assert_same(run(tmp_path, PATIENT, places=3), fit(SHAPE, 0.1, PATIENT, DATA, places=3))
    output = capsys.readouterr().out
    assert all(f"{path}: damaged" in output for path in found[-count:])
    assert ("after epoch 3 of seeds 0, 1, 2" if count == 1 else "the training starts anew") in output


def test_a_state_of_another_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed), kept(tmp_path, of="another") as other:
        other.keep(state_of(0))
        raise Killed
    with kept(tmp_path) as where:
        (copied,) = generations(other.folder)
        (where.folder / copied.name).write_bytes(copied.read_bytes())
        assert where.resume() is None
    assert "it is of another training" in capsys.readouterr().out


def state_of(number: int) -> State:
    return State({"flat": torch.zeros(2)}, {"number": number}, f"after {number}")


def test_a_state_keeps_every_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 0x7FF0 << 48, (8000,), generator=generator).view(torch.float64).tolist()  # any finite
    numbers += [0.1, 5e-324, 1.7976931348623157e308, -0.0, math.inf]
    rows = [EpochRow(2, 0, index, *numbers[index * 7 : index * 7 + 7]) for index in range(len(numbers) // 7)]
    tensors = {"flat": torch.randn(2, 3, generator=generator).T, "step": torch.tensor([7], dtype=torch.int32)}
    with pytest.raises(Killed), kept(tmp_path) as where:
        where.keep(State(tensors, {"rows": [vars(row) for row in rows], "last": numbers[-5:]}, "after epoch 3"))
        raise Killed
    with kept(tmp_path) as where:
        found = where.resume()
    assert found
    assert found.where == "after epoch 3"
    assert [EpochRow(**row) for row in found.values["rows"]] == rows
    assert list(map(str, found.values["last"])) == list(map(str, numbers[-5:]))
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert all(found.tensors[name].dtype == value.dtype for name, value in tensors.items())


IDENTITY_CHANGES: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "dropout": lambda of, _: of["parameters"]["model"].update(dropout=0.2),
    "seeds": lambda of, _: of["parameters"]["train"].update(seeds=[0, 1]),
    "precision": lambda of, _: of["parameters"]["train"].update(precision="bf16"),
    "learning rate by one bit": lambda of, _: of["parameters"]["train"].update(base_learning_rate=math.nextafter(1, 2)),
    "depth": lambda of, _: of.update(shape=replace(SHAPE, num_layers=3)),
    "training windows": lambda of, folder: (folder / "train.npy").write_bytes(b"other"),
    "validation windows": lambda of, folder: (folder / "validation.npy").write_bytes(b"other"),
    "start": lambda of, _: of.update(start=({"w": torch.ones(1, 2)}, None, 1)),
    "what learns": lambda of, _: of.update(start=({"w": torch.zeros(1, 2)}, {"w": torch.ones(1, 2).bool()}, 1)),
    "phase": lambda of, _: of.update(start=({"w": torch.zeros(1, 2)}, None, 2)),
}


@pytest.fixture
def determined(tmp_path: Path) -> dict[str, Any]:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.npy").write_bytes(b"windows")
    return {
        "parameters": {
            "model": {"dropout": 0.1},
            "train": {"seeds": [0], "precision": "fp32", "base_learning_rate": 1},
        },
        "shape": SHAPE,
        "windows": [tmp_path / "train.npy", tmp_path / "validation.npy"],
        "device": torch.device("cpu"),
        "start": ({"w": torch.zeros(1, 2)}, None, 1),
    }


@pytest.mark.parametrize("what", IDENTITY_CHANGES)
def test_identity_differs_with_whatever_determines_the_result(
    determined: dict[str, Any], tmp_path: Path, what: str
) -> None:
    before = digest(identity(**determined))
    assert digest(identity(**determined)) == before
    IDENTITY_CHANGES[what](determined, tmp_path)
    assert digest(identity(**determined)) != before


@pytest.mark.parametrize("what", ["code", "torch", "device", "threads", "stage"])
def test_identity_differs_with_code_and_machine(
    determined: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = StateStore(tmp_path, "train@2", identity(**determined), 1).folder
    stage = "train@2"
    if what == "code":
        monkeypatch.setattr(provenance, "code_hash", lambda: "other")
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "0.1")
    elif what == "device":
        monkeypatch.setattr(provenance, "describe", lambda device: "NVIDIA H200")
    elif what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    else:
        stage = "train@3"
    assert StateStore(tmp_path, stage, identity(**determined), 1).folder != before


def test_code_hash_sees_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model/a.py", "runtime/provenance.py", "studies/d.py", "training/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "runtime/provenance.py"))
    found = {provenance.code_hash()}
    (tmp_path / "model/a.py").write_text("2")
    found.add(provenance.code_hash())
    (tmp_path / "training/b.py").rename(tmp_path / "training/c.py")
    found.add(provenance.code_hash())
    (tmp_path / "studies/d.py").write_text("2")
    found.add(provenance.code_hash())
    assert len(found) == 4


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path) as first:
        assert is_locked(first.folder)
        with (
            pytest.raises(UserError, match=rf"{first.folder}: process {os.getpid()} trains train@2 already"),
            kept(tmp_path),
        ):
            pass
        assert is_locked(first.folder), "the loser lets the winner's lock be"
        with kept(tmp_path, of="another"):
            pass
    with kept(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from newllm.runtime.resume import StateStore
StateStore(pathlib.Path(sys.argv[1]), "train@2", {"of": "a test"}, 1).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=with_library(), check=False)
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert not is_locked(folder)
    with kept(tmp_path):
        pass


KILLED_WITHIN_A_WRITE = """
import os, pathlib, signal, sys
from newllm.runtime import resume
from tests.runtime import test_resume

folder, point, count = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = 0

def killing(original):
    def function(first, *arguments, **options):
        global calls
        calls += 1
        if calls == count:
            if point == "half of the file":
                os.ftruncate(first, os.fstat(first).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(first, *arguments, **options)
    return function

owner, name = {"rename": (pathlib.Path, "replace"), "removal": (pathlib.Path, "unlink")}.get(point, (os, "fsync"))
setattr(owner, name, killing(getattr(owner, name)))
resume.LARGEST_SHARE = float("inf")
test_resume.run(folder, test_resume.PATIENT, places=3)
"""


@pytest.mark.parametrize(
    (
        "point",
        "counts",
    ),  # the first fsync and rename are those of identity.json; then each file's is before its folder's
    [("half of the file", (2, 4)), ("fsync", (2, 3)), ("rename", (2, 3)), ("removal", (1, 2))],
)
def test_killed_within_a_write(tmp_path: Path, point: str, counts: tuple[int, int]) -> None:
    for count in counts:
        command = [sys.executable, "-c", KILLED_WITHIN_A_WRITE, tmp_path, point, str(count)]
        done = subprocess.run(command, cwd=ROOT, env=with_library(), check=False)
        assert done.returncode == -signal.SIGKILL
    assert_same(run(tmp_path, PATIENT, places=3), fit(SHAPE, 0.1, PATIENT, DATA, places=3))


def with_library() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}


def test_a_state_is_on_the_disk_before_its_name_and_its_name_before_an_older_state_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def noting(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, len(generations(where.folder)), os.fstat(descriptor).st_size > 0))
        fsync(descriptor)

    with kept(tmp_path) as where:
        where.keep(state_of(0))
        where.keep(state_of(1))
        monkeypatch.setattr(os, "fsync", noting)
        where.keep(state_of(2))
        assert synced == [(False, 2, True), (True, 3, True)]
        assert len(generations(where.folder)) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "Input/output error")])
def test_an_error_of_the_disk_names_the_place_and_costs_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    with pytest.raises(OSError, match=error.strerror) as raised, kept(tmp_path) as where:
        where.keep(state_of(0))
        where.keep(state_of(1))
        before = {path: path.read_bytes() for path in generations(where.folder)}

        def fails(descriptor: int) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fails)
        where.keep(state_of(2))
    monkeypatch.undo()
    assert str(where.folder) in str(raised.value)
    assert {path: path.read_bytes() for path in generations(where.folder)} == before
    assert not (where.folder / "unfinished").exists()
    with kept(tmp_path) as again:
        state = again.resume()
        assert state
        assert state.values == {"number": 1}


def test_states_are_written_every_so_many_epochs_and_two_are_kept(tmp_path: Path) -> None:
    with pytest.raises(Killed), kept(tmp_path, every=3) as where:
        counts = []
        for epoch in range(10):
            where.keep(state_of(epoch))
            counts.append(len(generations(where.folder)))
        raise Killed
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [json_of(path)["number"] for path in generations(where.folder)] == [5, 8]


def test_writing_takes_a_small_part_of_the_time_and_long_epochs_wait_for_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the share as it is
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with kept(tmp_path, every=5) as where:
        written = []
        original = where._write

        def write(*arguments: Any) -> None:
            nonlocal now
            written.append(now)
            original(*arguments)
            now += 2  # seconds that a write takes
            where._cost, where._written_at = 2, now

        monkeypatch.setattr(where, "_write", write)
        for _ in range(220):
            now += 1
            where.keep(state_of(0))
        assert written == [5, 107, 209], "after 5 epochs, then no more than 2 % of the time"
        written.clear()
        for _ in range(3):
            now += 200
            where.keep(state_of(0))
        assert len(written) == 2, "after 300 seconds, whatever the number of epochs"


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt()])
def test_a_signal_within_an_epoch_writes_the_last_whole_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    original = trainer.losses_and_gradients
    calls = 0

    def interrupted(*arguments: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        nonlocal calls
        calls += 1
        if calls == 35:
            raise error
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(trainer, "losses_and_gradients", interrupted)
        run(tmp_path, PATIENT, every=1000, places=3)
    assert "`dvc repro` goes on after epoch 3 of seeds 0, 1, 2" in capsys.readouterr().out
    assert_same(run(tmp_path, PATIENT, places=3), fit(SHAPE, 0.1, PATIENT, DATA, places=3))
    assert "train@2: going on after epoch 3 of seeds 0, 1, 2" in capsys.readouterr().out


def test_a_signal_before_the_first_epoch_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), kept(tmp_path):
        sys.exit(143)
    assert "nothing to go on from" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_progress_counts_from_where_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("newllm.runtime.progress.LINE_INTERVAL", 0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at_step(patch, 45)
        run(tmp_path, PATIENT, places=3)
    capsys.readouterr()
    original = StackTrainer.validate

    def slow(self: StackTrainer) -> None:
        original(self)
        time.sleep(0.6)

    monkeypatch.setattr(StackTrainer, "validate", slow)
    run(tmp_path, PATIENT, places=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "left" in line]
    assert [line.split("epoch ")[1].split(",")[0] for line in lines] == ["5/6", "6/6"]
    assert [line.rsplit(" ", 2)[1] for line in lines] == ["0:01", "0:00"]


def test_the_folder_is_in_the_project_or_an_absolute_one() -> None:
    assert folder_of_states({}, Path("/project")) == Path("/project/checkpoints")
    assert folder_of_states({"NEWLLM_STATES": "/elsewhere"}, Path("/project")) == Path("/elsewhere")
    with pytest.raises(UserError, match=r"NEWLLM_STATES: found here, expected an absolute path"):
        folder_of_states({"NEWLLM_STATES": "here"}, Path("/project"))


def test_stale_states_are_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*arguments: str) -> dict[str, str]:
        monkeypatch.setattr(sys, "argv", ["resume", *arguments])
        resume.main()
        lines = capsys.readouterr().out.splitlines()
        return {line.split("train@")[1].split("-")[0]: line for line in lines if "train@" in line}

    monkeypatch.setenv("NEWLLM_STATES", str(tmp_path))
    assert listed() == {}
    of = {"code": provenance.code_hash(), "torch": torch.__version__}
    for stage, made_by in (("good", of), ("code", of | {"code": "other"}), ("torch", of | {"torch": "0.1"})):
        with pytest.raises(Killed), StateStore(tmp_path, f"train@{stage}", made_by, 1) as where:
            where.keep(state_of(0))
            raise Killed
    with StateStore(tmp_path, "train@used", of | {"code": "other"}, 1) as used:
        used.keep(state_of(0))
        lines = listed()
        assert lines["good"].endswith("the same training goes on from it")
        assert lines["code"].endswith("stale: of other code than that in src")
        assert lines["torch"].endswith("stale: of torch 0.1")
        assert lines["used"].endswith("in use")
        for name in ("my-thesis", "train@1-0123456789abcdef"):
            (tmp_path / name).mkdir()
        listed("--remove")
        assert listed().keys() == {"good", "used"}
        assert {"my-thesis", "train@1-0123456789abcdef"} <= {path.name for path in tmp_path.iterdir()}, "not ours"
        listed("--remove", "--all")
        assert listed().keys() == {"used"}
        assert generations(used.folder)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_on_a_gpu_it_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Before and after captures, with seeds that leave the stack; equal beyond rounding."""
    data = DATA[0].cuda(), DATA[1].cuda()
    config = settings(precision=precision, epochs=12, patience=3, base_learning_rate=0.01)
    expected = fit(SHAPE, 0.1, config, data)
    for steps in (15, 43, 22):
        with monkeypatch.context() as patch, pytest.raises(Killed), kept(tmp_path) as where:
            killed_at_step(patch, steps)
            fit(SHAPE, 0.1, config, data, store=where)
    with kept(tmp_path) as where:
        found = fit(SHAPE, 0.1, config, data, store=where)
    losses = [[row.val_loss for row in run.curves if row.epoch <= 6] for run in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.cuda
def test_a_signal_does_not_wait_for_what_the_gpu_has_yet_to_compute(tmp_path: Path) -> None:
    where = kept(tmp_path, every=1000)
    with pytest.raises(SystemExit), where:
        where.keep(State({"flat": torch.arange(3.0, device="cuda")}, {"epoch": 1}, "after epoch 1"))
        torch.cuda._sleep(20 * 10**9)  # about ten seconds
        start = time.monotonic()
        sys.exit(143)
    assert time.monotonic() - start < 3
    with kept(tmp_path) as again:
        state = again.resume()
    assert state
    assert state.tensors["flat"].tolist() == [0, 1, 2]
