"""Where to train, and in which precision."""

import gc
import os
import time

import torch

from newllm.config import Precision
from newllm.errors import UserError
from newllm.model.definition import ModelShape

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
STUDY_DEPTHS = range(1, 9)
STUDY_SEEDS = 5
STUDY_EPOCHS = 150
STUDY_POSITIONS = 51_026 * 63  # of an epoch of WikiText-2


def choose_device(precision: Precision) -> torch.device:
    """The GPU if there is one, else the CPU.

    Raises:
        UserError: precision is fp16 and there is no GPU, or there is one that torch cannot use.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda")
        try:
            torch.ones(1, device=device).item()
        except RuntimeError as error:
            raise UserError(
                f"torch cannot use the GPU: {_one_line(error)}. If others use it, wait, or choose another one by the "
                "environment variable CUDA_VISIBLE_DEVICES; else install a driver and a torch that go with it, see "
                "README, or train on the CPU: CUDA_VISIBLE_DEVICES= and train.precision fp32 or bf16"
            ) from None
        return device
    if precision == "fp16":
        days = full_study_seconds() / 86_400
        raise UserError(
            f"train.precision is fp16, which needs an NVIDIA GPU, and torch cannot use one: {_why_no_gpu()}. If there "
            "is one, see README for the driver that it needs. Otherwise set train.precision to fp32 "
            "or bf16, for instance with `dvc exp run -S train.precision=fp32`; but mind that the full study "
            f"(8 depths, 5 seeds, 150 epochs) would take about {days:,.0f} days on this CPU at the speed of fp32 "
            "products just measured, so lower train.epochs and train.seeds too, or use a GPU."
        )
    return torch.device("cpu")


def _why_no_gpu() -> str:
    """In torch's own words: a driver that is missing or too old, a torch without CUDA, no GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _one_line(error) + hint
    return f"it finds none{hint}"


def _one_line(error: Exception) -> str:
    """What an error says, without torch's advice to those who debug kernels."""
    return " ".join(str(error).split("\nCUDA kernel errors might be")[0].split()).removesuffix(".")


def full_study_seconds() -> float:
    """The least time for the full study on this CPU, from its rate of float32 products of the model's size."""
    shapes = (ModelShape(1000, 256, 256, 512, depth) for depth in STUDY_DEPTHS)
    flops = sum(shape.flops_per_position for shape in shapes) * STUDY_POSITIONS * STUDY_SEEDS * STUDY_EPOCHS
    return flops / _product_rate()


def _product_rate() -> float:
    """Floating-point operations a second of 2048 x 512 x 512 products on this CPU, over about a third of a second."""
    left, right = torch.randn(2048, 512), torch.randn(512, 512)
    left @ right
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.3:
        left @ right
        count += 1
    return count * 2 * 2048 * 512 * 512 / elapsed


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the device had no memory left; an error in the middle of a capture may hide it behind another."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__context__
    return error is not None


def free_memory() -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(shape: ModelShape, batch_size: int, device: torch.device) -> str:
    """What to tell who has too little memory for one model with batches of `batch_size` windows."""
    figures = ""
    if device.type == "cuda":
        needed = torch.cuda.max_memory_allocated(device) / 2**30
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
        figures = f" (it took {needed:.1f} GiB and wanted more; {free:.1f} of {total:.1f} GiB are free)"
    return (
        f"one model of {shape.num_layers} layers at train.batch_size = {batch_size} needs more memory than the "
        f"device has{figures}. Lower train.batch_size, or free the memory that other programs use"
    )


def wait_for(device: torch.device) -> None:
    """Waits until the device has done all it was given, in short turns so that a signal is seen meanwhile."""
    if device.type == "cuda":
        done = torch.cuda.Event()
        done.record()
        while not done.query():
            time.sleep(0.001)


def describe(device: torch.device) -> str:
    """The device's name for people: the GPU's, or "CPU" with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
