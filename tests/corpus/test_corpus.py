"""Canonical text by every route, its verification, and what happens when it fails."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from newllm.corpus import corpus
from newllm.corpus.corpus import Pin, SplitSummary, fetch_corpus
from newllm.data.text import SPLITS
from newllm.errors import UserError


def write_parquet(path: Path, rows: list[Any], kind: pa.DataType | None = None, column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({column: pa.array(rows, kind or pa.string())}), path, row_group_size=7)


def fetched(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def canonical(rows: list[str]) -> bytes:
    return "".join(row.strip() + "\n" for row in rows).encode()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch, corpus_rows: dict[str, list[str]]) -> None:
    """Makes the small corpus the known one."""
    pins = {s: Pin(len(rows), hashlib.sha256(canonical(rows)).hexdigest()) for s, rows in corpus_rows.items()}
    monkeypatch.setitem(corpus.PINS, "wikitext-2-v1", pins)


# Routes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pinned")
def test_text_parquet_and_datasets_give_the_same_bytes(
    make_config: Any,
    text_folder: Path,
    hub_folder: Path,
    tmp_path: Path,
    corpus_rows: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets  # noqa: PLC0415

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    expected = {f"{split}.txt": canonical(rows) for split, rows in corpus_rows.items()}
    places = {
        "text": (make_config(), {"WIKITEXT2_DIR": str(text_folder)}),
        "parquet": (make_config(), {"WIKITEXT2_DIR": str(hub_folder)}),
        "parquet directly": (make_config(), {"WIKITEXT2_DIR": str(hub_folder / "wikitext-2-v1")}),
        "datasets": (make_config(repository=str(hub_folder)), {"WIKITEXT2_DIR": ""}),
        "folder": (make_config(source="folder", folder=str(text_folder)), {}),
    }
    for route, (config, environment) in places.items():
        summaries = fetch_corpus(config, environment, tmp_path / "raw" / route)
        assert fetched(tmp_path / "raw" / route) == expected, route
        assert [summary.split for summary in summaries] == list(SPLITS)
        assert route.split(maxsplit=1)[0] in summaries[0].route or route == "folder"


def test_a_byte_order_mark_is_no_part_of_the_first_word(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    config = make_config(source="folder", folder=str(text_folder))
    (text_folder / "train.txt").write_bytes("\ufeff the \ufeffcat\n\ufeffsat\n".encode())
    fetch_corpus(config, {}, tmp_path / "raw")
    assert (tmp_path / "raw" / "train.txt").read_text(encoding="utf-8") == "the \ufeffcat\n\ufeffsat\n"


def test_summary_counts_what_was_written(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    summary = fetch_corpus(make_config(source="folder", folder=str(text_folder)), {}, tmp_path / "raw")[0]
    data = (tmp_path / "raw" / "train.txt").read_bytes()
    assert summary.rows == data.count(b"\n") == 19
    assert summary.nonblank_rows == sum(bool(line) for line in data.split(b"\n")) == 10
    assert summary.num_bytes == len(data)
    assert summary.sha256 == hashlib.sha256(data).hexdigest()
    for part in ("train: 19 rows", "10 non-blank", f"{len(data)} bytes", summary.sha256, "train.txt"):
        assert part in str(summary)


def test_shards_are_read_in_order(make_config: Any, tmp_path: Path) -> None:
    for split in SPLITS:
        for number, row in enumerate(("one", "two", "three")):
            write_parquet(tmp_path / "in" / f"{split}-{number:05}-of-00003.parquet", [row], pa.large_string())
    fetch_corpus(make_config(source="folder", folder=str(tmp_path / "in")), {}, tmp_path / "raw")
    assert (tmp_path / "raw" / "train.txt").read_bytes() == b"one\ntwo\nthree\n"


def test_a_parquet_row_of_several_lines_becomes_several_rows(make_config: Any, tmp_path: Path) -> None:
    for split in SPLITS:
        write_parquet(tmp_path / "in" / f"{split}-00000-of-00001.parquet", ["\n a \r\n b \n\n"])
    fetch_corpus(make_config(source="folder", folder=str(tmp_path / "in")), {}, tmp_path / "raw")
    assert (tmp_path / "raw" / "train.txt").read_bytes() == b"a\nb\n"


def test_synthetic_is_written_in_canonical_form(make_config: Any, tmp_path: Path) -> None:
    config = make_config(source="synthetic")
    summaries = fetch_corpus(config, {"WIKITEXT2_DIR": "/nowhere"}, tmp_path / "raw")
    again = fetch_corpus(config, {}, tmp_path / "again")
    assert summaries == again
    assert len({summary.sha256 for summary in summaries}) == 3
    for split in SPLITS:
        data = (tmp_path / "raw" / f"{split}.txt").read_bytes()
        assert data == canonical(data.decode().split("\n")[:-1])


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r \t\x1c\x85\u2028")))
def test_canonical_form_is_idempotent(make_config: Any, tmp_path: Path, text: str) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    first.mkdir(exist_ok=True)
    for split in SPLITS:
        (first / f"{split}.txt").write_bytes(f"word\n{text}".encode())
    once = fetch_corpus(make_config(source="folder", folder=str(first)), {}, second)
    twice = fetch_corpus(make_config(source="folder", folder=str(second)), {}, third)
    assert fetched(second) == fetched(third)
    assert [summary.rows for summary in once] == [summary.rows for summary in twice]
    assert once[0].rows == f"word\n{text}".count("\n") + (not text.endswith("\n") if text else 0)


# Verification ---------------------------------------------------------------------------------------------------------


def fails(make_config: Any, place: Path, output: Path, /, **changes: Any) -> str:
    """The message, after checking that earlier outputs are as they were and nothing is left beside them."""
    output.mkdir(exist_ok=True)
    for split in SPLITS:
        (output / f"{split}.txt").write_bytes(b"earlier\n")
    with pytest.raises(UserError) as error:
        fetch_corpus(make_config(**changes), {"WIKITEXT2_DIR": str(place)}, output)
    assert fetched(output) == {f"{split}.txt": b"earlier\n" for split in SPLITS}
    return str(error.value)


@pytest.mark.usefixtures("pinned")
def test_altered_text_fails(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    path = text_folder / "test.txt"
    path.write_bytes(path.read_bytes().replace(b"=", b"#"))
    found = hashlib.sha256(canonical(path.read_text().split("\n")[:-1])).hexdigest()
    message = fails(make_config, text_folder, tmp_path / "raw")
    assert "split test" in message
    assert str(path) in message
    assert found in message
    assert str(corpus.PINS["wikitext-2-v1"]["test"].sha256) in message


@pytest.mark.usefixtures("pinned")
def test_lost_row_fails(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    path = text_folder / "validation.txt"
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    message = fails(make_config, text_folder, tmp_path / "raw")
    assert "split validation" in message
    assert "found 5 rows, expected 6" in message


@pytest.mark.usefixtures("pinned")
def test_raw_configuration_checks_rows_and_says_so(
    make_config: Any,
    text_folder: Path,
    tmp_path: Path,
    corpus_rows: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw_pins = {split: Pin(len(rows), None) for split, rows in corpus_rows.items()}
    monkeypatch.setitem(corpus.PINS, "wikitext-2-raw-v1", raw_pins)
    message = fails(make_config, text_folder, tmp_path / "raw", config="wikitext-2-raw-v1")
    assert "found the text of wikitext-2-v1" in message

    for split in SPLITS:
        path = text_folder / f"{split}.txt"
        path.write_bytes(path.read_bytes().replace(b"=", b"#"))
    environment = {"WIKITEXT2_DIR": str(text_folder)}
    summaries = fetch_corpus(make_config(config="wikitext-2-raw-v1"), environment, tmp_path / "raw")
    assert "checksum is not known" in str(summaries[0])


def test_the_raw_configuration_has_as_many_rows() -> None:
    rows = {name: [pins[split].rows for split in SPLITS] for name, pins in corpus.PINS.items()}
    assert rows["wikitext-2-v1"] == rows["wikitext-2-raw-v1"] == [36_718, 3_760, 4_358]


# Bad input ------------------------------------------------------------------------------------------------------------


def test_missing_folder(make_config: Any, tmp_path: Path) -> None:
    message = fails(make_config, tmp_path / "nowhere", tmp_path / "raw")
    assert "nowhere: no such folder" in message
    assert "WIKITEXT2_DIR" in message


def test_missing_split(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    (text_folder / "test.txt").unlink()
    changes = {"source": "folder", "folder": str(text_folder)}
    message = fails(make_config, text_folder, tmp_path / "raw", **changes)
    assert "split test is missing; parameter data.folder" in message
    assert "test.txt" in message
    assert "test-00000-of-00001.parquet" in message


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\n\xc2\x85\n"])
def test_empty_split(make_config: Any, text_folder: Path, tmp_path: Path, content: bytes) -> None:
    (text_folder / "validation.txt").write_bytes(content)
    assert "split validation: empty" in fails(
        make_config, text_folder, tmp_path / "raw", source="folder", folder=str(text_folder)
    )


def test_invalid_utf8(make_config: Any, text_folder: Path, tmp_path: Path) -> None:
    with (text_folder / "validation.txt").open("ab") as file:
        file.write(b"\xc3\x28\n")
    message = fails(make_config, text_folder, tmp_path / "raw", source="folder", folder=str(text_folder))
    assert "validation.txt, row 7: not valid UTF-8" in message


def test_missing_shard(make_config: Any, hub_folder: Path, tmp_path: Path) -> None:
    folder = hub_folder / "wikitext-2-v1"
    (folder / "train-00000-of-00001.parquet").rename(folder / "train-00001-of-00002.parquet")
    message = fails(make_config, hub_folder, tmp_path / "raw")
    assert "train-00000-of-00002.parquet: no such file" in message


def test_two_sets_of_shards(make_config: Any, hub_folder: Path, tmp_path: Path) -> None:
    write_parquet(hub_folder / "wikitext-2-v1" / "train-00000-of-00002.parquet", ["a"])
    assert "keep one set" in fails(make_config, hub_folder, tmp_path / "raw")


@pytest.mark.parametrize("damage", ["no parquet at all", "cut", "overwritten"])
def test_damaged_parquet(make_config: Any, hub_folder: Path, tmp_path: Path, damage: str) -> None:
    path = hub_folder / "wikitext-2-v1" / "train-00000-of-00001.parquet"
    data = path.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "overwritten": data[:4] + b"\xff" * 200 + data[204:]}
    path.write_bytes(damaged.get(damage, damage.encode()))
    message = fails(make_config, hub_folder, tmp_path / "raw")
    assert "train-00000-of-00001.parquet: not readable as parquet" in message


@pytest.mark.parametrize(
    ("rows", "kind", "column", "expected"),
    [
        (["a"], pa.string(), "body", "expected a column `text` of strings, found the columns body (string)"),
        ([1], pa.int64(), "text", "expected a column `text` of strings, found the columns text (int64)"),
        (["a", None], pa.string(), "text", "row 2: found null"),
        ([], pa.string(), "text", "split train: empty"),
    ],
)
def test_wrong_parquet(
    make_config: Any, hub_folder: Path, tmp_path: Path, rows: list[Any], kind: Any, column: str, expected: str
) -> None:
    write_parquet(hub_folder / "wikitext-2-v1" / "train-00000-of-00001.parquet", rows, kind, column)
    assert expected in fails(make_config, hub_folder, tmp_path / "raw")


def test_invalid_utf8_in_parquet(make_config: Any, hub_folder: Path, tmp_path: Path) -> None:
    rows = pa.array([b"fine", b"bad \xff"], pa.binary()).view(pa.string())
    path = hub_folder / "wikitext-2-v1" / "train-00000-of-00001.parquet"
    parquet.write_table(pa.table({"text": rows}), path)
    message = fails(make_config, hub_folder, tmp_path / "raw")
    assert "train-00000-of-00001.parquet, row 2: not valid UTF-8" in message


# The real corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.wikitext2
def test_wikitext2_is_what_is_pinned(make_config: Any, tmp_path: Path) -> None:
    summaries = fetch_corpus(make_config(), os.environ, tmp_path / "raw")

    def figures(summary: SplitSummary) -> tuple[int, int, int]:
        return summary.rows, summary.nonblank_rows, summary.num_bytes

    assert [figures(summary) for summary in summaries] == [
        (36_718, 23_767, 10_736_663),
        (3_760, 2_461, 1_115_460),
        (4_358, 2_891, 1_249_200),
    ]
    assert all(summary.verified == "verified" for summary in summaries)
