"""Whole files or none: outputs are written beside their place and renamed, JSON is read with clear errors."""

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from newllm.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on success it is renamed to `path`, on any error removed.

    The yielded path does not exist yet: the caller creates a file or a folder there. An existing `path` (file or
    folder) is replaced only at the very end. The file is flushed to the disk before it is renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Network file systems keep a removed file that is open, and with it the folder: no reason to lose what is written.
    with tempfile.TemporaryDirectory("", f".{path.name}.", path.parent, ignore_cleanup_errors=True) as folder:
        beside = Path(folder) / path.name
        yield beside
        if beside.is_dir():
            if path.is_dir():
                path.rename(Path(folder) / "replaced")
        else:
            with beside.open("rb") as written:
                os.fsync(written.fileno())
        beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON in one step; a float that is not finite is refused (ValueError)."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows with the same keys as CSV with a header, in one step; floats in full precision."""
    with atomic_path(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Reads a JSON object; `made_by` is the DVC stage that writes the file, named in the error.

    Raises:
        UserError: the file is missing, is not UTF-8 JSON, or is not an object.
    """
    remedy = f"run `dvc repro {made_by}` to write it again"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found a JSON {type(value).__name__}, expected an object; {remedy}")
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksum(path: Path) -> None:
    """Writes the SHA-256 of a file to `<path>.sha256`, which `sha256sum --check` reads."""
    with atomic_path(_checksum_path(path)) as beside:
        beside.write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")


def check_sha256(path: Path, made_by: str) -> None:
    """Compares a file with the checksum that `write_checksum` wrote; `made_by` is the DVC stage that writes both.

    Raises:
        UserError: they differ, or one of them is missing.
    """
    beside = _checksum_path(path)
    for needed in (path, beside):
        if not needed.is_file():
            raise UserError(f"{needed}: no such file; run `dvc repro {made_by}` to write it again")
    found, expected = sha256(path), beside.read_text(encoding="utf-8", errors="replace")
    if expected != f"{found}  {path.name}\n":
        raise UserError(
            f"{path}: found the SHA-256 {found}, expected {expected.strip()[:64]} as in {beside.name}: one of the two "
            f"is damaged; run `dvc repro --force --single-item {made_by}` to write both again"
        )


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
