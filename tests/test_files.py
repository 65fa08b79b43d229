"""Whole files or none, and the bytes that they hold."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from newllm.errors import UserError
from newllm.files import atomic_path, check_sha256, read_json, sha256, write_checksum, write_csv, write_json


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    path.parent.mkdir()
    path.write_text("old")
    synced = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append((os.pread(descriptor, 10, 0), path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    with atomic_path(path) as beside:
        assert beside.parent.parent == path.parent, "on the same file system"
        beside.write_text("new")
    assert synced == [(b"new", "old")]
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


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


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    for name in ("first", "second"):
        with atomic_path(path) as beside:
            beside.mkdir()
            (beside / name).touch()
        assert [file.name for file in path.iterdir()] == [name]
        assert list(path.parent.iterdir()) == [path]


def test_json_is_indented_utf8_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"é": [1.5, None]})
    assert path.read_bytes() == '{\n  "é": [\n    1.5,\n    null\n  ]\n}\n'.encode()
    assert read_json(path, "train") == {"é": [1.5, None]}
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"loss": number})


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", None])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"value\.json: .*dvc repro train@2"):
        read_json(path, "train@2")


def test_csv_keeps_every_bit_of_a_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [{"name": "é", "loss": 0.1 + 0.2}, {"name": "a\r\nb", "loss": None}])
    assert path.read_bytes() == 'name,loss\né,0.30000000000000004\n"a\r\nb",\n'.encode()
    with pytest.raises(ValueError, match="more"):
        write_csv(path, [{"name": "a"}, {"name": "b", "more": 1}])


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "é"
    path.write_bytes(b"abc")
    known = hashlib.sha256(b"abc").hexdigest()
    assert sha256(path) == known
    write_checksum(path)
    assert (tmp_path / "é.sha256").read_bytes() == f"{known}  é\n".encode()
    check_sha256(path, "train@2")
    for damaged in (b"", b"\xff", f"{known}  e\n".encode(), f"{known}  é".encode()):
        (tmp_path / "é.sha256").write_bytes(damaged)
        with pytest.raises(UserError, match=rf"é: found the SHA-256 {known}, .*train@2"):
            check_sha256(path, "train@2")
    for missing in (tmp_path / "é.sha256", path):
        missing.unlink()
        with pytest.raises(UserError, match=rf"{missing}: no such file; run `dvc repro train@2`"):
            check_sha256(path, "train@2")
