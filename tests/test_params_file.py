"""params.yaml is what DVC writes: `dvc exp run -S` there and back leaves every byte, so that git sees no change."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml, modify_yaml

from newllm.config import load_config
from tests.checkout import ROOT

PARAMS = ROOT / "params.yaml"


def named(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from named(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


PARAMETERS = dict(named(load_yaml(PARAMS)))


def others(value: Any) -> list[Any]:
    """Values to try in place of `value`: of its kind, longer, shorter."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 10**9]
    if isinstance(value, float):
        return [value / 3, 1e-9, 0.5]
    if isinstance(value, list):
        return [value[:1], value * 3]
    return ["a", "bf16"] if isinstance(value, str) else ["/a/rather/long/path/to/a/folder/with/text"]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(PARAMS, tmp_path))


def test_written_as_it_is(params: Path) -> None:
    with modify_yaml(params):
        pass
    assert params.read_bytes() == PARAMS.read_bytes()


@pytest.mark.parametrize("name", PARAMETERS)
def test_there_and_back(name: str, params: Path) -> None:
    for other in others(PARAMETERS[name]):
        for value in (other, PARAMETERS[name]):
            apply_overrides(params, [f"{name}={json.dumps(value)}"])  # what -S does
            assert dict(named(load_yaml(params)))[name] == value
        assert params.read_text(encoding="utf-8") == PARAMS.read_text(encoding="utf-8"), f"{name} was {other}"


def test_a_recipe_is_added_and_taken_out_again(params: Path) -> None:
    apply_overrides(params, ["+recipes.mine={num_layers: 6, continued: [50, 150]}", "+recipes.two={num_layers: 2}"])
    found, before = load_config(params).recipes, load_config(PARAMS).recipes
    assert {name: found[name].num_layers for name in found.keys() - before.keys()} == {"mine": 6, "two": 2}
    text = params.read_text(encoding="utf-8")
    apply_overrides(params, ["recipes.two.num_layers=3"])
    apply_overrides(params, ["recipes.two.num_layers=2"])
    assert params.read_text(encoding="utf-8") == text
    apply_overrides(params, ["~recipes.mine", "~recipes.two"])
    assert params.read_text(encoding="utf-8") == PARAMS.read_text(encoding="utf-8")


def test_no_folder_is_an_empty_value_or_null(params: Path) -> None:
    text = params.read_text(encoding="utf-8")
    assert text.count("  folder:\n") == 1
    assert load_config(params).data.folder is None
    params.write_text(text.replace("  folder:\n", "  folder: null\n"), encoding="utf-8")
    assert load_config(params).data.folder is None


def test_line_endings_of_windows_are_read(params: Path) -> None:
    params.write_bytes(params.read_bytes().replace(b"\n", b"\r\n"))
    assert load_config(params) == load_config(PARAMS)
