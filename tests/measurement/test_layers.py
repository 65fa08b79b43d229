"""What the seeds of a depth come to, by hand."""

import math

import pytest

from newllm.measurement.layers import layer_metrics, lean

FIGURES = ("val_loss", "val_ppl", "val_accuracy", "test_loss", "test_ppl", "test_accuracy", "train_loss", "best_epoch")
FIGURES += ("epochs_run", "train_seconds", "tokens_per_second")


def test_means_and_intervals_by_hand() -> None:
    seeds = [{name: place + value for place, name in enumerate(FIGURES)} for value in (1, 2, 6)]
    found = layer_metrics(4, 99, [seed | {"seed": 0, "stopped_early": True} for seed in seeds])
    expected: dict[str, float] = {name: place + 3 for place, name in enumerate(FIGURES)}
    for name in ("val_ppl", "test_ppl"):  # squares of the distances from the mean add up to 14
        expected[f"{name}_std"] = pytest.approx(math.sqrt(7))
        expected[f"{name}_ci95"] = pytest.approx(4.302652730 * math.sqrt(7 / 3))  # Student's t of two degrees
    assert found == expected | {"num_layers": 4, "num_params": 99, "num_seeds": 3}


def test_one_seed_has_no_spread() -> None:
    found = layer_metrics(4, 99, [dict.fromkeys(FIGURES, 2)])
    assert found == dict.fromkeys(FIGURES, 2) | {"num_layers": 4, "num_params": 99, "num_seeds": 1}


def test_a_metrics_file_has_a_column_of_what_is_named_alone() -> None:
    assert lean({"a": 1, "b": 2, "c": 3}, ("c", "a")) == {"c": 3, "a": 1, "details": [{"a": 1, "b": 2, "c": 3}]}
