"""Made-up metrics and curves, consistent with one another, as the train and evaluate stages write them."""

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PARAMETERS: dict[str, Any] = {
    "model": {"embedding_dim": 256, "context_dim": 256, "hidden_size": 512, "dropout": 0.1, "residual": False},
    "train": {
        "seeds": [0, 1, 2, 3, 4],
        "epochs": 150,
        "batch_size": 2048,
        "base_learning_rate": 1e-4,
        "base_batch_size": 32,
        "warmup_epochs": 0,
        "precision": "fp16",
        "gradient_clipping": [[1, 0.5], [11, 1.0], [31, 2.0]],
        "patience": 30,
        "min_improvement": 0.001,
    },
}
DATA = {
    "source": "wikitext",
    "config": "wikitext-2-v1",
    "vocabulary_size": 1000,
    "min_words": 5,
    "window": 64,
    "stride": 32,
}
STUDENT_975 = {1: 12.706204736, 2: 4.302652730, 4: 2.776445105}
"""t(0.975) by degrees of freedom, from printed tables."""


def final_perplexity(depth: int, seed: int) -> float:
    """Lowest at depth 4, and different for every depth and seed."""
    return 20.0 + 0.1 * (depth - 4) ** 2 + 0.03 * seed + 0.01 * (seed * depth % 3)


def write_all(root: Path, depths: Iterable[int] = (1, 4, 6), **options: Any) -> None:
    for depth in depths:
        write_depth(root, depth, **options)


def write_depth(
    root: Path,
    depth: int,
    seeds: int = 5,
    epochs: int = 3,
    parameters: Any = None,
    perplexity_of: Callable[[int, int], float] = final_perplexity,
) -> None:
    """Seed 1 stops one epoch early if there are several seeds and epochs; `perplexity_of` (depth, seed) is reached."""
    runs, rows = [], []
    for seed in range(seeds):
        last = epochs - 1 if seed == 1 and epochs > 1 else epochs
        final = perplexity_of(depth, seed)
        for epoch in range(1, last + 1):
            perplexity = final * (1 + 2 * (last - epoch))
            loss = math.log(perplexity)
            rows.append([depth, seed, epoch, loss + 0.1, loss, perplexity, 0.3, 0.5, 1024.0, 1.5])
        runs.append(
            {
                "seed": seed,
                "val_loss": math.log(final),
                "val_ppl": final,
                "val_accuracy": 0.38 + 0.001 * seed,
                "test_loss": math.log(final - 1),
                "test_ppl": final - 1,
                "test_accuracy": 0.39,
                "train_loss": 3.1,
                "best_epoch": last,
                "epochs_run": last,
                "train_seconds": 10.0 * depth,
                "tokens_per_second": 1e6,
                "stopped_early": last < epochs,
            }
        )
    record = {
        "num_layers": depth,
        "device": "NVIDIA L4",
        "precision": "fp16",
        "torch_version": "2.11.0",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "data_sha256": "ab" * 32,
        "parameters": PARAMETERS if parameters is None else parameters,
        "seeds": runs,
    }
    _write_json(root / f"metrics/runs/{depth}.json", {"runs": [record]})
    _write_json(root / f"metrics/layers/{depth}.json", _layer_metrics(depth, runs))
    curve = root / f"plots/curves/{depth}.csv"
    curve.parent.mkdir(parents=True, exist_ok=True)
    header = "num_layers,seed,epoch,train_loss,val_loss,val_ppl,val_accuracy,gradient_norm,loss_scale,seconds"
    with curve.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    """Rewrites a metrics file after `change` has altered its object (of metrics/runs, the record) in place."""
    value = json.loads(path.read_text())
    change(value["runs"][0] if "runs" in value else value)
    path.write_text(json.dumps(value))


def _layer_metrics(depth: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in runs[0] if name not in ("seed", "stopped_early")]
    metrics: dict[str, Any] = {
        "num_layers": depth,
        "num_params": 1_426_152 + 262_656 * (depth - 1),
        "num_seeds": len(runs),
        **{name: statistics.fmean(run[name] for run in runs) for name in names},
    }
    if len(runs) > 1:
        for name in ("val_ppl", "test_ppl"):
            deviation = statistics.stdev(run[name] for run in runs)
            metrics[f"{name}_std"] = deviation
            metrics[f"{name}_ci95"] = STUDENT_975[len(runs) - 1] * deviation / math.sqrt(len(runs))
    return metrics


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
