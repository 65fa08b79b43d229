"""Times one training step of each case on this machine, side by side: python -m benchmarks.bench.

Writes benchmarks/results/<device>.json and prints a table. On a GPU steps are timed with device events after a
warm-up; figures are medians.
"""

import argparse
import datetime
import gc
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases
from newllm.files import write_json
from newllm.runtime.console import keep_output_from_failing
from newllm.runtime.device import DTYPES, describe
from newllm.runtime.provenance import provenance

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = 2048  # windows a step
SMALL_BATCH = 128  # on a CPU, beside the other
BUDGET = {"cuda": 1.0, "cpu": 6.0}  # seconds a case is timed for
CASES = ("plain_loop", "lstm", "engine")
COLUMNS = (
    ("case", "case"),
    ("num_layers", "layers"),
    ("num_seeds", "seeds"),
    ("batch_size", "batch"),
    ("precision", "precision"),
    ("ms_per_step", "ms a step"),
    ("ms_per_step_per_seed", "ms a step and seed"),
    ("tokens_per_second", "tokens/s"),
    ("model_tflops", "model TFLOP/s"),
    ("peak_share", "share of product rate"),
    ("peak_memory_gib", "peak memory, GiB"),
)
SCALING_COLUMNS = (
    ("case", "case"),
    ("num_layers", "layers"),
    ("num_seeds", "seeds"),
    ("batch_size", "batch"),
    ("hidden_size", "hidden size"),
    ("ms_per_step_per_seed", "ms a step and seed"),
    ("floor_ms_per_seed", "floor, ms"),
    ("peak_share", "share of product rate"),
    ("peak_memory_gib", "peak memory, GiB"),
)
WINDOWS = (51_026, 5_272)  # of WikiText-2, for training and for validation


