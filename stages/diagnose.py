"""Looks into one depth's best weights: overfitting, `<unk>`, context, gradients, samples of text.

Writes metrics/diagnostics/<depth>.json.
"""

import argparse
from pathlib import Path
from typing import Any

from newllm.config import load_config
from newllm.data.vocabulary import load_tokenizer
from newllm.errors import UserError
from newllm.files import check_sha256, sha256, write_json
from newllm.measurement.diagnostics import (
    GRADIENT_WINDOWS,
    overlapping,
    sample_windows,
    seed_diagnostics,
    targets_by_position,
)
from newllm.measurement.samples import continuations
from newllm.runtime.device import DTYPES, choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.training.weights import check_val_losses, load_tokens, load_trained, stacks
from stages import run

TRAIN, VALIDATION = (Path(f"data/windows/{split}.npy") for split in ("train", "validation"))
TOKENIZER = Path("data/tokenizer.json")


def main() -> None:
    """Reads models/<depth>/, the tokenizer and the windows of the training and validation splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    num_layers = parser.parse_args().num_layers
    folder = Path("models") / str(num_layers)
    config = load_config(Path("params.yaml"))
    parameters, record = load_trained(folder, num_layers, config)
    windows = load_tokens(TRAIN)
    if sha256(TRAIN) != record.data_sha256:
        raise UserError(f"{TRAIN}: not the windows that {folder} was trained on; run `dvc repro train@{num_layers}`")
    tokenizer = load_tokenizer(TOKENIZER)
    check_sha256(TOKENIZER, "build_vocabulary")
    num_tokens = tokenizer.get_vocab_size()
    if num_tokens != record.shape.vocabulary_size:
        raise UserError(
            f"{TOKENIZER}: found {num_tokens} tokens, expected the {record.shape.vocabulary_size} of {folder}; "
            "run `dvc repro build_vocabulary` to write it again"
        )
    take_gpu()
    device = choose_device(record.precision)
    validation = load_tokens(VALIDATION).to(device)
    sample = sample_windows(windows, len(validation)).to(device)
    batch_size, dtype = record.parameters["train"]["batch_size"], DTYPES[record.precision]
    stride, residual = config.data.stride, record.shape.residual
    figures: list[dict[str, Any]] = []
    for rows, stack in stacks(parameters, device):
        seeds = [result.seed for result in record.seeds[rows]]
        figures += seed_diagnostics(record.shape, stack, seeds, (sample, validation), stride, batch_size, dtype)
    check_val_losses(folder, record, [seed["val_loss"] for seed in figures])
    diagnostics = {
        "num_layers": num_layers,
        "device": describe(device),
        "precision": record.precision,
        "train_windows": len(sample),
        "val_windows": len(validation),
        "gradient_windows": min(len(sample), GRADIENT_WINDOWS),
        **targets_by_position(validation),
        "context_stride": stride,
        "context_pairs": len(overlapping(validation, stride)),
        "seeds": figures,
        "samples": {
            "seed": record.seeds[0].seed,
            "texts": continuations({name: value[:1] for name, value in parameters.items()}, tokenizer, residual),
        },
    }
    # in a list, which DVC does not take for figures to compare
    write_json(Path("metrics/diagnostics") / f"{num_layers}.json", {"diagnostics": [diagnostics]})


if __name__ == "__main__":
    run(main)
