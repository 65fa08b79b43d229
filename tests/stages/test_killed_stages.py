"""Killed and interrupted train and expand stages as a user meets them, in a copy of the project."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.run import copy_project, environment
from tests.test_pipeline import SMALL, Project

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("killed stages")]

EPOCHS = 100  # some seconds for both seeds
TRAIN = ("python", "-m", "stages.train", "--num-layers", "1")
EXPAND = ("python", "-m", "stages.expand", "--num-layers", "1", "--pattern", "freeze")
OUTPUTS = {
    "train": ("models/1", "plots/curves/1.csv"),
    "expand": ("models/expand/1-freeze", "plots/expand/1-freeze.csv"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With the data, and `expected`: what trainings that nothing interrupts write."""
    folder = tmp_path_factory.mktemp("killed")
    copy_project(folder, SMALL | {"checkpoint": {"every": 1}})
    project = Project(folder)
    project.set("train.epochs", EPOCHS)
    project.set("train.patience", EPOCHS)
    project.run("dvc", "repro", "tokenize")
    for command in (TRAIN, EXPAND):
        project.run(*command)
    for stage in OUTPUTS.values():
        for name in stage:
            (folder / "expected" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).rename(folder / "expected" / name)
    return project


@pytest.fixture(autouse=True)
def clean(project: Project) -> Iterator[None]:
    yield
    for name in ("models", "plots", "checkpoints"):
        shutil.rmtree(project.folder / name, ignore_errors=True)


def begun(project: Project, command: tuple[str, ...], **variables: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, after its first state."""
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    while "epoch 1/" not in (line := process.stdout.readline()):
        assert line, "training ended"
    states = Path(variables.get("NEWLLM_STATES", project.folder / "checkpoints"))
    while not [*states.glob("*/*.safetensors")]:  # the epoch's line comes before its state
        assert process.poll() is None
        time.sleep(0.01)
    return process


def assert_as_expected(project: Project, stage: str) -> None:
    """Weights byte for byte, curves but for seconds and joules, and no states left."""
    weights, curves = (Path(name) for name in OUTPUTS[stage])
    found, expected = project.folder, project.folder / "expected"
    name = weights / "weights.safetensors"
    assert (found / name).read_bytes() == (expected / name).read_bytes()
    rows = [
        [line.rsplit(",", 2)[0] for line in (place / curves).read_text().splitlines()] for place in (found, expected)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1 + 2 * EPOCHS
    assert not [*(project.folder / "checkpoints").glob("*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_within_five_seconds_and_it_goes_on(project: Project, number: signal.Signals) -> None:
    process = begun(project, TRAIN)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert process.returncode == 128 + number
    assert "Traceback" not in output
    where = re.search(r"ended by a signal; `dvc repro` goes on (after epoch \d+ of seed 0)", output)
    assert where
    assert f"train@1: going on {where[1]}\n" in project.run(*TRAIN)
    assert_as_expected(project, "train")


def test_dvc_goes_on_after_everything_was_killed(project: Project) -> None:
    process = begun(project, ("dvc", "repro", "--single-item", "train@1"))
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "train@1: going on after" in project.run("dvc", "repro", "--single-item", "train@1")
    assert_as_expected(project, "train")
    (project.folder / "dvc.lock").unlink()


def test_a_grown_model_goes_on(project: Project) -> None:
    shutil.copytree(project.folder / "expected/models/1", project.folder / "models/1")
    process = begun(project, EXPAND)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "expand@1-freeze: going on after epoch" in project.run(*EXPAND)
    assert_as_expected(project, "expand")


def test_two_at_once(project: Project) -> None:
    first = begun(project, TRAIN)
    first.send_signal(signal.SIGSTOP)
    output = project.run(*TRAIN, status=1)
    first.send_signal(signal.SIGCONT)
    assert re.search(rf"error: .*checkpoints/train@1-\w+: process {first.pid} trains train@1 already; wait", output)
    assert "Traceback" not in output
    assert first.wait(60) == 0
    assert_as_expected(project, "train")


def test_a_place_that_cannot_be_written_is_named(project: Project) -> None:
    (project.folder / "checkpoints").write_text("a file where a folder should be")
    output = project.run(*TRAIN, status=1)
    assert re.search(r"error: .*checkpoints/train@1-\w+: ", output)
    assert "Traceback" not in output
    assert "epoch 1" not in output
    (project.folder / "checkpoints").unlink()


@pytest.mark.parametrize("folder", ["models", "plots/curves", "checkpoints"])
def test_a_folder_that_is_read_only_is_named_before_anything_is_trained(project: Project, folder: str) -> None:
    command = TRAIN
    if os.geteuid() == 0:  # who is root may write everywhere, unless without this capability
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv, or a user other than root")
        command = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *TRAIN)
    place = project.folder / folder
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    place.chmod(0o555)
    output = project.run(*command, status=1)
    assert re.search(rf"error: .*{folder}/\S*: Permission denied; free or repair the disk or its permissions", output)
    assert "Traceback" not in output
    assert "epoch 1" not in output
    assert not [*place.iterdir()]
    place.chmod(0o755)
    project.run(*TRAIN)
    assert_as_expected(project, "train")


def test_a_state_that_does_not_fit_costs_none_before(project: Project, tmp_path: Path) -> None:
    process = begun(project, TRAIN, NEWLLM_STATES=str(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.safetensors")}
    assert before
    limited = f"ulimit -f 8; NEWLLM_STATES={tmp_path} exec {' '.join(TRAIN)}"  # no file of more than 8 KiB
    output = project.run("bash", "-c", limited, status=1)
    assert re.search(rf"error: {tmp_path}/train@1-\w+/unfinished: File too large; free or repair the disk", output)
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*.safetensors")} == before
    assert "going on after" in project.run("env", f"NEWLLM_STATES={tmp_path}", *TRAIN)
    assert_as_expected(project, "train")


def test_how_often_states_are_written_retrains_nothing(project: Project) -> None:
    for name in OUTPUTS["train"]:
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(project.folder / "expected/models/1", project.folder / "models/1")
    shutil.copy(project.folder / "expected/plots/curves/1.csv", project.folder / "plots/curves/1.csv")
    project.run("dvc", "commit", "--force", "train@1")
    project.set("checkpoint.every", 7)
    assert project.repro("train@1") == []
    project.set("checkpoint.every", 1)
    (project.folder / "dvc.lock").unlink()
