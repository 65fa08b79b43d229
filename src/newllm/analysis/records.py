"""What the files that the report reads have in common: types of values, and errors that name file, key and remedy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from newllm.errors import UserError
from newllm.files import read_json

# Bounds far beyond any real run keep sums of squares finite.
Amount = Annotated[float, Field(ge=0, le=1e100)]
Perplexity = Annotated[float, Field(ge=1, le=1e100)]
Loss = Annotated[float, Field(ge=0, le=230)]  # its exponential is within the bounds of a perplexity
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**15)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]

LOSS_TOLERANCE = 0.001
"""Nats between two stages' losses of the same weights; rounding makes some 1e-4."""


class Record(BaseModel):
    """A part of a metrics file: no unknown key, no conversion of types, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Model = TypeVar("_Model", bound=BaseModel)


def read_details(path: Path, stage: str) -> dict[str, Any]:
    """What stands in the list of a metrics file, whose plain figures, for DVC to compare, must say the same.

    Raises:
        UserError: the file is missing or damaged, or its plain figures are not those of the list.
    """
    plain = read_json(path, stage)
    details = plain.pop("details", None)
    remedy = write_again(stage)
    if not isinstance(details, list) or len(details) != 1 or not isinstance(details[0], dict):
        raise problem(path, f"found {repr(details)[:60]} as details, expected a list of one object", remedy)
    figures: dict[str, Any] = details[0]
    for name, value in plain.items():
        if name not in figures or figures[name] != value:
            raise problem(path, f"found {name} {value!r}, but {figures.get(name)!r} in its details", remedy)
    return figures


def validate(model: type[_Model], values: Mapping[str, Any], path: Path, remedy: str, place: str = "") -> _Model:
    """The values as a record.

    Args:
        model: the record's type.
        values: what was read.
        path: the file, for the error.
        remedy: what to do, for the error.
        place: where in the file, for the error; ends with a space.

    Raises:
        UserError: a value is missing, unknown, or of another type or range than the record allows.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        raise problem(path, f"{place}key {name} is missing", remedy)
    if first["type"] == "extra_forbidden":
        raise problem(path, f"{place}unknown key {name}", remedy)
    if first["type"] == "value_error":
        raise problem(path, f"{place}{name}{': ' if name else ''}{message}", remedy)
    found = repr(first["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    raise problem(path, f"{place}{name}: found {found}; expected: {message[0].lower() + message[1:]}", remedy)


def problem(path: Path, what: str, remedy: str) -> UserError:
    """The error for a file: what is wrong with it and what to do."""
    return UserError(f"{path}: {what}; {remedy}")


def write_again(stage: str) -> str:
    """The remedy for a file that a stage writes."""
    return f"run `dvc repro {stage}` to write it again"
