"""A made-up ablations/results.json."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.analysis.metrics_files import PARAMETERS
from tests.analysis.studies import PERPLEXITIES

RESIDUAL = {4: 19.9, 6: 20.0, 8: 20.6}
TRAIN_LOSS = 2.8
"""Of the study at every depth, without dropout."""


def experiment(
    means: dict[int, float], share_of: Callable[[int], float | None] = lambda _: 0.9, **switches: Any
) -> dict[str, Any]:
    """Means of perplexity by depth; `share_of` what is won is training loss, the rest gap; None is not measured."""
    changes = switches or {"model.residual": True}
    parameters = {f"{part}.{name}": value for part, values in PARAMETERS.items() for name, value in values.items()}
    depths = []
    for depth, mean in means.items():
        share = share_of(depth)
        won = math.log(PERPLEXITIES.get(depth, mean)) - math.log(mean)
        seeds = [
            {
                "seed": seed,
                "train_loss_without_dropout": None if share is None else TRAIN_LOSS - share * won + 0.001 * (seed % 3),
                "val_loss": math.log(mean + 0.02 * (seed - 2)),
                "val_ppl": mean + 0.02 * (seed - 2),
                "val_accuracy": 0.38,
                "test_ppl": mean - 1,
                "best_epoch": 140 + seed,
                "epochs_run": 150,
                "stopped_early": seed < 2,
                "plateau_epochs": 7 + seed,
            }
            for seed in range(5)
        ]
        depths.append({"num_layers": depth, "initial_norms": [0.5, 2.5, 0.1], "seeds": seeds})
    return {
        "name": "residual",
        "command": "dvc exp run --temp --name residual -S model.residual=true evaluate@4 diagnose@4",
        "changes": changes,
        "parameters": {**parameters, **changes},
        "data_sha256": "ab" * 32,
        "device": "NVIDIA L4",
        "git_commits": ["ab" * 20],
        "git_dirty": False,
        "depths": depths,
    }


def write(root: Path, *experiments: dict[str, Any]) -> None:
    path = root / "ablations/results.json"
    path.parent.mkdir(exist_ok=True)
    named = [{**one, "name": f"{one['name']}{index or ''}"} for index, one in enumerate(experiments)]
    path.write_text(json.dumps({"experiments": named}))
