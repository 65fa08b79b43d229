"""Where the time of a training step goes on a GPU: python -m benchmarks.profile --num-layers 6 --seeds 5."""

import argparse
import warnings
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import cases

FAMILIES = {
    "_linear_kernel": "recurrence: products with what follows them",
    "_gates_backward_kernel": "recurrence: gates and LayerNorm, backward",
    "_gates_forward_kernel": "recurrence: gates and LayerNorm, forward",
    "_cross_entropy_kernel": "cross-entropy with its gradient",
    "_adam_kernel": "Adam",
    "nvjet": "all positions at once: head, weight gradients, token table",
    "splitKreduce": "all positions at once: head, weight gradients, token table",
}
OTHERS = "everything else (casts, fills, sums, the batch)"


def main() -> None:
    """Prints the kernels' own times by family; lanes run side by side, so the sum exceeds the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    step = cases.engine(options.num_layers, options.seeds, 2048, torch.device("cuda"), "fp16").prepare()
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    warnings.simplefilter("ignore")
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    count: dict[str, int] = defaultdict(int)
    milliseconds: dict[str, float] = defaultdict(float)
    starts, ends = [], []
    for event in recorded.events() or []:
        if event.device_type.name != "CUDA":
            continue
        family = next((words for name, words in FAMILIES.items() if name in event.name), OTHERS)
        count[family] += 1
        milliseconds[family] += event.time_range.elapsed_us() / 1e3
        starts.append(event.time_range.start)
        ends.append(event.time_range.end)
    span = (max(ends) - min(starts)) / 1e3
    print(f"depth {options.num_layers}, {options.seeds} seeds: {span:.2f} ms under the profiler")
    print("\n| kernels | launches | their own time, ms |\n|---|---|---|")
    for family, total in sorted(milliseconds.items(), key=lambda item: -item[1]):
        print(f"| {family} | {count[family]:,} | {total:.2f} |")


if __name__ == "__main__":
    main()