def main() -> None:
    """Runs the cases one after the other; writes the results only if they are all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="time these alone and write nothing")
    parser.add_argument("--start-up", action="store_true", help="print the seconds of one start-up; used by itself")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "fp16" if device.type == "cuda" else "fp32"
    if options.start_up:
        print(start_up_seconds(device, precision))
        return
    code = provenance(Path(__file__).resolve().parent.parent, device)
    rate = product_rate(device, precision)
    print(f"{describe(device)}, torch {torch.__version__}, {cases.LENGTH} positions")
    print(f"a large {precision} matrix product runs at {rate / 1e12:.3g} TFLOP/s here\n")
    rows = run_cases(compared(device, precision, options.cases), COLUMNS, device, rate)
    if set(options.cases) != set(CASES):
        return
    results: dict[str, Any] = {"rows": rows}
    if device.type == "cuda":
        print()
        others = run_cases(scaled(device, precision), SCALING_COLUMNS, device, rate)
        results["scaling"] = [row for row in rows if row["case"] == "engine"] + others
        full = cases.engine(6, 5, BATCH, device, precision, padding=False)
        results["full_windows"] = measure(full, BATCH, device, rate)
        results["epoch"] = epoch_times(device, precision)
        results["start"] = start_times() | capture_times(device, precision)
        for name, value in (results["epoch"] | results["start"]).items():
            print(f"{name}: {value:.4g}")
    name = re.sub(r"[^a-z0-9]+", "-", describe(device).lower().removeprefix("nvidia ")).strip("-")
    about = {
        **code,
        "processor": processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "precision": precision,
        "batch_size": BATCH,
        "positions": cases.LENGTH,
        "product_tflops": rate / 1e12,
    }
    write_json(RESULTS / f"{name}.json", about | results)
    print(f"\nwritten to {RESULTS / name}.json")


def compared(device: torch.device, precision: str, wanted: Sequence[str]) -> Iterator[tuple[cases.Case, int]]:
    """The plain loop, the LSTM and the engine at the study's sizes, each with its batch.

    On a CPU with small batches too, and the engine in bf16 too if the CPU's products are faster in it.
    """
    on_gpu = device.type == "cuda"
    faster = not on_gpu and product_rate(device, "bf16") > product_rate(device, precision)
    for batch in (BATCH,) if on_gpu else (SMALL_BATCH, BATCH):
        if "lstm" in wanted:
            yield cases.lstm(batch, device, precision), batch
        for depth in (1, 4, 6, 8) if on_gpu else (1, 4):
            if "plain_loop" in wanted:
                yield cases.plain_loop(depth, batch, device, precision), batch
            if "engine" in wanted:
                for stack in (1, 5) if on_gpu else (1,):
                    yield cases.engine(depth, stack, batch, device, precision), batch
                if faster:
                    yield cases.engine(depth, 1, batch, device, "bf16"), batch


def scaled(device: torch.device, precision: str) -> Iterator[tuple[cases.Case, int]]:
    """The engine with one size changed at a time, each with its batch; what `compared` has is not done again."""
    for depth in (2, 3, 5, 7):
        yield cases.engine(depth, 5, 2048, device, precision), 2048
    for seeds in (2, 3, 8):
        yield cases.engine(6, seeds, 2048, device, precision), 2048
    yield cases.engine(6, 8, 2048, device, precision, recipes=True), 2048
    for batch in (256, 512, 1024, 4096):
        yield cases.engine(6, 5, batch, device, precision), batch
    for hidden_size in (256, 1024):
        yield cases.engine(6, 5, 2048, device, precision, hidden_size), 2048


def run_cases(
    todo: Iterable[tuple[cases.Case, int]], columns: Sequence[tuple[str, str]], device: torch.device, rate: float
) -> list[dict[str, Any]]:
    """Measures the cases and prints a table with these columns."""
    print("| " + " | ".join(title for _, title in columns) + " |")
    print("|" + "---|" * len(columns))
    rows = []
    for case, batch in todo:
        rows.append(measure(case, batch, device, rate))
        print("| " + " | ".join(shown(rows[-1][name]) for name, _ in columns) + " |", flush=True)
    return rows


def epoch_times(device: torch.device, precision: str) -> dict[str, float]:
    """An epoch of the study at depth 6 with five seeds: training and validation, with as many windows as WikiText-2."""
    trainer = cases.stack_trainer(cases.study_shape(6), 5, 2048, WINDOWS, device, precision)

    training, validation = (median_ms(part, device, 1.0) / 1e3 for part in (trainer.train_epoch, trainer.validate))
    return {
        "training_seconds": training,
        "validation_seconds": validation,
        "validation_share": validation / (training + validation),
    }


def start_up_seconds(device: torch.device, precision: str) -> float:
    """Seconds from the trainer's first line until depth 6 with five seeds has trained a step and validated."""
    torch.zeros(1, device=device)
    start = time.perf_counter()
    trainer = cases.stack_trainer(cases.study_shape(6), 5, 2048, WINDOWS, device, precision)
    trainer.start_epoch()
    trainer.next_step(2048)
    trainer.validate()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def start_times() -> dict[str, float]:
    """`start_up_seconds` in a process of its own, where kernels have yet to be compiled and where they are."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.bench", "--start-up"]
        environment = os.environ | {"TRITON_CACHE_DIR": folder}
        found = [
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
            for _ in range(2)
        ]
    cold, warm = (float(done.stdout.split()[-1]) for done in found)
    return {"cold_start_seconds": cold, "warm_start_seconds": warm}


def capture_times(device: torch.device, precision: str) -> dict[str, float]:
    """Seconds to capture a step and a validation anew after one of five seeds has stopped."""
    found = {}
    for depth in (1, 6):
        trainer = cases.stack_trainer(cases.study_shape(depth), 5, 2048, WINDOWS, device, precision)
        trainer.train_epoch()
        trainer.validate()
        trainer.leave([4])
        trainer.start_epoch()
        for name, part in (("step", lambda: trainer.next_step(2048)), ("validation", trainer.validate)):  # noqa: B023
            torch.cuda.synchronize()
            start = time.perf_counter()
            part()
            found[f"capture_{name}_seconds_depth_{depth}"] = time.perf_counter() - start
    return found


def processor() -> str:
    """The host's processor as it names itself, and its instructions for products in bf16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    fast = [name for name in ("avx512_bf16", "amx_bf16", "bf16") if name in about.get("flags", "").split()]
    return f"{about.get('model name', platform.processor())}, bf16 by {' and '.join(fast) or 'conversion'}"


def measure(case: cases.Case, batch: int, device: torch.device, rate: float) -> dict[str, Any]:
    """Median time of a step of one case, and what follows from it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(case.prepare(), device, BUDGET[device.type])
    tokens = batch * cases.LENGTH * case.num_seeds
    flops = case.flops_per_position * tokens / (milliseconds / 1e3)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "case": case.name,
        "batch_size": batch,
        "hidden_size": case.hidden_size,
        "precision": case.precision,
        "num_layers": case.num_layers,
        "num_seeds": case.num_seeds,
        "ms_per_step": milliseconds,
        "ms_per_step_per_seed": milliseconds / case.num_seeds,
        "floor_ms_per_seed": case.flops_per_position * tokens / rate / case.num_seeds * 1e3,
        "tokens_per_second": tokens / (milliseconds / 1e3),
        "model_tflops": flops / 1e12,
        "peak_share": flops / rate,
        "peak_memory_gib": memory,
    }


def median_ms(step: Callable[[], object], device: torch.device, budget: float) -> float:
    """Median milliseconds of `step`, after a warm-up, over about `budget` seconds and at least 3 calls."""
    step()
    times: list[float] = []
    if device.type == "cuda":
        for _ in range(2):
            step()
        torch.cuda.synchronize()
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < budget:
        times.append(_one_ms(step, device))
    return statistics.median(times)


def _one_ms(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        step()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after))
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def product_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a large matrix product of random numbers."""
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))  # type: ignore[index]
    milliseconds = median_ms(lambda: left @ right, device, 1.0)
    return 2 * size**3 / (milliseconds / 1e3)


def shown(value: float | str | None) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    keep_output_from_failing()
    main()
