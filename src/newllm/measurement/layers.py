"""What the seeds of one depth come to together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from newllm.measurement.intervals import mean_interval

MEANS = (
    "val_loss",
    "val_ppl",
    "val_accuracy",
    "test_loss",
    "test_ppl",
    "test_accuracy",
    "train_loss",
    "best_epoch",
    "epochs_run",
    "train_seconds",
    "tokens_per_second",
)
WITH_SPREAD = ("val_ppl", "test_ppl")


def layer_metrics(num_layers: int, num_params: int, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the seeds of one model come to together, from their results.

    Means over seeds; for two seeds or more also the sample standard deviation and the half-width of Student's 95 %
    interval of the perplexities.
    """
    metrics: dict[str, Any] = {"num_layers": num_layers, "num_params": num_params, "num_seeds": len(seeds)}
    for name in MEANS:
        values = [float(seed[name]) for seed in seeds]
        estimate = mean_interval(values)
        metrics[name] = estimate.mean
        if name in WITH_SPREAD and estimate.half_width is not None:
            metrics[f"{name}_std"] = float(np.std(values, ddof=1))
            metrics[f"{name}_ci95"] = estimate.half_width
    return metrics


def lean(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The contents of a metrics file: what people compare, by these names, and everything in a list.

    DVC makes a column of every figure that is not in a list.
    """
    return {name: metrics[name] for name in names} | {"details": [dict(metrics)]}
