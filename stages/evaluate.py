"""Evaluates one depth's best weights: metrics/layers/<depth>.json and metrics/runs/<depth>.json."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from newllm.analysis.layers import layer_metrics
from newllm.config import load_config
from newllm.data.windows import load_windows
from newllm.errors import UserError
from newllm.files import atomic_path, write_json
from newllm.model.definition import Parameters
from newllm.training.checkpoint import TrainingRecord, load
from newllm.training.device import DTYPES, choose_device
from newllm.training.evaluation import loss_and_accuracy
from stages import run

TOLERANCE = 0.01  # nats between training's validation loss and the same weights' here; rounding makes some 1e-4


def main() -> None:
    """Reads models/<depth>/ and the windows of the validation and test splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    num_layers = parser.parse_args().num_layers
    config = load_config(Path("params.yaml"))
    folder = Path("models") / str(num_layers)
    parameters, record = load(folder, num_layers)
    wanted = {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}
    if record.parameters != wanted or record.shape.vocabulary_size != config.data.vocabulary_size:
        raise UserError(
            f"{folder}: trained with parameters other than those of params.yaml; run `dvc repro train@{num_layers}`"
        )
    seeds = [asdict(result) for result in record.seeds]
    validation, test = (_scores(parameters, record, split) for split in ("validation", "test"))
    for seed, val_scores, test_scores in zip(seeds, validation, test, strict=True):
        if abs(val_scores["loss"] - seed["val_loss"]) > TOLERANCE:
            raise UserError(
                f"{folder}: seed {seed['seed']}: found a validation loss of {val_scores['loss']:.4f}, but training "
                f"recorded {seed['val_loss']:.4f}: weights, windows and record do not belong together, or the "
                f"computation differs from training's; run `dvc repro --force train@{num_layers}`"
            )
        seed |= {f"val_{name}": value for name, value in val_scores.items()}
        seed |= {f"test_{name}": value for name, value in test_scores.items()}
    provenance = record.model_dump(exclude={"shape", "seeds"})
    # in a list, which DVC does not take for figures to compare
    runs = {"num_layers": num_layers, **provenance, "seeds": seeds}
    places = [Path("metrics") / kind / f"{num_layers}.json" for kind in ("runs", "layers")]
    with atomic_path(places[0]) as new_runs, atomic_path(places[1]) as new_layers:
        write_json(new_runs, {"runs": [runs]})
        write_json(new_layers, layer_metrics(num_layers, record.shape.num_params, seeds))


def _scores(parameters: Parameters, record: TrainingRecord, split: str) -> list[dict[str, float]]:
    """Loss, perplexity and accuracy of every seed on a split."""
    device = choose_device(record.precision)
    windows = torch.from_numpy(load_windows(Path(f"data/windows/{split}.npy")).astype("int32")).to(device)
    num_seeds = len(record.seeds)
    rows: list[dict[str, Any]] = []
    for seeds in torch.arange(num_seeds).split(num_seeds if device.type == "cuda" else 1):  # as in training
        stack = {name: value[seeds].to(device) for name, value in parameters.items()}
        batch_size = record.parameters["train"]["batch_size"]
        losses, accuracies = loss_and_accuracy(stack, windows, batch_size, DTYPES[record.precision])
        for loss, accuracy in zip(losses.tolist(), accuracies.tolist(), strict=True):
            rows.append({"loss": loss, "ppl": math.exp(loss), "accuracy": accuracy})
    return rows


if __name__ == "__main__":
    run(main)
