"""The corpus from a folder of text or parquet files.

A source, be it this one, the hub or the generator, yields its rows one at a time, as they are; `newllm.corpus.corpus`
makes them canonical.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from newllm.data.text import SPLITS, decode_row, read_rows
from newllm.errors import UserError


@dataclass(frozen=True)
class Source:
    """The rows of one split and, for messages, the route by which they came."""

    route: str
    rows: Iterable[str]


def folder_sources(folder: Path, configuration: str, named_by: str) -> dict[str, Source]:
    """Finds each split below `folder`: `<split>.txt`, or parquet files as on the hub, directly or in `configuration`/.

    The text is taken where there are both. `named_by` is what names the folder, for errors.

    Raises:
        UserError: no such folder, or a split or a parquet shard is missing. Reading the rows raises it for a row that
            is not UTF-8 or null, for a file that is not parquet, and for one without a column `text` of strings.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {named_by} must name one that holds the splits of the corpus")
    return {split: _folder_source(folder, configuration, split, named_by) for split in SPLITS}


def _folder_source(folder: Path, configuration: str, split: str, named_by: str) -> Source:
    text = folder / f"{split}.txt"
    if text.is_file():
        return Source(f"text {text}", _without_mark(read_rows(text, f"{named_by} names this folder")))
    for place in (folder / configuration, folder):
        shards = _shards(place, split)
        if shards:
            count = f" and {len(shards) - 1} more" if shards[1:] else ""
            return Source(f"parquet {shards[0]}{count}", _parquet_rows(shards))
    raise UserError(
        f"{folder}: split {split} is missing; {named_by} must name a folder that holds {split}.txt (one row a line), "
        f"or {split}-00000-of-00001.parquet directly or below {configuration}/"
    )


def _without_mark(rows: Iterator[str]) -> Iterator[str]:
    """The rows without the byte order mark that some editors put first; it would be part of the first word."""
    yield from (row.removeprefix("\ufeff") for row in islice(rows, 1))
    yield from rows


def _shards(folder: Path, split: str) -> list[Path]:
    pattern = re.compile(rf"{split}-\d{{5}}-of-(\d{{5}})\.parquet")
    totals = {match[1]: int(match[1]) for path in folder.glob("*.parquet") if (match := pattern.fullmatch(path.name))}
    if len(totals) > 1:
        counts = " and of ".join(sorted(totals))
        raise UserError(f"{folder}: split {split} lies there in sets of {counts} parquet shards; keep one set")
    paths = [folder / f"{split}-{n:05}-of-{name}.parquet" for name, total in totals.items() for n in range(total)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file, but other shards of split {split} are there; add it")
    return paths


def _parquet_rows(paths: list[Path]) -> Iterator[str]:
    import pyarrow as pa  # noqa: PLC0415 (slow to import, and the other routes do without it)

    for path in paths:
        number = 0
        try:
            for rows in _parquet_batches(path):
                for row in rows:
                    number += 1
                    if row is None:
                        raise UserError(f"{path}, row {number}: found null, expected a text; correct the file")
                    yield decode_row(row, path, number)
        except (pa.ArrowException, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: not readable as parquet ({reason}); fetch it again") from None


def _parquet_batches(path: Path) -> Iterator[list[bytes | None]]:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    with parquet.ParquetFile(path, buffer_size=1 << 20) as file:
        columns = {field.name: field.type for field in file.schema_arrow}
        if columns.get("text") not in (pa.string(), pa.large_string()):
            found = ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "none"
            raise UserError(f"{path}: expected a column `text` of strings, found the columns {found}")
        for batch in file.iter_batches(batch_size=1024, columns=["text"]):
            # As bytes: a row that is not UTF-8 then gets the same error as in a text file.
            yield batch.column(0).cast(pa.large_binary()).to_pylist()
