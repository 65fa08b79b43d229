"""Energy by the GPU's counter, or None where there is none."""

from types import SimpleNamespace

import pynvml
import pytest
import torch

from newllm.runtime.energy import energy_counter


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU in torch's eyes, with a driver that answers."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34"))
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {"GPU-12-34": "handle"}[uuid])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: {"handle": 2_500}[handle])
    return torch.device("cuda")


def fail(*_: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_joules_are_the_counters_millijoules(gpu: torch.device) -> None:
    assert energy_counter(gpu)() == 2.5


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_does_not_tell_gives_none(gpu: torch.device, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pynvml, name, fail)
    assert energy_counter(gpu)() is None


def test_a_counter_that_ends_gives_none(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    joules = energy_counter(gpu)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", fail)
    assert joules() is None


def test_a_cpu_gives_none() -> None:
    assert energy_counter(torch.device("cpu"))() is None


@pytest.mark.cuda
def test_a_gpu_at_work_uses_energy() -> None:
    joules = energy_counter(torch.device("cuda"))
    before = joules()
    if before is None:
        pytest.skip("this GPU's driver does not tell")
    left = torch.randn(8192, 8192, device="cuda")
    for _ in range(200):
        left @ left
    torch.cuda.synchronize()
    after = joules()
    assert after is not None
    assert 1 < after - before < 10_000
