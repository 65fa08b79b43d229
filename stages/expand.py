"""Trains one depth's best weights further, with a larger context or without: metrics/expand/<depth>-<pattern>.json.

Patterns: `freeze` grows the context and keeps every old weight; `finetune` grows it and trains everything; `longer`
trains the model as it is for as long again; `scratch` trains a fresh model of the grown size. The last two are what the
first two have to be compared with.
"""

import argparse
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from newllm.analysis.layers import layer_metrics
from newllm.config import Config, load_config
from newllm.errors import UserError
from newllm.files import atomic_path, sha256, write_csv, write_json
from newllm.model.definition import ModelShape, Parameters, initial_parameters
from newllm.model.growth import grow, grown_shape, is_new
from newllm.training.checkpoint import TrainingRecord, save
from newllm.training.device import DTYPES, choose_device, describe
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.provenance import identity, provenance
from newllm.training.states import States, folder_of_states
from newllm.training.trained import load_tokens, load_trained, stacks
from newllm.training.trainer import Start, train
from stages import run

PATTERNS = ("freeze", "finetune", "longer", "scratch")


def main() -> None:
    """Reads models/<depth>/ and the windows of all splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-layers", type=int, required=True)
    parser.add_argument("--pattern", choices=PATTERNS, required=True)
    options = parser.parse_args()
    num_layers, pattern = options.num_layers, options.pattern
    config = load_config(Path("params.yaml"))
    device = choose_device(config.train.precision)
    folder = Path("models") / str(num_layers)
    base, record = load_trained(folder, num_layers, config)
    shape, start = begin(pattern, base, record.shape, config)
    files = [Path(f"data/windows/{split}.npy") for split in ("train", "validation", "test")]
    windows = [load_tokens(path).to(device) for path in files]
    if sha256(files[0]) != record.data_sha256:
        raise UserError(f"{files[0]}: not the windows that {folder} was trained on; run `dvc repro train@{num_layers}`")
    before = _scores(start.parameters, windows[1], config)
    name = f"{num_layers}-{pattern}"
    print(f"{name}: {shape.num_params:,} parameters, {config.train.precision}, {describe(device)}")
    places = [Path("models/expand") / name, Path("plots/expand") / f"{name}.csv"]
    places.append(Path("metrics/expand") / f"{name}.json")
    about = provenance(Path.cwd(), device)
    states = States(
        folder_of_states(os.environ, Path.cwd()),
        f"expand@{name}",
        identity(_sections(config), shape, files[:2], device, (start.parameters, start.learns, start.phase)),
        config.checkpoint.every,
    )
    with (
        states,
        atomic_path(places[0]) as new_weights,
        atomic_path(places[1]) as new_curves,
        atomic_path(places[2]) as new,
    ):
        training = train(
            shape, config.model.dropout, config.train, (windows[0], windows[1]), start=start, states=states
        )
        if start.learns is not None:
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
        test = _scores(training.parameters, windows[2], config)
        results = [asdict(result) for result in training.results]
        for result, first, base_result, (loss, accuracy) in zip(results, before, record.seeds, test, strict=True):
            best = next(
                row for row in training.curves if (row.seed, row.epoch) == (result["seed"], result["best_epoch"])
            )
            result |= {"start_val_loss": first[0], "base_val_loss": base_result.val_loss}
            result |= {"val_ppl": best.val_ppl, "val_accuracy": best.val_accuracy}
            result |= {"test_loss": loss, "test_ppl": math.exp(loss), "test_accuracy": accuracy}
        metrics = layer_metrics(num_layers, shape.num_params, results)
        for key in ("start_val_loss", "base_val_loss"):
            metrics[key] = sum(result[key] for result in results) / len(results)
        about |= {"pattern": pattern, "context_dim": shape.context_dim, "norm_blocks": shape.norm_blocks}
        # in a list, which DVC does not take for figures to compare
        write_json(new, metrics | {"runs": [about | {"seeds": results}]})


def begin(pattern: str, base: Parameters, shape: ModelShape, config: Config) -> tuple[ModelShape, Start]:
    """Sizes and start of a pattern's training, from the best weights [S, ...] of the model of sizes `shape`."""
    grown = grown_shape(shape, config.expand.context_factor, config.expand.joint_norm)
    seeds = config.train.seeds
    if pattern == "longer":
        return shape, Start(base)
    if pattern == "scratch":
        return grown, Start(initial_parameters(grown, seeds), phase=0)
    learns = is_new(shape, grown) if pattern == "freeze" else None
    return grown, Start(grow(base, shape, grown, seeds), learns)


def check_frozen(start: Start, parameters: Parameters) -> None:
    """Raises RuntimeError if an entry that does not learn has changed in any bit."""
    assert start.learns is not None  # noqa: S101 (the caller has looked)
    for name, learns in start.learns.items():
        frozen = ~learns.expand_as(parameters[name])
        if not torch.equal(start.parameters[name][frozen], parameters[name][frozen]):
            raise RuntimeError(f"{name}: a frozen weight has changed")


def _scores(parameters: Parameters, windows: Tensor, config: Config) -> list[tuple[float, float]]:
    """Loss in nats and accuracy of every seed, on the windows' device."""
    residual = config.model.residual
    batch_size, dtype = config.train.batch_size, DTYPES[config.train.precision]
    rows: list[tuple[float, float]] = []
    for _, stack in stacks(parameters, windows.device):
        losses, accuracies = loss_and_accuracy(stack, windows, batch_size, dtype, residual)
        rows += zip(losses.tolist(), accuracies.tolist(), strict=True)
    return rows


def _sections(config: Config) -> dict[str, Any]:
    sections = {name: getattr(config, name).model_dump() for name in ("model", "train", "expand")}
    del sections["model"]["num_layers"]  # that of the experiment, which is not the depth
    return sections


if __name__ == "__main__":
    run(main)
