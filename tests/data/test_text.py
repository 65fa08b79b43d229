"""Rows."""

from pathlib import Path

import pytest

from newllm.data.text import read_rows
from newllm.errors import UserError


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes("a\r\nb\x0b\x0c\x1c\x85\u2028\u2029c\n\nlast".encode())
    assert list(read_rows(path, "")) == ["a\r", "b\x0b\x0c\x1c\x85\u2028\u2029c", "", "last"]


def test_a_final_line_feed_adds_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"a\n")
    assert list(read_rows(path, "")) == ["a"]
    path.write_bytes(b"")
    assert list(read_rows(path, "")) == []


def test_invalid_utf8_names_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"fine\nbad \xff byte\n")
    with pytest.raises(UserError, match=r"rows\.txt, row 2: not valid UTF-8"):
        list(read_rows(path, ""))


def test_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.txt: no such file; mend it"):
        list(read_rows(tmp_path / "rows.txt", "mend it"))
