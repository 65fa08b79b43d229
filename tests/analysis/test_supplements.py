"""Whatever stands in a supplement's file, the report is written or one UserError names the file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm.analysis.figures import draw_all
from newllm.analysis.headline import headline
from newllm.analysis.report import write_report
from newllm.errors import UserError
from tests.analysis.metrics_files import write_all, write_supplements
from tests.analysis.studies import more, reload
from tests.analysis.test_ablation import experiment, write
from tests.analysis.test_results import JSON_VALUES

FILES = ("metrics/data.json", "metrics/diagnostics/4.json", "metrics/expand/4-finetune.json", "ablations/results.json")
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path, [4, 6])
    write_supplements(tmp_path, [4, 6])
    write(tmp_path, experiment({4: 19.9, 6: 20.0}))
    return tmp_path


def report_or_user_error(root: Path, name: str, pictures: bool) -> None:
    compared = reload(root, [4, 6])
    try:
        supplements = more(root, compared)
    except UserError as error:
        assert str(root / name) in str(error) or "plots/expand" in str(error)
        return
    write_report(compared, supplements=supplements).encode()
    json.dumps(headline(compared, supplements), allow_nan=False)
    if pictures:
        draw_all(compared, supplements)


def places(value: Any) -> list[Any]:
    """Every object and list inside, itself included, where something stands."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] * bool(inner) + [place for part in inner for place in places(part)]


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_any_value_anywhere(root: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    before = (root / name).read_text()
    document = json.loads(before)
    place = data.draw(st.sampled_from(places(document)))
    keys = sorted(place) if isinstance(place, dict) else range(len(place))
    numbers = st.floats(0, 1e100) | st.integers(0, 10**15)
    place[data.draw(st.sampled_from(keys))] = data.draw(JSON_VALUES | numbers)
    (root / name).write_text(json.dumps(document))
    try:
        report_or_user_error(root, name, data.draw(st.integers(0, 9)) == 0)
    finally:
        (root / name).write_text(before)


@pytest.mark.parametrize("size", [10**400, 0, -1, 2.5, "256", True])
def test_sizes_that_cannot_be(tmp_path: Path, size: Any) -> None:
    parameters = {"model": {"context_dim": 256, "hidden_size": size}}
    write_all(tmp_path, [4, 6], parameters=parameters)
    compared = reload(tmp_path, [4, 6])
    write_report(compared, supplements=more(tmp_path, compared))


def test_all_sections_on_another_text(root: Path) -> None:
    """As in the demo: no claims, no published points, but everything else; the target is the worst depth's mean."""
    compared = reload(root, [4, 6])
    other = replace(compared, data_deviations=("vocabulary size 300 instead of 1000",))
    report = write_report(other, supplements=more(root, other))
    titles = [line for line in report.splitlines() if line.startswith("## ")]
    assert "## The notebook’s claims" not in titles
    assert {"## Cost", "## Grown contexts", "## `<unk>`", "## What the context carries", "## Samples"} <= set(titles)
    assert "the worst depth’s mean" in report
    assert "claims" not in headline(other, more(root, other))["details"][0]
