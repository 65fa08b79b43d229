"""Made-up files of part 2 beside the made-up study, as the tune, confirm, equal, recipes and lstm stages write them."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

from tests.analysis.metrics_files import PARAMETERS, layer_metrics, lean, write_curve, write_json

RECIPE = {"learning_rate_factor": 2.0, "dropout": 0.3, "residual": True, "initialisation": "he", "schedule": "linear"}
ABOUT = {
    "device": "NVIDIA H200",
    "torch_version": "2.11.0",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "git_problem": None,
    "data_sha256": "ab" * 32,
    "precision": "fp16",
    "parameters": PARAMETERS,
}


def _confirmed(root: Path, kind: str, key: int | str, depth: int, mean: float, seeds: int, **more: Any) -> None:
    """Perplexities `mean` ± 0.02 from seed to seed, reached in the last of four epochs; an epoch takes 1.5 s."""
    runs, rows = [], []
    for index in range(seeds):
        seed, perplexity = 10 + index, mean + 0.02 * (index - (seeds - 1) / 2)
        loss = math.log(perplexity)
        for epoch in range(1, 5):
            value = perplexity * (1 + 0.5 * (4 - epoch))
            rows.append([depth, seed, epoch, 3.1, math.log(value), value, 0.3, 0.5, 1024.0, 1.5, 200.0])
        runs.append(
            {
                "seed": seed, "best_epoch": 4, "epochs_run": 4, "stopped_early": False, "train_loss": 3.1,
                "val_loss": loss, "val_ppl": perplexity, "val_accuracy": 0.39, "test_loss": math.log(perplexity - 1),
                "test_ppl": perplexity - 1, "test_accuracy": 0.395, "train_seconds": 6.0, "tokens_per_second": 1e6,
                "ended": "epochs", "problem": None, "train_loss_without_dropout": loss - 0.3, "gap": 0.3,
                "initial_norms": [1.5] * depth,
            }
        )  # fmt: skip
    numbers = [{key: value for key, value in run.items() if isinstance(value, float | int)} for run in runs]
    metrics = layer_metrics(depth, numbers)
    for name in ("gap", "train_loss_without_dropout"):
        del metrics[name]
    details = {**metrics, **more, "runs": [{**ABOUT, "seeds": runs}]}
    write_json(root / f"metrics/{kind}/{key}.json", lean(details, ("val_ppl",)))
    write_curve(root / f"plots/{kind}/{key}.csv", rows)


def write_tuned(root: Path, depth: int, mean: float, **recipe: Any) -> None:
    """Search and confirmation of a depth, with ten seeds; part 1's own file must be there."""
    write_json(root / f"metrics/tuning/{depth}.json", {"tuning": [search(depth, mean, {**RECIPE, **recipe})]})
    _confirmed(root, "tuned", depth, depth, mean, 10, recipe={**RECIPE, **recipe}, hidden_size=512, gain=0.5)


def write_equal(root: Path, depth: int, mean: float, hidden: int) -> None:
    _confirmed(root, "equal", depth, depth, mean, 5, recipe=RECIPE, hidden_size=hidden)


def write_recipe(root: Path, name: str, depth: int, mean: float, **changes: Any) -> None:
    _confirmed(root, "recipes", name, depth, mean, 5, name=name, changes=changes)


def write_lstm(root: Path, hidden: int, mean: float) -> None:
    recipe = {"learning_rate_factor": 1.0, "dropout": 0.4, "schedule": "linear"}
    found = {
        key: value
        for key, value in search(1, mean, recipe).items()
        if key in ("space", "trials", "finalists", "chosen")
    }
    _confirmed(root, "lstm", hidden, 1, mean, 10, recipe=recipe, hidden_size=hidden, **found)


def write_part_two(root: Path) -> None:
    """Everything, of a few depths."""
    for depth, mean in ((1, 19.4), (4, 19.2), (6, 19.21)):
        write_tuned(root, depth, mean)
    write_equal(root, 4, 19.25, 464)
    write_equal(root, 6, 19.3, 400)
    write_recipe(root, "he-6", 6, 20.1, initialisation="he")
    write_recipe(root, "notebook-6", 6, 20.4, continued=[50, 150])
    write_lstm(root, 396, 19.6)


def change_details(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document["details"][0])
    path.write_text(json.dumps(document))


def search(depth: int, mean: float, chosen: dict[str, Any]) -> dict[str, Any]:
    """Twenty trials: dropout matters much, the rate a little; one is pruned and one diverged, as did one finalist."""
    trials = []
    for number, (dropout, rate) in enumerate(itertools.product((0.0, 0.1, 0.2, 0.3, 0.4), (0.5, 1.0, 2.0, 4.0))):
        value: float | None = mean + 8 * (dropout - 0.3) ** 2 + 0.02 * abs(math.log2(rate / 2)) + 0.001 * depth
        diverged, pruned = number == 3, number == 5
        loss = None if diverged or value is None else math.log(value)
        trials.append(
            {
                "number": number, "round": 1, "recipe": {**chosen, "dropout": dropout, "learning_rate_factor": rate},
                "seed": 0, "val_loss": loss, "val_ppl": None if diverged else value, "best_epoch": 0 if diverged else 9,
                "epochs_run": 1 if diverged else 9, "ended": "diverged" if diverged else "epochs", "pruned": pruned,
                "problem": "the loss is not finite" if diverged else None, "train_seconds": 9.0,
            }
        )  # fmt: skip
    seeds = [{"seed": seed, "val_ppl": mean, "train_seconds": 6.0} for seed in (1, 2, 3)]
    failed = [
        *seeds[1:],
        {"seed": 1, "train_seconds": 6.0, "val_ppl": None, "val_loss": None, "train_loss": None, "val_accuracy": None},
    ]
    finalists = [{"recipe": chosen, "trials": [14], "seeds": seeds, "val_ppl": mean}]
    finalists += [{"recipe": {**chosen, "dropout": 0.0}, "trials": [0], "seeds": failed, "val_ppl": None}]
    best = {"recipe": chosen, "val_ppl": mean, "why": "the lowest mean", "at_end_of_range": ["dropout"]}
    about = {"num_layers": depth, "num_params": 1, "seed": 0, "space": {"dropout": [0.0, 0.4]}}
    return {**about, **ABOUT, "trials": trials, "finalists": finalists, "chosen": best}
