"""The canonical text on disk: its splits and its rows."""

from collections.abc import Iterator
from pathlib import Path

from newllm.errors import UserError

SPLITS = ("train", "validation", "test")


def read_rows(path: Path, remedy: str) -> Iterator[str]:
    """The rows of a UTF-8 text file, one a line, ended only by "\\n"; nothing is stripped but that "\\n".

    Raises:
        UserError: the file is missing (the message ends with `remedy`), or a row is not UTF-8.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such file; {remedy}") from None
    with file:
        for number, row in enumerate(file, start=1):
            yield decode_row(row.removesuffix(b"\n"), path, number)


def read_split(folder: Path, split: str) -> Iterator[str]:
    """The rows of a split that the download stage wrote to `folder`; errors as of `read_rows`."""
    return read_rows(folder / f"{split}.txt", "run `dvc repro download` to fetch it again")


def decode_row(row: bytes, path: Path, number: int) -> str:
    """Decodes the row with this number, counted from 1, of the file `path`.

    Raises:
        UserError: the row is not UTF-8.
    """
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, row {number}: not valid UTF-8 ({error.reason} at byte {error.start} of the row); "
            "save the file as UTF-8"
        ) from None
