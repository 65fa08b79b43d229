"""Every bad input ends with one UserError that names the file and the stage to run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newllm.analysis.figures import draw_all
from newllm.analysis.records import Group, load_results
from newllm.analysis.report import render
from newllm.analysis.schemas import flatten
from newllm.analysis.study import results_table
from newllm.analysis.summary import summary
from newllm.errors import UserError
from tests.analysis.metrics_files import change_json, write_all
from tests.analysis.studies import plan, reload


def load(root: Path, *depths: int) -> list[Group]:
    return load_results(depths or (1, 4, 6), root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path)
    return tmp_path


def test_reads_what_is_asked_for(root: Path) -> None:
    write_all(root, [9])
    (root / "metrics/layers/3.json").write_text("rubbish of an earlier experiment")
    results = load(root, 6, 1, 4, 6)
    assert [result.num_layers for result in results] == [1, 4, 6]
    assert results[2].num_params == 2_739_432
    assert results[0].values("train_seconds") == [10.0] * 5
    assert len(results[0].curve) == 14
    assert results[0].parameters["train.epochs"] == 150


@pytest.mark.parametrize("name", ["metrics/layers/4.json", "metrics/runs/4.json", "plots/curves/4.csv"])
@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff\xfe", b"[]", b"{", b"null", b"{}", b'"', b"[" * 100_000, b"1" * 5000, b'a,b\n"x'],
    ids=lambda content: repr(content)[:12],
)
def test_missing_or_malformed_file(root: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (root / name).unlink()
    else:
        (root / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(root)
    assert name in str(caught.value)
    assert "`dvc repro evaluate@4`" in str(caught.value)


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document[path[-1]] = value

    return change


BAD_LAYERS = [
    (put("val_ppl", value=float("nan")), "val_ppl"),
    (put("test_ppl", value=float("inf")), "test_ppl"),
    (put("val_ppl", value="20.5"), "val_ppl"),
    (put("val_ppl", value=-1.0), "val_ppl"),
    (put("val_ppl", value=10**400), "val_ppl"),
    (put("val_accuracy", value=38.5), "val_accuracy"),
    (put("num_params", value=1.5), "num_params"),
    (put("num_layers", value=5), "found num_layers 5, expected 4"),
    (put("num_seeds", value=4), "num_seeds 4"),
    (put("val_ppl", value=20.9), "mean of the seeds"),
    (put("extra", value=1), "unknown key extra"),
    (lambda document: document.pop("num_seeds"), "num_seeds is missing"),
    (lambda document: document.pop("test_loss"), "test_loss is missing"),
    (lambda document: document.pop("val_ppl_ci95"), "val_ppl_ci95 is missing"),
]
BAD_RUNS = [
    (put("seeds", value=[]), "seeds"),
    (put("seeds", 0, "val_ppl", value=float("inf")), "seeds.0.val_ppl"),
    (put("seeds", 0, "seed", value=-1), "seeds.0.seed"),
    (put("seeds", 0, "seed", value=1), "seed 1 is listed twice"),
    (put("seeds", 0, "best_epoch", value=4), "best_epoch 4"),
    (put("seeds", 0, "stopped_early", value=0), "stopped_early"),
    (put("num_layers", value=6), "found num_layers 6"),
    (put("parameters", "train", "epochs", value=float("nan")), "finite"),
    (put("parameters", value=[1]), "parameters"),
    (put("device", value="\ud800"), "device"),
    (put("parameters", "train", "precision", value="\ud800"), "parameters"),
    (put("torch_version", value=None), "torch_version"),
    (lambda document: document.pop("data_sha256"), "data_sha256 is missing"),
    (lambda document: document["seeds"][1].pop("epochs_run"), "seeds.1.epochs_run is missing"),
]


@pytest.mark.parametrize("runs", [[], [{}, {}], {}, "x"], ids=str)
def test_runs_file_holds_one_record(root: Path, runs: object) -> None:
    (root / "metrics/runs/4.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(UserError, match=r"runs/4\.json: .*runs"):
        load(root)


@pytest.mark.parametrize(
    ("folder", "change", "expected"),
    [("layers", *case) for case in BAD_LAYERS] + [("runs", *case) for case in BAD_RUNS],
)
def test_wrong_value(root: Path, folder: str, change: Callable[[Any], object], expected: str) -> None:
    path = root / "metrics" / folder / "4.json"
    change_json(path, change)
    with pytest.raises(UserError) as caught:
        load(root)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "`dvc repro evaluate@4`" in str(caught.value)


BAD_ROWS = [
    (1, "val_ppl", "nan", "row 2: val_ppl"),
    (1, "val_ppl", "", "row 2: val_ppl"),
    (1, "val_ppl", "0.5", "row 2: val_ppl"),
    (1, "train_loss", "inf", "row 2: train_loss"),
    (2, "epoch", "1", "once each"),
    (2, "epoch", "2.5", "row 3: epoch"),
    (1, "num_layers", "6", "found num_layers 6, expected 4"),
    (1, "seed", "7", "found seeds"),
    (0, "epoch", "step", "key epoch is missing"),
]


@pytest.mark.parametrize(("row", "column", "value", "expected"), BAD_ROWS)
def test_wrong_curve(root: Path, row: int, column: str, value: str, expected: str) -> None:
    path = root / "plots/curves/4.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[row][rows[0].index(column)] = value
    path.write_text("\n".join(",".join(cells) for cells in rows) + "\n")
    with pytest.raises(UserError) as caught:
        load(root)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_energy_is_an_optional_column(root: Path) -> None:
    assert load(root)[1].curve["joules"].isna().all()
    write_all(root, [4], joules=200.0)
    assert {*load(root)[1].curve["joules"]} == {200.0, 400.0}
    write_all(root, [4], joules="")
    assert load(root)[1].curve["joules"].isna().all()
    path = root / "plots/curves/4.csv"
    path.write_text(path.read_text().replace("joules", "watts"))
    with pytest.raises(UserError, match="unknown key watts"):
        load(root)


@pytest.mark.parametrize("cut", [(-1, None), (1, 4), (1, 2)])
def test_curve_with_rows_missing(root: Path, cut: tuple[int, int | None]) -> None:
    path = root / "plots/curves/4.csv"
    lines = path.read_text().splitlines()
    del lines[slice(*cut)]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"curves/4\.csv: .*(once each|expected \[)"):
        load(root)


def test_cell_too_many(root: Path) -> None:
    path = root / "plots/curves/4.csv"
    path.write_text(path.read_text().rstrip() + ",1\n")
    with pytest.raises(UserError, match="row 15: unknown key more"):
        load(root)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (put("parameters", "train", "epochs", value=10), "train.epochs 10"),
        (put("parameters", "model", "dropout", value=0.2), "model.dropout 0.2"),
        (put("parameters", "train", "patience", value=None), "train.patience None"),
        (put("parameters", "train", "new", value=1), "train.new 1"),
        (put("parameters", "vocabulary_size", value=500), "vocabulary_size 500"),
        (put("data_sha256", value="cd"), "data_sha256 'cd'"),
        (put("precision", value="fp32"), "precision 'fp32'"),
    ],
)
def test_mixed_conditions(root: Path, change: Callable[[Any], None], name: str) -> None:
    change_json(root / "metrics/runs/4.json", change)
    with pytest.raises(UserError) as caught:
        load(root)
    message = str(caught.value)
    assert f"depth 4 was run with {name}" in message
    assert "depth 1 with" in message


def test_mixed_seeds(root: Path) -> None:
    write_all(root, [6], seeds=3)
    with pytest.raises(UserError, match=r"depth 6 was run with the seeds \[0, 1, 2\]"):
        load(root)


def test_depth_itself_may_differ(root: Path) -> None:
    for depth in (1, 4, 6):
        change_json(root / f"metrics/runs/{depth}.json", put("parameters", "model", "num_layers", value=depth))
        change_json(root / f"metrics/runs/{depth}.json", put("device", value=f"device {depth}"))
    assert len(load(root)) == 3


def test_no_depth(root: Path) -> None:
    with pytest.raises(UserError, match="--num-layers"):
        load_results([], root)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def report_or_user_error(root: Path, pictures: bool = False) -> None:
    try:
        study = reload(root, [4], plan(studied=4, baseline=4))
        figures = draw_all(study)
        for text in render(study, figures, ["report", "appendix", "readme"], "plots"):
            text.encode()
        json.dumps(summary(study), allow_nan=False)
        results_table(study).to_csv()
        if pictures:
            for figure in figures:
                figure.png()
    except UserError as error:
        assert "`dvc repro evaluate@4`" in str(error)


@QUIET
@given(data=st.data())
def test_any_value_anywhere(root: Path, data: st.DataObject) -> None:
    write_all(root, [4], seeds=1, epochs=1)
    path = root / "metrics" / data.draw(st.sampled_from(["layers", "runs"])) / "4.json"
    document = json.loads(path.read_text())
    record = document.get("runs", [document])[0]
    places = [document, record, record.get("seeds", [record])[0], record.get("parameters", record)]
    place = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON_VALUES)
    path.write_text(json.dumps(document))
    report_or_user_error(root)


@QUIET
@given(data=st.data())
def test_any_cell(root: Path, data: st.DataObject) -> None:
    write_all(root, [4], seeds=2, epochs=2)
    path = root / "plots/curves/4.csv"
    lines = path.read_bytes().splitlines()
    cells = lines[data.draw(st.integers(0, len(lines) - 1))].split(b",")
    number = st.floats().map(repr) | st.integers().map(str)
    cells[data.draw(st.integers(0, 9))] = data.draw(number | st.text(max_size=4)).encode("utf-8", "surrogatepass")
    lines[data.draw(st.integers(0, len(lines) - 1))] = b",".join(cells)
    path.write_bytes(b"\n".join(lines))
    report_or_user_error(root)


@settings(parent=QUIET, max_examples=4)
@given(st.lists(st.floats(1, 1e100), min_size=2, max_size=2))
def test_any_perplexities_are_drawn(root: Path, perplexities: list[float]) -> None:
    write_all(root, [4], seeds=2, epochs=2)
    for seed, perplexity in enumerate(perplexities):
        change_json(root / "metrics/runs/4.json", put("seeds", seed, "val_ppl", value=perplexity))
    change_json(root / "metrics/layers/4.json", put("val_ppl", value=sum(perplexities) / 2))
    report_or_user_error(root, pictures=True)
