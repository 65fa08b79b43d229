"""A made-up full study in which every claim of the notebook but the one on overfitting holds, to be changed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis.records import Group
from newllm.analysis.study import Study, load_study
from newllm.config import Config, load_config
from tests.analysis.metrics_files import DATA, write_all

PERPLEXITIES = {1: 20.25, 2: 20.12, 3: 20.02, 4: 19.90, 5: 20.10, 6: 20.50, 7: 21.70, 8: 23.0}
"""Means by depth. With the standard deviation 0.0316 of five seeds a difference of two has the interval ± 0.046."""


COMMITTED = load_config(Path(__file__).parents[2] / "params.yaml")


def plan(
    tuned: Sequence[int] = (),
    equal: Mapping[int, int] | None = None,
    recipes: Sequence[str] = (),
    lstm: Sequence[int] = (),
    studied: int = 6,
    baseline: int = 6,
    **data: Any,
) -> Config:
    """Parameters that ask for this of part 2, and for nothing of it by default."""
    sizes = {str(depth): size for depth, size in (equal or {}).items()}
    changes: dict[str, dict[str, Any]] = {
        "data": {**DATA, **data},
        "model": {"num_layers": studied},
        "study": {"baseline_num_layers": baseline},
        "search": {"depths": list(tuned), "equal_parameters": sizes},
        "lstm": {"hidden_sizes": list(lstm)},
    }
    sections = {name: getattr(COMMITTED, name).model_copy(update=values) for name, values in changes.items()}
    return COMMITTED.model_copy(update={**sections, "recipes": dict.fromkeys(recipes)})


NOTHING = plan()


def study(
    root: Path, changes: Mapping[int, float] | None = None, spread: float = 1.0, without: int = 0, **options: Any
) -> Study:
    """Other means by depth in `changes`; standard deviation times `spread`; without one depth."""
    means = {**PERPLEXITIES, **(changes or {})}
    depths = [depth for depth in means if depth != without]
    options = {"epochs": 150, **options}
    write_all(root, depths, perplexity_of=lambda depth, seed: means[depth] + spread * 0.02 * (seed - 2), **options)
    return reload(root, depths)


def reload(root: Path, depths: Any = tuple(PERPLEXITIES), planned: Config = NOTHING, **data: Any) -> Study:
    return load_study(root, depths, planned.model_copy(update={"data": planned.data.model_copy(update=data)}))


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
