"""The energy that a GPU has used, by its own counter."""

from collections.abc import Callable

import pynvml
import torch


def energy_counter(device: torch.device) -> Callable[[], float | None]:
    """A function that tells the joules that the device has used since some time in the past; None: it does not tell.

    It is the whole GPU's energy, that of other programs on it included. The driver brings the counter up to date
    some ten times a second (`nvmlDeviceGetTotalEnergyConsumption` in NVIDIA's NVML API reference).
    """
    if device.type != "cuda":
        return lambda: None
    try:
        pynvml.nvmlInit()
        # by its identity, since CUDA_VISIBLE_DEVICES numbers the GPUs anew and NVML does not look at it
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return lambda: None

    def joules() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError:
            return None

    return joules
