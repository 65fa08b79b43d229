"""Whatever stands in a file beside the depths' own, the report is written or one UserError names the file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm.analysis.figures import draw_all
from newllm.analysis.report import render
from newllm.analysis.study import Study, results_table
from newllm.analysis.summary import summary
from newllm.errors import UserError
from tests.analysis.metrics_files import write_all, write_supplements
from tests.analysis.part2_files import write_equal, write_lstm, write_recipe, write_tuned
from tests.analysis.studies import plan, reload
from tests.analysis.test_records import JSON_VALUES

FILES = ("metrics/data.json", "metrics/diagnostics/4.json", "metrics/expand/4-finetune.json")
PART_TWO = ("metrics/tuning/4.json", "metrics/tuned/4.json", "metrics/equal/4.json", "metrics/recipes/he.json")
PLANNED = plan((4,), {4: 464}, ("he",), (396,))
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path, [4, 6])
    write_supplements(tmp_path, [4, 6])
    write_tuned(tmp_path, 4, 19.2)
    write_equal(tmp_path, 4, 19.3, 464)
    write_recipe(tmp_path, "he", 4, 19.6, initialisation="he")
    write_lstm(tmp_path, 396, 19.6)
    return tmp_path


def write_everything(found: Study) -> None:
    for text in render(found, draw_all(found), ["report", "appendix", "readme"], "."):
        text.encode()
    json.dumps(summary(found), allow_nan=False)
    results_table(found).to_csv()


def places(value: Any) -> list[Any]:
    """Every object and list inside, itself included, where something stands."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] * bool(inner) + [place for part in inner for place in places(part)]


@settings(max_examples=30, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_any_value_anywhere(root: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*FILES, *PART_TWO, "metrics/lstm/396.json"]))
    before = (root / name).read_text()
    document = json.loads(before)
    place = data.draw(st.sampled_from(places(document)))
    keys = sorted(place) if isinstance(place, dict) else range(len(place))
    numbers = st.floats(0, 1e100) | st.integers(0, 10**15)
    place[data.draw(st.sampled_from(keys))] = data.draw(JSON_VALUES | numbers)
    (root / name).write_text(json.dumps(document))
    try:
        found = reload(root, [4, 6], plan() if name in FILES else PLANNED)
    except UserError as error:
        assert str(root / name) in str(error) or "plots/" in str(error)
    else:
        write_everything(found)
    finally:
        (root / name).write_text(before)


@pytest.mark.parametrize("size", [10**400, 0, -1, 2.5, "256", True])
def test_sizes_that_cannot_be(tmp_path: Path, size: Any) -> None:
    write_all(tmp_path, [4, 6], parameters={"model": {"context_dim": 256, "hidden_size": size}})
    write_everything(reload(tmp_path, [4, 6]))
