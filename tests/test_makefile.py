"""Every target of the Makefile in a folder whose name has spaces and other signs, with programs that only tell."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.strangers import Stranger

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make, which is not on the PATH")
ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE)
# Stands for every program: makes the environment that it is asked for, tells who was called, and may fail.
PROGRAM = """#!/bin/sh
echo "called: $0 $*, GIT_DIR ${GIT_DIR-unset}, GIT_INDEX_FILE ${GIT_INDEX_FILE-unset}, ${PYTHONSAFEPATH-importing}"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  for name in python pip pip-audit dvc ruff mypy; do cp "$0" "$3/bin/$name"; done
fi
case "$*" in *"$FAILING"*) exit 3 ;; esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "päth with späces & 'quotes'"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    python = folder / "my python"
    python.write_text(PROGRAM)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def make(folder: Path, target: str, failing: str = "nothing", *settings: str) -> subprocess.CompletedProcess[str]:
    command = ["make", target, f"PYTHON={folder / 'my python'}", *settings]
    environment = {**os.environ, "FAILING": failing}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target(target: str, folder: Path) -> None:
    done = make(folder, target)
    assert (done.returncode, done.stderr) == (0, "")
    programs = {"audit": "build/audit/bin/pip-audit", "setup": ".venv/bin/python -m pip"}
    if target not in ("help", "clean"):
        assert f"called: {programs.get(target, f'{folder}/.venv/bin/')}" in done.stdout
    assert [*folder.parent.iterdir()] == [folder], "something was written beside the folder"
    assert {path.name for path in folder.iterdir()} <= {"Makefile", "requirements.lock", "my python", ".venv", "build"}


def test_targets_are_in_no_other_repository(folder: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert "-m newllm.parallel, GIT_DIR unset, GIT_INDEX_FILE unset, importing" in make(folder, "repro").stdout


@pytest.mark.parametrize("failing", ["-m venv", "-m pip", "import sys"])
def test_a_failed_setup_leaves_nothing(failing: str, folder: Path) -> None:
    assert make(folder, "setup", failing).returncode == 2
    assert not (folder / ".venv").exists()
    assert make(folder, "setup").returncode == 0
    assert (folder / ".venv/installed").is_file()


@pytest.mark.parametrize("failing", ["-m venv", "-m pip"])
def test_a_failed_update_leaves_what_was_there(failing: str, folder: Path) -> None:
    make(folder, "setup")
    installed = folder / ".venv/installed"
    os.utime(installed, (0, 0))
    assert make(folder, "setup", failing).returncode == 2
    assert installed.stat().st_mtime == 0
    installed.unlink()
    assert make(folder, "setup", failing).returncode == 2
    assert (folder / ".venv/bin/python").is_file(), "an environment that somebody else made"


def test_the_torch_without_cuda_comes_from_an_index_of_its_own(folder: Path) -> None:
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    done = make(folder, "setup", "nothing", "TORCH=gpu")
    assert done.returncode == 2
    assert "TORCH=gpu: expected cpu or cuda" in done.stderr
    assert not (folder / ".venv").exists()
    assert index in make(folder, "setup", "nothing", "TORCH=cpu").stdout
    shutil.rmtree(folder / ".venv")
    assert index not in make(folder, "setup").stdout
