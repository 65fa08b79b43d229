"""Whole files or none."""

import errno
import os
from pathlib import Path

import pytest

from newllm.files import atomic_path


def test_a_folder_that_cannot_be_removed_does_not_cost_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a removed file that is open stays in its folder under another name."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    path = tmp_path / "file"
    with monkeypatch.context() as patched, atomic_path(path) as beside:
        patched.setattr(os, "rmdir", fails)
        beside.write_text("whole")
    assert path.read_text() == "whole"


def test_an_error_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of the rename itself."""

    def fails(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as beside:
        beside.write_text("after")
        raise ZeroDivisionError
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="Stale"), atomic_path(path) as beside:
        beside.write_text("after")
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]
