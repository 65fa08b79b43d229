"""Times one training step of each case on this machine, side by side: python -m benchmarks.bench.

Writes benchmarks/results/<device>.json and prints a table. On a GPU steps are timed with device events after a
warm-up; figures are medians.
"""

import argparse
import datetime
import gc
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases
from newllm.files import write_json
from newllm.training.device import describe
from newllm.training.provenance import git_state

RESULTS = Path(__file__).resolve().parent / "results"
BATCH = {"cuda": 2048, "cpu": 128}  # windows a step
BUDGET = {"cuda": 2.0, "cpu": 6.0}  # seconds a case is timed for
CASES = ("plain_loop", "lstm", "engine")
COLUMNS = (
    ("case", "case"),
    ("num_layers", "layers"),
    ("num_seeds", "seeds"),
    ("ms_per_step", "ms a step"),
    ("ms_per_step_per_seed", "ms a step and seed"),
    ("tokens_per_second", "tokens/s"),
    ("model_tflops", "model TFLOP/s"),
    ("peak_share", "share of product rate"),
    ("peak_memory_gib", "peak memory, GiB"),
)


def main() -> None:
    """Runs the cases one after the other; writes the results only if they are all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="time these alone and write nothing")
    wanted = parser.parse_args().cases
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "fp16" if device.type == "cuda" else "fp32"
    batch = BATCH[device.type]
    depths = (1, 4, 6, 8) if device.type == "cuda" else (1, 4)
    stacks = (1, 5) if device.type == "cuda" else (1,)
    rate = product_rate(device, precision)
    print(f"{describe(device)}, torch {torch.__version__}, {precision}, batch {batch} x {cases.LENGTH} positions")
    print(f"a large {precision} matrix product runs at {rate / 1e12:.3g} TFLOP/s here\n")
    rows = []
    todo = [cases.lstm(batch, device, precision)]
    for depth in depths:
        todo.append(cases.plain_loop(depth, batch, device, precision))
        todo.extend(cases.engine(depth, stack, batch, device, precision) for stack in stacks)
    print("| " + " | ".join(title for _, title in COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for case in filter(lambda case: case.name in wanted, todo):
        row = measure(case, batch, device, rate)
        rows.append(row)
        print("| " + " | ".join(_shown(row[name]) for name, _ in COLUMNS) + " |", flush=True)
    if set(wanted) != set(CASES):
        return
    commit, dirty = git_state(Path(__file__).parent)
    name = re.sub(r"[^a-z0-9]+", "-", describe(device).lower()).strip("-")
    write_json(
        RESULTS / f"{name}.json",
        {
            "device": describe(device),
            "torch_version": torch.__version__,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "git_commit": commit,
            "git_dirty": dirty,
            "precision": precision,
            "batch_size": batch,
            "positions": cases.LENGTH,
            "product_tflops": rate / 1e12,
            "rows": rows,
        },
    )
    print(f"\nwritten to {RESULTS / name}.json")


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
        "num_layers": case.num_layers,
        "num_seeds": case.num_seeds,
        "ms_per_step": milliseconds,
        "ms_per_step_per_seed": milliseconds / case.num_seeds,
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
    dtype = torch.float16 if precision == "fp16" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    milliseconds = median_ms(lambda: left @ right, device, 1.0)
    return 2 * size**3 / (milliseconds / 1e3)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    main()
