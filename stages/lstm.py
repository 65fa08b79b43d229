"""Searches and confirms the best recipe of an LSTM: metrics/lstm/<hidden size>.json, its curves and its weights."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from newllm.config import Config, load_config
from newllm.errors import UserError
from newllm.files import atomic_path, sha256, write_csv, write_json
from newllm.measurement.layers import layer_metrics, lean
from newllm.runtime.device import DTYPES, choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.runtime.parts import PartsStore
from newllm.runtime.provenance import identity, provenance
from newllm.runtime.resume import folder_of_states
from newllm.studies.lstm import lstm_shape
from newllm.studies.lstm_search import find
from newllm.studies.tuning import load_split, parameters_of
from newllm.training.weights import TrainingRecord, save
from stages import run

SHARED = (
    "start",
    "seed",
    "margins",
    "finalists",
    "finalist_seeds",
    "widenings",
    "confirm_seeds",
)  # with New-LLM's search


def main() -> None:
    """Reads params.yaml and the windows of all splits; the test split is for the confirmed models alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-size", type=int, required=True)
    hidden_size = parser.parse_args().hidden_size
    if hidden_size < 1:
        raise UserError(f"lstm.hidden_sizes: found {hidden_size}, expected 1 or more")
    config = load_config(Path("params.yaml"))
    take_gpu()
    device = choose_device(config.train.precision)
    shape = lstm_shape(config.data.vocabulary_size, config.model.embedding_dim, hidden_size)
    files = [Path(f"data/windows/{split}.npy") for split in ("train", "validation", "test")]
    train, validation, test = (load_split(path, shape.vocabulary_size).to(device) for path in files)
    print(f"LSTM of {hidden_size}: {shape.num_params:,} parameters, {config.train.precision}, {describe(device)}")
    about = provenance(Path.cwd(), device) | {
        "data_sha256": sha256(files[0]),
        "precision": config.train.precision,
        "parameters": _sections(config, hidden_size),
    }
    store = PartsStore(
        folder_of_states(os.environ, Path.cwd()),
        f"lstm@{hidden_size}",
        identity(_sections(config, hidden_size) | {"optuna": optuna.__version__}, shape, files[:2], device),
        config.checkpoint.every,
    )
    name = str(hidden_size)
    with (
        store,
        atomic_path(Path("models/lstm") / name) as new_weights,
        atomic_path(Path("plots/lstm") / f"{name}.csv") as new_curves,
        atomic_path(Path("metrics/lstm") / f"{name}.json") as new_metrics,
    ):
        found = find(shape, config, (train, validation), store)
        metrics = found.metrics()
        if ends := metrics["chosen"]["at_end_of_range"]:
            knobs = ", ".join(f"lstm.space.{knob}" for knob in ends)
            print(f"warning: the winner is still at the end of a range: raise search.widenings, or widen {knobs}")
        save(new_weights, found.confirmed, TrainingRecord(shape=shape, seeds=found.confirmed.results, **about))
        write_csv(new_curves, [asdict(row) for row in found.confirmed.curves])
        seeds = found.seeds(test, config.train.batch_size, DTYPES[config.train.precision])
        metrics |= layer_metrics(shape.num_layers, shape.num_params, seeds) | {"hidden_size": hidden_size}
        metrics["runs"] = [about | {"seeds": seeds}]
        write_json(new_metrics, lean(metrics, ("val_ppl", "test_ppl")))


def _sections(config: Config, hidden_size: int) -> dict[str, Any]:
    """Of params.yaml, what the results depend on."""
    return parameters_of(config, hidden_size) | {
        "lstm": config.lstm.model_dump(exclude={"hidden_sizes"}),
        "search": config.search.model_dump(include=set(SHARED)),
    }


if __name__ == "__main__":
    run(main)
