"""Trains one depth's best weights further, with a larger context or without: metrics/expand/<depth>-<pattern>.json."""

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
from newllm.runtime.resume import StateStore, folder_of_states
from newllm.studies.expansion import PATTERNS, begin, check_frozen, seed_figures
from newllm.training.rows import study_rows
from newllm.training.trainer import train
from newllm.training.weights import TrainingRecord, load_tokens, load_trained, save, scores
from stages import run


def main() -> None:
    """Reads models/<depth>/ and the windows of all splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    parser.add_argument("--pattern", choices=PATTERNS, required=True)
    options = parser.parse_args()
    num_layers, pattern = options.num_layers, options.pattern
    config = load_config(Path("params.yaml"))
    take_gpu()
    device = choose_device(config.train.precision)
    folder = Path("models") / str(num_layers)
    base, record = load_trained(folder, num_layers, config)
    rows = study_rows(config.model, config.train)
    shape, start = begin(pattern, base, record.shape, rows, config.expand)
    files = [Path(f"data/windows/{split}.npy") for split in ("train", "validation", "test")]
    windows = [load_tokens(path).to(device) for path in files]
    if sha256(files[0]) != record.data_sha256:
        raise UserError(f"{files[0]}: not the windows that {folder} was trained on; run `dvc repro train@{num_layers}`")
    scoring = (config.train.batch_size, DTYPES[config.train.precision], shape.residual)
    before = scores(start.parameters, windows[1], *scoring)
    name = f"{num_layers}-{pattern}"
    print(f"{name}: {shape.num_params:,} parameters, {config.train.precision}, {describe(device)}")
    about = provenance(Path.cwd(), device)
    store = StateStore(
        folder_of_states(os.environ, Path.cwd()),
        f"expand@{name}",
        identity(_sections(config), shape, files[:2], device, (start.parameters, start.learns, start.phase)),
        config.checkpoint.every,
    )
    with (
        store,
        atomic_path(Path("models/expand") / name) as new_weights,
        atomic_path(Path("plots/expand") / f"{name}.csv") as new_curves,
        atomic_path(Path("metrics/expand") / f"{name}.json") as new_metrics,
    ):
        training = train(shape, rows, config.train, (windows[0], windows[1]), start=start, store=store)
        training.check_converged()
        check_frozen(start, training.parameters)
        grown = TrainingRecord(
            shape=shape,
            parameters=_sections(config),
            data_sha256=record.data_sha256,
            precision=config.train.precision,
            seeds=training.results,
            **about,
        )
        save(new_weights, training, grown)
        write_csv(new_curves, [asdict(row) for row in training.curves])
        seeds = seed_figures(training, before, record.seeds, scores(training.parameters, windows[2], *scoring))
        metrics: dict[str, Any] = layer_metrics(num_layers, shape.num_params, seeds)
        for key in ("start_val_loss", "base_val_loss"):
            metrics[key] = sum(seed[key] for seed in seeds) / len(seeds)
        about |= {"pattern": pattern, "context_dim": shape.context_dim, "norm_blocks": shape.norm_blocks}
        metrics["runs"] = [about | {"seeds": seeds}]
        write_json(new_metrics, lean(metrics, ("val_ppl", "test_ppl")))


def _sections(config: Config) -> dict[str, Any]:
    sections = {name: getattr(config, name).model_dump() for name in ("model", "train", "expand")}
    del sections["model"]["num_layers"]  # that of the experiment, which is not the depth
    return sections


if __name__ == "__main__":
    run(main)
