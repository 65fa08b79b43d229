"""The choice of a GPU and its lock, with made-up GPUs."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from newllm.errors import UserError
from newllm.runtime import gpus
from newllm.runtime.gpus import Gpu, installed, take_gpu, visible

A, B = (Gpu(uuid, uuid, f"GPU {index}, a name") for index, uuid in enumerate(("GPU-aa11", "GPU-bb22")))
PART, OTHER = (Gpu(uuid, uuid, f"GPU 2, a name, MIG instance {n}") for n, uuid in enumerate(("MIG-c0", "MIG-c1")))
MACHINE = [[A], [B], [PART, OTHER]]


@pytest.mark.parametrize(
    ("value", "names", "uuids"),
    [
        (None, ["GPU-aa11", "GPU-bb22", "MIG-c0", "MIG-c1"], ["GPU-aa11", "GPU-bb22", "MIG-c0", "MIG-c1"]),
        ("", [], []),
        ("-1", [], []),
        ("1", ["1"], ["GPU-bb22"]),
        ("1, 0", ["1", "0"], ["GPU-bb22", "GPU-aa11"]),
        ("2", ["2"], ["MIG-c0"]),
        ("0,7,1", ["0"], ["GPU-aa11"]),
        ("GPU-b", ["GPU-b"], ["GPU-bb22"]),
        ("MIG-c1,GPU-aa11", ["MIG-c1", "GPU-aa11"], ["MIG-c1", "GPU-aa11"]),
        ("MIG-GPU-cc/1/0", ["MIG-GPU-cc/1/0"], ["MIG-GPU-cc/1/0"]),
        ("nonsense", [], []),
    ],
)
def test_visible_devices_are_those_of_cuda(value: str | None, names: list[str], uuids: list[str]) -> None:
    found = visible(value, MACHINE)
    assert [gpu.name for gpu in found] == names
    assert [gpu.uuid for gpu in found] == uuids


def test_a_gpu_without_mig_instances_is_no_device() -> None:
    assert visible(None, [[], [A]]) == [A]
    assert visible("0", [[], [A]]) == []


HOLDER = """
import sys, time
from pathlib import Path
from newllm.runtime.gpus import Gpu, take_gpu
gpus = [[Gpu(uuid, uuid, f"GPU {index}, a name")] for index, uuid in enumerate(("GPU-aa11", "GPU-bb22"))]
environment = {"DVC_STAGE": sys.argv[2]}
take_gpu(environment, gpus, Path(sys.argv[1]))
print(environment["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(60)
"""


def holder(folder: Path, stage: str = "train@3", says: str = "on GPU") -> subprocess.Popen[str]:
    """A process that has taken a GPU, or says something else."""
    source = str(Path(gpus.__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder), stage],
        env=os.environ | {"PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert f"{stage}: {says}" in process.stdout.readline()
    return process


def test_each_takes_its_own_and_the_third_waits_until_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpus, "TURN", 0.01)
    folder = tmp_path / "locks"
    first, second = holder(folder), holder(folder)
    try:
        assert first.stdout
        assert second.stdout
        assert [process.stdout.readline().strip() for process in (first, second)] == ["GPU-aa11", "GPU-bb22"]
        monkeypatch.setattr(time, "sleep", lambda _: (second.kill(), second.wait()))
        environment = {"DVC_STAGE": "train@4"}
        taken = take_gpu(environment, [[A], [B]], folder)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
    assert taken == B
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-bb22"
    waits, on = capsys.readouterr().out.splitlines()
    assert all(f"train@3, process {process.pid}" in waits for process in (first, second))
    assert on.startswith("train@4: on GPU 1")


@pytest.fixture
def began() -> Iterator[list[subprocess.Popen[str]]]:
    """Holders, which are ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_who_has_waited_longest_comes_first(tmp_path: Path, began: list[subprocess.Popen[str]]) -> None:
    for number in range(5):
        began.append(holder(tmp_path / "locks", says="on GPU" if number < 2 else "waits for one of these GPUs"))
    for process in began[2:]:
        began[0].kill()
        began.pop(0).communicate()
        assert process.stdout
        assert ": on GPU" in process.stdout.readline(), "not one that came later"


def test_what_takes_seconds_does_not_stand_in_line(tmp_path: Path, began: list[subprocess.Popen[str]]) -> None:
    folder = tmp_path / "locks"
    began += [holder(folder), holder(folder), holder(folder, says="waits")]
    began[2].send_signal(signal.SIGSTOP)  # first in line, and takes no GPU now
    began[0].kill()
    began[0].wait()
    began += [holder(folder, says="waits"), holder(folder, "evaluate@3", says="on GPU 0")]


def test_the_choice_is_the_users(tmp_path: Path) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "1"}
    assert take_gpu(environment, MACHINE, tmp_path / "locks") == Gpu("1", B.uuid, B.title)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize("environment", [{"CUDA_VISIBLE_DEVICES": ""}, {}])
def test_without_a_gpu_nothing_happens(tmp_path: Path, environment: dict[str, str]) -> None:
    before = dict(environment)
    assert take_gpu(environment, [] if not environment else MACHINE, tmp_path / "locks") is None
    assert environment == before
    assert not (tmp_path / "locks").exists()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "real")
    with pytest.raises(UserError, match="locks: found a folder of another user"):
        take_gpu({}, MACHINE, tmp_path / "locks")


class FakeNvml:
    """Two GPUs: one whole, one divided into an instance with the number 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        def mig_mode(handle: int) -> list[int]:
            if handle == 0:
                raise error
            return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

        def instance(handle: int, number: int) -> str:
            if number != 1:
                raise error
            return f"{handle}-{number}"

        answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: f"card {handle}",
            "nvmlDeviceGetUUID": lambda handle: f"uuid-{handle}",
            "nvmlDeviceGetMigMode": mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda _: 3,
            "nvmlDeviceGetMigDeviceHandleByIndex": instance,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)


def test_installed_gpus_and_mig_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    whole, (part,) = installed()
    assert whole == [Gpu("uuid-0", "uuid-0", "GPU 0, card 0")]
    assert part == Gpu("uuid-1-1", "uuid-1-1", "GPU 1, card 1, MIG instance 1")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert installed() == []
