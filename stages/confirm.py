"""Trains one depth's best recipe with fresh seeds: models/tuned/<depth>, plots/tuned and metrics/tuned/<depth>.json.

With another hidden size it writes models/equal/<depth>, plots/equal and metrics/equal/<depth>.json.
"""

import argparse
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from newllm.config import load_config
from newllm.errors import UserError
from newllm.files import atomic_path, read_json, sha256, write_csv, write_json
from newllm.measurement.diagnostics import sample_windows
from newllm.measurement.layers import layer_metrics, lean
from newllm.runtime.device import DTYPES, choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.runtime.provenance import identity, provenance
from newllm.runtime.resume import StateStore, folder_of_states
from newllm.studies.search import seed_figures
from newllm.studies.tuning import load_split, load_tuning, outcomes_of, parameters_of, row_of, shape_of
from newllm.training.trainer import train
from newllm.training.weights import TrainingRecord, save, scores
from stages import run

FILES = [Path(f"data/windows/{split}.npy") for split in ("train", "validation", "test")]


def main() -> None:
    """Reads the windows of all splits, metrics/tuning/<depth>.json and for the gain metrics/layers/<depth>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    parser.add_argument("--hidden-size", type=int, help="in place of model.hidden_size: for equal parameters")
    options = parser.parse_args()
    num_layers, hidden_size = options.num_layers, options.hidden_size
    stage, kind = ("confirm", "tuned") if hidden_size is None else ("equal", "equal")
    config = load_config(Path("params.yaml"))
    splits = [load_split(path, config.data.vocabulary_size) for path in FILES]
    recipe = load_tuning(Path(f"metrics/tuning/{num_layers}.json"), num_layers, config, sha256(FILES[0])).recipe
    part_1 = _mean_of_part_1(num_layers) if hidden_size is None else None
    take_gpu()
    device = choose_device(config.train.precision)
    shape = shape_of(config, num_layers, recipe["residual"] is True, hidden_size)
    seeds = config.search.confirm_seeds if hidden_size is None else config.search.equal_seeds
    parameters = parameters_of(config, hidden_size)
    print(f"{stage} depth {num_layers}: {shape.num_params:,} parameters, {recipe}, {describe(device)}")
    windows, validation, test = (split.to(device) for split in splits)
    sample = sample_windows(windows, len(validation))
    about = {**provenance(Path.cwd(), device), "data_sha256": sha256(FILES[0]), "precision": config.train.precision}
    about["parameters"] = parameters
    store = StateStore(
        folder_of_states(os.environ, Path.cwd()),
        f"{stage}@{num_layers}",
        identity({**parameters, "recipe": recipe, "seeds": seeds}, shape, FILES[:2], device),
        config.checkpoint.every,
    )
    # fails now if it must, not at the end
    with (
        store,
        atomic_path(Path("models") / kind / str(num_layers)) as new_weights,
        atomic_path(Path("plots") / kind / f"{num_layers}.csv") as new_curves,
        atomic_path(Path("metrics") / kind / f"{num_layers}.json") as new_metrics,
    ):
        rows = [row_of(recipe, seed, config.train) for seed in seeds]
        training = train(shape, rows, config.train, (windows, validation), store=store)
        training.check_converged()
        save(new_weights, training, TrainingRecord(shape=shape, seeds=training.results, **about))
        write_csv(new_curves, [asdict(row) for row in training.curves])
        scoring = (config.train.batch_size, DTYPES[config.train.precision], shape.residual)
        trained, tested = (scores(training.parameters, split, *scoring) for split in (sample, test))
        figures = [
            seed_figures(outcome)
            | {"train_loss_without_dropout": train_loss, "gap": outcome.result.val_loss - train_loss}
            | {"test_loss": loss, "test_ppl": math.exp(loss), "test_accuracy": accuracy}
            for outcome, (train_loss, _), (loss, accuracy) in zip(outcomes_of(training), trained, tested, strict=True)
        ]
        metrics: dict[str, Any] = layer_metrics(num_layers, shape.num_params, figures)
        if part_1 is not None:
            metrics["gain"] = part_1 - metrics["val_ppl"]
        metrics |= {"recipe": recipe, "hidden_size": shape.hidden_size, "runs": [about | {"seeds": figures}]}
        write_json(new_metrics, lean(metrics, ("val_ppl", "test_ppl")))


def _mean_of_part_1(num_layers: int) -> float:
    """The mean validation perplexity of the depth with part 1's recipe."""
    path, stage = Path(f"metrics/layers/{num_layers}.json"), f"evaluate@{num_layers}"
    found = read_json(path, stage).get("val_ppl")
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(
            f"{path}: val_ppl: found {found!r}, expected a number; run `dvc repro {stage}` to write it again"
        )
    return found


if __name__ == "__main__":
    run(main)
