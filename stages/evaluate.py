"""Evaluates one depth's best weights: metrics/layers/<depth>.json and metrics/runs/<depth>.json."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from newllm.config import load_config
from newllm.files import atomic_path, write_json
from newllm.measurement.layers import layer_metrics, lean
from newllm.runtime.device import DTYPES, choose_device
from newllm.runtime.gpus import take_gpu
from newllm.training.weights import check_val_losses, load_tokens, load_trained, scores
from stages import run


def main() -> None:
    """Reads models/<depth>/ and the windows of the validation and test splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    num_layers = parser.parse_args().num_layers
    config = load_config(Path("params.yaml"))
    folder = Path("models") / str(num_layers)
    parameters, record = load_trained(folder, num_layers, config)
    take_gpu()
    device = choose_device(record.precision)
    seeds = [asdict(result) for result in record.seeds]
    for split in ("validation", "test"):
        windows = load_tokens(Path(f"data/windows/{split}.npy")).to(device)
        found = scores(parameters, windows, config.train.batch_size, DTYPES[record.precision], record.shape.residual)
        if split == "validation":
            check_val_losses(folder, record, [loss for loss, _ in found])
        name = "val" if split == "validation" else split
        for seed, (loss, accuracy) in zip(seeds, found, strict=True):
            seed |= {f"{name}_loss": loss, f"{name}_ppl": math.exp(loss), f"{name}_accuracy": accuracy}
    runs = {"num_layers": num_layers, **record.model_dump(exclude={"shape", "seeds"}), "seeds": seeds}
    metrics = layer_metrics(num_layers, record.shape.num_params, seeds)
    places = [Path("metrics") / kind / f"{num_layers}.json" for kind in ("runs", "layers")]
    with atomic_path(places[0]) as new_runs, atomic_path(places[1]) as new_layers:
        write_json(new_runs, {"runs": [runs]})  # in a list, which DVC does not take for figures to compare
        write_json(new_layers, lean(metrics, ("val_ppl", "test_ppl", "val_accuracy")))


if __name__ == "__main__":
    run(main)
