"""Evaluates one depth's best weights: metrics/layers/<depth>.json and metrics/runs/<depth>.json."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from newllm.analysis.layers import layer_metrics
from newllm.config import load_config
from newllm.files import atomic_path, write_json
from newllm.model.definition import Parameters
from newllm.training.checkpoint import TrainingRecord
from newllm.training.device import DTYPES, choose_device
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.trained import check_val_losses, load_tokens, load_trained, stacks
from stages import run


def main() -> None:
    """Reads models/<depth>/ and the windows of the validation and test splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    num_layers = parser.parse_args().num_layers
    config = load_config(Path("params.yaml"))
    folder = Path("models") / str(num_layers)
    parameters, record = load_trained(folder, num_layers, config)
    seeds = [asdict(result) for result in record.seeds]
    validation, test = (_scores(parameters, record, split) for split in ("validation", "test"))
    check_val_losses(folder, record, [scores["loss"] for scores in validation])
    for seed, val_scores, test_scores in zip(seeds, validation, test, strict=True):
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
    windows = load_tokens(Path(f"data/windows/{split}.npy")).to(device)
    batch_size = record.parameters["train"]["batch_size"]
    rows: list[dict[str, float]] = []
    for _, stack in stacks(parameters, device):
        losses, accuracies = loss_and_accuracy(
            stack, windows, batch_size, DTYPES[record.precision], record.shape.residual
        )
        for loss, accuracy in zip(losses.tolist(), accuracies.tolist(), strict=True):
            rows.append({"loss": loss, "ppl": math.exp(loss), "accuracy": accuracy})
    return rows


if __name__ == "__main__":
    run(main)
