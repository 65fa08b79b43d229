"""A made-up full study in which every claim of the notebook but the one on overfitting holds, to be changed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis.part2 import Planned
from newllm.analysis.records import Group
from newllm.analysis.study import NOTHING, Study, load_study
from tests.analysis.metrics_files import DATA, write_all

PERPLEXITIES = {1: 20.25, 2: 20.12, 3: 20.02, 4: 19.90, 5: 20.10, 6: 20.50, 7: 21.70, 8: 23.0}
"""Means by depth. With the standard deviation 0.0316 of five seeds a difference of two has the interval ± 0.046."""


def study(
    root: Path, changes: Mapping[int, float] | None = None, spread: float = 1.0, without: int = 0, **options: Any
) -> Study:
    """Other means by depth in `changes`; standard deviation times `spread`; without one depth."""
    means = {**PERPLEXITIES, **(changes or {})}
    depths = [depth for depth in means if depth != without]
    options = {"epochs": 150, **options}
    write_all(root, depths, perplexity_of=lambda depth, seed: means[depth] + spread * 0.02 * (seed - 2), **options)
    return reload(root, depths)


def reload(root: Path, depths: Any = tuple(PERPLEXITIES), planned: Planned = NOTHING, **data: Any) -> Study:
    return load_study(root, depths, 6, 6, {**DATA, **data}, planned)


def models(
    changes: Mapping[int, float] | None = None,
    spread: float = 1.0,
    without: int = 0,
    seeds: int = 5,
    epochs: int = 150,
    stopped: bool = False,
    train_loss: Any = None,
) -> dict[int, Group]:
    """The same by depth, without files or curves; `train_loss` (depth, seed) is None where not measured."""
    groups = {}
    for depth, mean in {**PERPLEXITIES, **(changes or {})}.items():
        values = [mean + spread * 0.02 * (seed - 2) for seed in range(seeds)]
        table = {
            "seed": range(seeds), "val_ppl": values, "val_loss": [math.log(value) for value in values],
            "test_ppl": [value - 1 for value in values], "best_epoch": epochs, "epochs_run": epochs,
            "stopped_early": stopped, "val_accuracy": 0.38, "test_accuracy": 0.39,
            "train_loss_without_dropout": [train_loss and train_loss(depth, seed) for seed in range(seeds)],
        }  # fmt: skip
        num_params = 1_426_152 + 262_656 * (depth - 1)
        groups[depth] = Group("notebook", "notebook", depth, num_params, pd.DataFrame(table), pd.DataFrame(), {}, {})
    groups.pop(without, None)
    return groups
