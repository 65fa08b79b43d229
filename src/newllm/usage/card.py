"""The card of an exported model: what it is, how to use it, and the study's figures."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newllm.config import load_config
from newllm.errors import UserError
from newllm.files import read_json
from newllm.usage.project import TrainedModel

Only = Field(min_length=1, max_length=1)
File = TypeVar("File", bound="_Record")


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Run(_Record):
    seed: int
    best_epoch: int
    epochs_run: int
    train_loss: float
    val_ppl: float
    val_accuracy: float
    test_ppl: float


class _Runs(_Record):
    data_sha256: str
    seeds: list[_Run]


class _RunsFile(_Record):
    runs: Annotated[list[_Runs], Only]


class _Layers(_Record):
    num_seeds: int
    val_ppl: float
    val_ppl_ci95: float | None = None
    val_accuracy: float
    test_ppl: float
    test_ppl_ci95: float | None = None


class _LayersFile(_Record):
    details: Annotated[list[_Layers], Only]


class _Known(_Record):
    seed: int
    val_ppl_without_unk: float


class _Diagnostics(_Record):
    seeds: list[_Known]


class _DiagnosticsFile(_Record):
    diagnostics: Annotated[list[_Diagnostics], Only]


class _Split(_Record):
    unk_share_pct: float


class _Splits(_Record):
    train: _Split


class _DataFile(_Record):
    data: Annotated[list[_Splits], Only]


def model_card(model: TrainedModel, project: Path) -> str:
    """README.md of the exported model, in Markdown, with its figures from the project's metrics.

    Raises:
        UserError: a file of metrics is missing or of another training, or params.yaml is not what was trained with.
    """
    depth, record = model.shape.num_layers, model.record
    config = load_config(project / "params.yaml")
    trained = {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}
    if record.parameters != trained:
        raise UserError(
            f"{project / 'params.yaml'}: the model of depth {depth} was trained with other parameters, and its card "
            f"would name these; set them back, or run `dvc repro train@{depth}`"
        )
    metrics = project / "metrics"
    runs_path = metrics / f"runs/{depth}.json"
    runs = _read(_RunsFile, runs_path, f"evaluate@{depth}").runs[0]
    run = next((run for run in runs.seeds if run.seed == model.seed), None)
    result = next(result for result in record.seeds if result.seed == model.seed)
    if run is None or (runs.data_sha256, run.train_loss) != (record.data_sha256, result.train_loss):
        raise UserError(f"{runs_path}: figures of another training; run `dvc repro evaluate@{depth}`")
    diagnostics = _read(_DiagnosticsFile, metrics / f"diagnostics/{depth}.json", f"diagnose@{depth}").diagnostics[0]
    template = (resources.files("newllm.usage") / "huggingface/README.md.jinja").read_text(encoding="utf-8")
    environment = Environment(  # noqa: S701 (Markdown, not HTML)
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        shape=model.shape,
        run=run,
        layers=_read(_LayersFile, metrics / f"layers/{depth}.json", f"evaluate@{depth}").details[0],
        known=next(known for known in diagnostics.seeds if known.seed == model.seed),
        unk_share_pct=_read(_DataFile, metrics / "data.json", "tokenize").data[0].train.unk_share_pct,
        data=config.data,
        model=config.model,
        train=config.train,
        precision=record.precision,
        device=record.device,
    )


def _read(schema: type[File], path: Path, made_by: str) -> File:
    try:
        return schema.model_validate(read_json(path, made_by))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {name}: {first['msg']}; run `dvc repro {made_by}` to write it again") from None
