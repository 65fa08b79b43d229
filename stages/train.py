"""Trains one depth with all seeds: models/<depth>/ and plots/curves/<depth>.csv."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from newllm.config import Config, load_config
from newllm.data.windows import load_windows
from newllm.errors import UserError
from newllm.files import atomic_path, check_sha256, sha256, write_csv
from newllm.model.definition import ModelShape
from newllm.runtime.device import choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.runtime.provenance import identity, provenance
from newllm.runtime.resume import StateStore, folder_of_states
from newllm.training.rows import study_rows
from newllm.training.trainer import train
from newllm.training.weights import TrainingRecord, save
from stages import run

WINDOWS = Path("data/windows")


def main() -> None:
    """Reads params.yaml and the windows of the training and validation splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    num_layers = parser.parse_args().num_layers
    if num_layers < 1:
        raise UserError(f"model.num_layers: found {num_layers}, expected 1 or more")
    config = load_config(Path("params.yaml"))
    take_gpu()
    device = choose_device(config.train.precision)
    model = config.model
    shape = ModelShape(
        config.data.vocabulary_size,
        model.embedding_dim,
        model.context_dim,
        model.hidden_size,
        num_layers,
        residual=model.residual,
    )
    files = [WINDOWS / f"{split}.npy" for split in ("train", "validation")]
    arrays = [load_windows(path) for path in files]
    for array, path in zip(arrays, files, strict=True):
        check_sha256(path, "tokenize")
        if (largest := int(array.max())) >= shape.vocabulary_size:
            raise UserError(
                f"{path}: found id {largest}, expected less than data.vocabulary_size = {shape.vocabulary_size}; "
                "run `dvc repro tokenize`"
            )
    windows = tuple(torch.from_numpy(array.astype("int32")).to(device) for array in arrays)
    print(f"depth {num_layers}: {shape.num_params:,} parameters, {config.train.precision}, {describe(device)}")
    weights, curves = Path("models") / str(num_layers), Path("plots/curves") / f"{num_layers}.csv"
    store = StateStore(
        folder_of_states(os.environ, Path.cwd()),
        f"train@{num_layers}",
        identity(_sections(config), shape, files, device),
        config.checkpoint.every,
    )
    about = provenance(Path.cwd(), device)
    # fails now if it must, not at the end
    with store, atomic_path(weights) as new_weights, atomic_path(curves) as new_curves:
        rows = study_rows(model, config.train)
        training = train(shape, rows, config.train, (windows[0], windows[1]), store=store)
        training.check_converged()
        record = TrainingRecord(
            shape=shape,
            parameters=_sections(config),
            data_sha256=sha256(files[0]),
            precision=config.train.precision,
            seeds=training.results,
            **about,
        )
        save(new_weights, training, record)
        write_csv(new_curves, [asdict(row) for row in training.curves])


def _sections(config: Config) -> dict[str, Any]:
    return {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}


if __name__ == "__main__":
    run(main)
