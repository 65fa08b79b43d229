"""A project's folder with two small models, as the stages leave it; weights are random, and large enough to matter."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.config import load_config
from newllm.data.vocabulary import build_tokenizer, save_tokenizer
from newllm.files import write_checksum, write_json
from newllm.model.definition import ModelShape, Parameters, initial_parameters
from newllm.studies.tuning import parameters_of
from newllm.training.records import RowResult, Training
from newllm.training.weights import TrainingRecord, save

ROWS = [
    "the song was the first of the year",
    "it was a song , and the year was a year",
    "of it , the second song <unk> in",
]
WORDS = 12
SEEDS = (0, 7)
# depth: each seed's validation loss; depth 3 is best on average, though the best seed of all is of depth 2
VAL_LOSSES = {2: (1.9, 1.2), 3: (1.3, 1.4)}


def random_parameters(shape: ModelShape, seeds: tuple[int, ...] = SEEDS) -> Parameters:
    """Weights ten times as large as initial ones, and biases that are not 0."""
    parameters = initial_parameters(shape, seeds)
    biases = initial_parameters(shape, [seed + 100 for seed in seeds], ["he"] * len(seeds))
    for name, value in parameters.items():
        if name.endswith("bias"):
            weight = biases[f"{name.removesuffix('.bias')}.weight"].flatten(1)
            value.add_(5 * weight[:, : value[0].numel()].view_as(value))
        elif name != "norm.weight":
            value.mul_(10)
    return parameters


def write_project(folder: Path) -> Path:
    """Parameters, tokenizer, models of depths 2 and 3, and the metrics that belong to them."""
    tokenizer = build_tokenizer(ROWS, 4 + WORDS)
    save_tokenizer(tokenizer, folder / "data/tokenizer.json")
    write_checksum(folder / "data/tokenizer.json")
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    values["data"] |= {"vocabulary_size": 4 + WORDS, "window": 9, "stride": 4}
    values["model"] |= {"num_layers": 3, "embedding_dim": 5, "context_dim": 6, "hidden_size": 8, "residual": True}
    values["train"] |= {"seeds": list(SEEDS), "precision": "fp32"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    config = load_config(folder / "params.yaml")
    (folder / "models").mkdir()
    for depth, val_losses in VAL_LOSSES.items():
        parameters = {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}
        shape = ModelShape(4 + WORDS, 5, 6, 8, depth, residual=True)
        record = write_model(folder / f"models/{depth}", shape, val_losses, parameters)
        write_metrics(folder / "metrics", depth, record)
    return folder


def write_model(
    folder: Path, shape: ModelShape, val_losses: tuple[float, ...], parameters: dict[str, Any]
) -> TrainingRecord:
    """Weights and record of SEEDS as a training leaves them."""
    results = [
        RowResult(seed, 3, 4, False, 1.5 + seed, val_loss, 2.5, 100.0)
        for seed, val_loss in zip(SEEDS, val_losses, strict=True)
    ]
    record = TrainingRecord(
        shape=shape,
        parameters=parameters,
        data_sha256="5" * 64,
        device="CPU",
        precision="fp32",
        torch_version="2",
        git_commit=None,
        git_dirty=None,
        seeds=results,
    )
    save(folder, Training(random_parameters(shape), [], results), record)
    return record


def write_tuned(project: Path) -> None:
    """A better model of depth 2, without residual connections, as confirm leaves it."""
    shape = ModelShape(4 + WORDS, 5, 6, 8, 2)
    (project / "models/tuned").mkdir()
    parameters = parameters_of(load_config(project / "params.yaml"))
    record = write_model(project / "models/tuned/2", shape, (1.1, 1.0), parameters)
    recipe = {"learning_rate_factor": 2.0, "dropout": 0.3, "residual": False, "initialisation": "he"}
    figures: dict[str, Any] = {"val_ppl": 20.25, "val_accuracy": 0.40625, "test_ppl": 21.5}
    seeds = [result.__dict__ | figures | {"val_ppl": 10.5 + result.seed} for result in record.seeds]
    tuned = figures | {"num_seeds": 2, "recipe": recipe | {"schedule": "linear"}}
    tuned |= {"runs": [{"data_sha256": record.data_sha256, "seeds": seeds}]}
    write_json(project / "metrics/tuned/2.json", {"details": [tuned]})


def write_metrics(folder: Path, depth: int, record: TrainingRecord) -> None:
    """What evaluate, diagnose and tokenize write, as far as it is read here."""
    figures: dict[str, Any] = {"val_ppl": 30.25, "val_accuracy": 0.3125, "test_ppl": 31.5}
    seeds = [result.__dict__ | figures | {"val_ppl": 20.5 + result.seed} for result in record.seeds]
    write_json(folder / f"runs/{depth}.json", {"runs": [{"data_sha256": record.data_sha256, "seeds": seeds}]})
    layers = figures | {"num_seeds": 2, "val_ppl_ci95": 0.75, "test_ppl_ci95": 1.25}
    write_json(folder / f"layers/{depth}.json", {"details": [layers]})
    known = [{"seed": seed, "val_ppl_without_unk": 40.5 + seed} for seed in SEEDS]
    write_json(folder / f"diagnostics/{depth}.json", {"diagnostics": [{"seeds": known}]})
    write_json(folder / "data.json", {"data": [{"train": {"unk_share_pct": 30.5887}}]})


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that only read."""
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """For tests that change it."""
    return write_project(tmp_path)
