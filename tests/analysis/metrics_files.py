"""Made-up metrics and curves, consistent with one another, as the train and evaluate stages write them."""

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PARAMETERS: dict[str, Any] = {
    "model": {
        "embedding_dim": 256,
        "context_dim": 256,
        "hidden_size": 512,
        "dropout": 0.1,
        "residual": False,
        "initialisation": "normal",
    },
    "train": {
        "seeds": [0, 1, 2, 3, 4],
        "epochs": 150,
        "batch_size": 2048,
        "base_learning_rate": 1e-4,
        "base_batch_size": 32,
        "schedule": "constant",
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
STUDENT_975 = {1: 12.706204736, 2: 4.302652730, 4: 2.776445105, 9: 2.262157163}
"""t(0.975) by degrees of freedom, from printed tables."""

POSITION_GROUPS = ("", "_full_windows")


def final_perplexity(depth: int, seed: int) -> float:
    """Lowest at depth 4, and different for every depth and seed."""
    return 20.0 + 0.1 * (depth - 4) ** 2 + 0.03 * seed + 0.01 * (seed * depth % 3)


def write_all(root: Path, depths: Iterable[int] = (1, 4, 6), **options: Any) -> None:
    write_data(root)
    for depth in depths:
        write_depth(root, depth, **options)


def write_depth(
    root: Path,
    depth: int,
    seeds: int = 5,
    epochs: int = 3,
    parameters: Any = None,
    perplexity_of: Callable[[int, int], float] = final_perplexity,
    startup: float = 0.0,
    joules: Any = None,
    side_by_side: bool = True,
    device: str = "NVIDIA L4",
) -> None:
    """Seed 1 stops one epoch early if there are several seeds and epochs; `perplexity_of` (depth, seed) is reached.

    An epoch takes 1.5 s, the first one `startup` seconds more; `joules` of an epoch are a column, if given.
    """
    runs, rows = [], []
    for seed in range(seeds):
        last = epochs - 1 if seed == 1 and epochs > 1 else epochs
        final = perplexity_of(depth, seed)
        for epoch in range(1, last + 1):
            perplexity = final * (1 + 2 * (last - epoch))
            loss = math.log(perplexity)
            seconds = 1.5 + startup * (epoch == 1) + (0.0 if side_by_side else 1e-6 * seed)
            energy = [] if joules is None else [joules * (2 if epoch == 1 else 1)]
            rows.append([depth, seed, epoch, loss + 0.1, loss, perplexity, 0.3, 0.5, 1024.0, seconds, *energy])
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
        "device": device,
        "precision": "fp16",
        "torch_version": "2.11.0",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "data_sha256": "ab" * 32,
        "parameters": PARAMETERS if parameters is None else parameters,
        "seeds": runs,
    }
    write_json(root / f"metrics/runs/{depth}.json", {"runs": [record]})
    write_json(
        root / f"metrics/layers/{depth}.json",
        lean(layer_metrics(depth, runs), ("val_ppl", "test_ppl", "val_accuracy")),
    )
    write_curve(root / f"plots/curves/{depth}.csv", rows)


def write_data(root: Path) -> None:
    """metrics/data.json, of the study's corpus, as far as the report reads it."""
    splits = {"train": 51_026, "validation": 5_272, "test": 5_920}
    write_json(
        root / "metrics/data.json",
        {
            "data": [
                {
                    "vocabulary_size": 1000,
                    **{name: {"windows": windows, "unk_share_pct": 30.6} for name, windows in splits.items()},
                }
            ]
        },
    )


def position_loss(read: int, loss: float) -> float:
    """Falls steeply at first; alternates a little."""
    return loss + 1.5 / read + 0.002 * (-1) ** read


def gain_of(read: int, seed: int, beyond: float = 0.01) -> float:
    """Falls from 1.5 nats at the first token to `beyond` after ten, where the mean over seeds 0 to 4 is that."""
    return max(1.5 / read - 0.15, 0) + beyond + 0.001 * (seed * 2 % 5 - 2) + 0.004 * (-1) ** read * (read < 31)


def write_diagnostics(
    root: Path,
    depth: int,
    train_loss_of: Callable[[int, int], float] | None = None,
    stride: int = 32,
    **gains: float,
) -> None:
    """metrics/diagnostics/<depth>.json beside the metrics/runs/<depth>.json that is there.

    `train_loss_of` (depth, seed) is without dropout; 0.1 less than validation loss unless given.
    """
    runs = json.loads((root / f"metrics/runs/{depth}.json").read_text())["runs"][0]["seeds"]
    norms = {f"hidden.{layer}.weight": 0.1 * layer for layer in range(1, depth + 1)} | {"output.weight": 1.0}
    seeds = []
    for run in runs:
        val_loss = run["val_loss"]
        train_loss = train_loss_of(depth, run["seed"]) if train_loss_of else val_loss - 0.1
        losses = [position_loss(read, val_loss) for read in range(1, 64)]
        seeds.append(
            {
                "seed": run["seed"],
                "train_loss_without_dropout": train_loss,
                "val_loss": val_loss,
                "gap": val_loss - train_loss,
                "val_loss_without_unk": val_loss + 0.9,
                "val_ppl_without_unk": math.exp(val_loss + 0.9),
                **{f"val_loss_by_position{name}": losses for name in POSITION_GROUPS},
                "context_gain_by_position": [gain_of(read, run["seed"], **gains) for read in range(1, 64 - stride)],
                "gradient_norms": {"initial": {name: 0.01 * norm for name, norm in norms.items()}, "best": norms},
            }
        )
    record = {
        "num_layers": depth,
        "device": "NVIDIA L4",
        "precision": "fp16",
        "train_windows": 5272,
        "val_windows": 5272,
        "gradient_windows": 2048,
        **{f"targets_by_position{name}": [900] * 63 for name in POSITION_GROUPS},
        "context_stride": stride,
        "context_pairs": 700 if stride < 63 else 0,
        "seeds": seeds,
        "samples": {
            "seed": runs[0]["seed"],
            "texts": [{"prompt": "he was born", "greedy": "in the <unk> of *the* | `", "sampled": "at _ 1 <eos>"}],
        },
    }
    write_json(root / f"metrics/diagnostics/{depth}.json", {"diagnostics": [record]})


def write_expand(root: Path, depth: int, pattern: str, gain: float, epochs: int = 3, noise: float = 0.01) -> None:
    """metrics/expand/ and plots/expand/ of one pattern: `gain` below the base's perplexity, seed by seed."""
    runs = json.loads((root / f"metrics/runs/{depth}.json").read_text())["runs"][0]["seeds"]
    seeds, rows = [], []
    for run in runs:
        perplexity = run["val_ppl"] - gain + noise * (run["seed"] * 2 % 5 - 2)
        start = math.log(1000) if pattern == "scratch" else run["val_loss"] + 1e-5
        own = {"val_ppl": perplexity, "val_loss": math.log(perplexity), "test_ppl": perplexity - 1}
        own |= {"test_loss": math.log(perplexity - 1), "best_epoch": epochs, "epochs_run": epochs}
        own |= {"stopped_early": False, "start_val_loss": start, "base_val_loss": run["val_loss"]}
        seeds.append({**run, **own})
        for epoch in range(1, epochs + 1):
            value = perplexity + (math.exp(start) - perplexity) * (epochs - epoch) / epochs / epoch
            rows.append([depth, run["seed"], epoch, 3.1, math.log(value), value, 0.3, 0.5, 1024.0, 1.5])
    context = 256 if pattern == "longer" else 512
    num_params = 1_426_152 + 262_656 * (depth - 1) + (0 if pattern == "longer" else 525_056)
    about = {"pattern": pattern, "context_dim": context, "norm_blocks": context // 256, "device": "NVIDIA L4"}
    about |= {"torch_version": "2.11.0", "git_commit": "0123456789abcdef0123456789abcdef01234567", "git_dirty": False}
    metrics = layer_metrics(depth, seeds) | {"num_params": num_params, "runs": [about | {"seeds": seeds}]}
    write_json(root / f"metrics/expand/{depth}-{pattern}.json", lean(metrics, ("val_ppl", "test_ppl")))
    write_curve(root / f"plots/expand/{depth}-{pattern}.csv", rows)


def write_supplements(root: Path, depths: Iterable[int] = (1, 4, 6)) -> None:
    """Diagnoses and grown contexts of depths whose results are there."""
    for depth in depths:
        write_diagnostics(root, depth)
        if depth in (1, 4):
            for pattern, gain in (("freeze", 0.1), ("finetune", 0.5), ("longer", 0.2), ("scratch", 0.4)):
                write_expand(root, depth, pattern, gain)


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    """Rewrites a metrics file after `change` has altered its object in place: that in its list, where it has one."""
    value = json.loads(path.read_text())
    key = next((key for key in ("runs", "details", "data") if key in value), None)
    change(value[key][0] if key else value)
    if key == "details":  # the plain figures are those of the list
        value |= {name: found for name, found in value[key][0].items() if name in value}
    path.write_text(json.dumps(value))


def lean(metrics: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: metrics[name] for name in names} | {"details": [metrics]}


def write_curve(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "num_layers,seed,epoch,train_loss,val_loss,val_ppl,val_accuracy,gradient_norm,loss_scale,seconds,joules"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(",")[: len(rows[0])], *rows])


def layer_metrics(depth: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
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


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
