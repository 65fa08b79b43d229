"""Where a corpus can come from besides the generator: a folder of text or parquet files, or the Hugging Face hub.

Each source yields its rows one at a time, as they are; `newllm.corpus.corpus` makes them canonical.
"""

import errno
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from newllm.config import DataConfig
from newllm.data.text import SPLITS, decode_row, read_rows
from newllm.errors import UserError

HUB_TIMEOUT_SECONDS = 10
_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG, errno.EIO}
# By name, because which HTTP library raises them differs between versions of the hub client.
_CONNECTION_ERRORS = {"ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "ProxyError"}


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
        return Source(f"text {text}", read_rows(text, f"{named_by} names this folder"))
    for place in (folder / configuration, folder):
        shards = _shards(place, split)
        if shards:
            count = f" and {len(shards) - 1} more" if shards[1:] else ""
            return Source(f"parquet {shards[0]}{count}", _parquet_rows(shards))
    raise UserError(
        f"{folder}: split {split} is missing; {named_by} must name a folder that holds {split}.txt (one row a line), "
        f"or {split}-00000-of-00001.parquet directly or below {configuration}/"
    )


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


def hub_sources(config: DataConfig, environment: Mapping[str, str]) -> dict[str, Source]:
    """Loads the dataset through Hugging Face `datasets`, which keeps it in its own cache.

    `config.repository` may also be a local folder in the hub's layout. Sets the HF_HUB_* variables that silence the
    client, and HF_HUB_OFFLINE if the hub cannot be reached: a cached copy then still loads.

    Raises:
        UserError: no connection to the hub, or it has no such repository, revision, configuration, split or column.
    """
    where = f"{config.repository} ({config.config}, revision {config.revision[:8]})"
    dataset = _load_from_hub(config, environment)
    missing = [split for split in SPLITS if split not in dataset or "text" not in dataset[split].column_names]
    if missing:
        raise UserError(f"{where}: no split {missing[0]} with a column text; correct data.repository or data.config")
    return {split: Source(f"Hugging Face datasets {where}", _dataset_rows(dataset[split], where)) for split in SPLITS}


def _load_from_hub(config: DataConfig, environment: Mapping[str, str]) -> Any:
    if not Path(config.repository).is_dir():
        _go_offline_if_unreachable(environment.get("HF_ENDPOINT") or "https://huggingface.co")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import datasets  # noqa: PLC0415 (slow to import, and reads the environment when it is imported)

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        return datasets.load_dataset(config.repository, config.config, revision=config.revision)
    except Exception as error:
        _raise_hub_error(error, config)


def _go_offline_if_unreachable(endpoint: str) -> None:
    """Spares the hub client its minute of retries where there is no network."""
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 (the user's own setting)
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # an answer of any kind is a connection
    except ValueError as error:
        raise UserError(f"environment variable HF_ENDPOINT: found {endpoint!r}, expected a URL ({error})") from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # Anything else, such as a certificate that Python does not know, is for the hub client to judge.
        if isinstance(reason, ConnectionError | TimeoutError | socket.gaierror) or "unreachable" in str(reason):
            os.environ["HF_HUB_OFFLINE"] = "1"


def _raise_hub_error(error: Exception, config: DataConfig) -> NoReturn:
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        raise error
    wanted = f"data.repository {config.repository}, data.config {config.config}, data.revision {config.revision}"
    local = "set the environment variable WIKITEXT2_DIR to a folder that holds the corpus as text or parquet files"
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ConnectionError | TimeoutError) or type(chain).__name__ in _CONNECTION_ERRORS:
            raise UserError(f"no connection to the Hugging Face hub for {wanted}; connect, or {local}") from None
        chain = chain.__cause__ or chain.__context__
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"cannot load {wanted}: {reason}; correct the parameter, or {local}") from None


def _dataset_rows(split: Any, where: str) -> Iterator[str]:
    for batch in split.select_columns("text").iter(batch_size=1024):
        for row in batch["text"]:
            if not isinstance(row, str):
                raise UserError(f"{where}: found a row of type {type(row).__name__}, expected text")
            yield row
