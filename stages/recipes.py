"""Trains and measures a changed recipe of params.yaml.

Writes models/recipes/<name>/, plots/recipes/<name>.csv and metrics/recipes/<name>.json.
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from newllm.config import Config, load_config
from newllm.errors import UserError
from newllm.files import atomic_path, sha256, write_csv, write_json
from newllm.measurement.layers import layer_metrics, lean
from newllm.runtime.device import DTYPES, choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.runtime.provenance import identity, provenance
from newllm.runtime.resume import folder_of_states
from newllm.studies.recipes import changed, seed_figures, shape_of, store_for, train_recipe
from newllm.training.rows import study_rows
from newllm.training.weights import TrainingRecord, load_tokens, save
from stages import run


def main() -> None:
    """Reads params.yaml and the windows of all splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    name = parser.parse_args().name
    given = load_config(Path("params.yaml"))
    config = changed(given, name)
    recipe = given.recipes[name]
    take_gpu()
    device = choose_device(config.train.precision)
    shape = shape_of(config)
    files = [Path(f"data/windows/{split}.npy") for split in ("train", "validation", "test")]
    windows = [load_tokens(path) for path in files]
    for split, path in zip(windows, files, strict=True):
        if (largest := int(split.max())) >= shape.vocabulary_size:
            raise UserError(
                f"{path}: found id {largest}, expected less than data.vocabulary_size = {shape.vocabulary_size}; "
                "run `dvc repro tokenize`"
            )
    windows = [split.to(device) for split in windows]
    print(f"{name}: {shape.num_params:,} parameters, {config.train.precision}, {describe(device)}")
    about = provenance(Path.cwd(), device)
    about |= {"data_sha256": sha256(files[0]), "precision": config.train.precision, "parameters": _sections(config)}
    store = store_for(recipe.continued)(
        folder_of_states(os.environ, Path.cwd()),
        f"recipes@{name}",
        identity(_sections(config) | {"continued": recipe.continued}, shape, files[:2], device),
        config.checkpoint.every,
    )
    with (
        store,
        atomic_path(Path("models/recipes") / name) as new_weights,
        atomic_path(Path("plots/recipes") / f"{name}.csv") as new_curves,
        atomic_path(Path("metrics/recipes") / f"{name}.json") as new_metrics,
    ):
        try:
            training = train_recipe(config, recipe.continued, (windows[0], windows[1]), store)
        except UserError as error:
            raise UserError(f"recipes.{name}: {error}") from None
        save(new_weights, training, TrainingRecord(shape=shape, seeds=training.results, **about))
        write_csv(new_curves, [asdict(row) for row in training.curves])
        rows = study_rows(config.model, config.train)
        dtype = DTYPES[config.train.precision]
        seeds = seed_figures(training, shape, rows, windows, config.train.batch_size, dtype)
        metrics: dict[str, Any] = layer_metrics(shape.num_layers, shape.num_params, seeds)
        metrics |= {"name": name, "changes": recipe.changes(), "runs": [about | {"seeds": seeds}]}
        write_json(new_metrics, lean(metrics, ("val_ppl",)))


def _sections(config: Config) -> dict[str, Any]:
    return {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}


if __name__ == "__main__":
    run(main)
