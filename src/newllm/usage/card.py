"""The card of an exported model: what it is, how to use it, and the study's figures."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newllm.config import Config, load_config
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


class _Recipe(_Record):
    learning_rate_factor: float
    dropout: float
    initialisation: str
    schedule: str


class _Tuned(_Layers):
    recipe: _Recipe
    runs: Annotated[list[_Runs], Only]


class _TunedFile(_Record):
    details: Annotated[list[_Tuned], Only]


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


class Figures(NamedTuple):
    """What the study's metrics and parameters say of a model."""

    config: Config
    dropout: float
    run: _Run  # of its seed
    layers: _Layers  # of all seeds
    known: _Known | None  # its perplexity without `<unk>`, where it was measured
    recipe: _Recipe | None  # that a search chose


def figures_of(model: TrainedModel, project: Path) -> Figures:
    """Reads the figures of a model, and checks that they are its own.

    Raises:
        UserError: a file of metrics is missing or of another training, or params.yaml is not what was trained with.
    """
    name, metrics, config = model.name, project / "metrics", load_config(project / "params.yaml")
    trained = {"model": config.model.model_dump(exclude={"num_layers"}), "train": config.train.model_dump()}
    if name.tuned:  # what a recipe chooses is not among the parameters
        found = model.record.parameters
        trained = {part: {key: trained.get(part, {}).get(key) for key in values} for part, values in found.items()}
    if model.record.parameters != trained:
        raise UserError(
            f"{project / 'params.yaml'}: the model of {name} was trained with other parameters, and its card "
            f"would name these; set them back, or run `dvc repro {name.stage}`"
        )
    if name.tuned:
        path, stage = metrics / f"tuned/{name.num_layers}.json", name.stage
        tuned = _read(_TunedFile, path, stage).details[0]
        return Figures(config, tuned.recipe.dropout, _run(tuned.runs[0], model, path, stage), tuned, None, tuned.recipe)
    depth = name.num_layers
    path, stage = metrics / f"runs/{depth}.json", f"evaluate@{depth}"
    run = _run(_read(_RunsFile, path, stage).runs[0], model, path, stage)
    layers = _read(_LayersFile, metrics / f"layers/{depth}.json", stage).details[0]
    diagnostics = _read(_DiagnosticsFile, metrics / f"diagnostics/{depth}.json", f"diagnose@{depth}").diagnostics[0]
    known = next(known for known in diagnostics.seeds if known.seed == model.seed)
    return Figures(config, config.model.dropout, run, layers, known, None)


def _run(runs: _Runs, model: TrainedModel, path: Path, stage: str) -> _Run:
    run = next((run for run in runs.seeds if run.seed == model.seed), None)
    result = next(result for result in model.record.seeds if result.seed == model.seed)
    if run is None or (runs.data_sha256, run.train_loss) != (model.record.data_sha256, result.train_loss):
        raise UserError(f"{path}: figures of another training; run `dvc repro {stage}`")
    return run


def model_card(model: TrainedModel, figures: Figures, project: Path) -> str:
    """README.md of the exported model, in Markdown.

    Raises:
        UserError: metrics/data.json is missing or damaged.
    """
    template = (resources.files("newllm.usage") / "huggingface/README.md.jinja").read_text(encoding="utf-8")
    environment = Environment(  # noqa: S701 (Markdown, not HTML)
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        figures._asdict(),
        shape=model.shape,
        unk_share_pct=_read(_DataFile, project / "metrics/data.json", "tokenize").data[0].train.unk_share_pct,
        precision=model.record.precision,
        device=model.record.device,
    )


def _read(schema: type[File], path: Path, made_by: str) -> File:
    try:
        return schema.model_validate(read_json(path, made_by))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {name}: {first['msg']}; run `dvc repro {made_by}` to write it again") from None
