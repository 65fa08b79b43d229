"""What a program says cannot fail: programs whose output goes to odd places must end as they would elsewhere."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src"

# Says something in every way, writes its result, says more, and ends with status 3 and a message.
PROGRAM = """
import logging, subprocess, sys, warnings
from tqdm import tqdm
from newllm.runtime.console import keep_output_from_failing
keep_output_from_failing()
def say():
    print("二 layers", flush=True)
    print("x" * 100_000)
    print("二", file=sys.stderr)
    warnings.warn(f"二 {len(warnings.filters)}")
    logging.warning("二")
    for _ in tqdm(range(3), file=sys.stderr):
        sys.stderr.isatty()
say()
with open(sys.argv[1], "w", encoding="utf-8") as file:
    say()
    subprocess.run([sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"], check=True)
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=False)
    file.write("the result")
say()
sys.exit(3)
"""


def run(tmp_path: Path, redirection: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """The program, run by a shell with this redirection."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    variables = os.environ | {"PYTHONPATH": str(SOURCE)} | options.pop("variables", {})
    command = ["bash", "-c", f'"$0" "$1" "$2" {redirection}', sys.executable, script, tmp_path / "result"]
    return subprocess.Popen(command, env=variables, cwd=tmp_path, **options)


def ends(tmp_path: Path, redirection: str = "", **options: Any) -> str:
    """What the program says to where its output leads, after checking that it ends as it should."""
    process = run(tmp_path, redirection, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert (tmp_path / "result").read_text(encoding="utf-8") == "the result"
    return said.decode(errors="replace")


def test_what_is_said_arrives(tmp_path: Path) -> None:
    said = ends(tmp_path)
    assert said.count("二 layers\n") == 3
    assert said.count("x" * 100_000) == 3
    assert said.count("of a child") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_an_encoding_lacks(tmp_path: Path, encoding: str) -> None:
    assert ends(tmp_path, variables={"PYTHONIOENCODING": encoding}).count("\\u4e8c layers\n") == 3


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "COLUMNS": "1"}
    assert ends(tmp_path, variables=variables).count("\\u4e8c layers\n") == 3


@pytest.mark.parametrize(
    "redirection",
    [
        "> /dev/full",
        "2> /dev/full",
        "> /dev/full 2>&1",
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "> >(exec true)",
        "> >(head -c 1) 2>&1",
    ],
)
def test_output_that_goes_nowhere(tmp_path: Path, redirection: str) -> None:
    ends(tmp_path, redirection)


def test_a_limit_on_the_size_of_a_file(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    ends(tmp_path, "> log", preexec_fn=limit)
    assert (tmp_path / "log").stat().st_size == 4_000


def test_a_pipe_that_does_not_wait(tmp_path: Path) -> None:
    """As some CI systems give: everything arrives, however slowly it is read."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = run(tmp_path, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    time.sleep(0.3)  # until the pipe is full
    with os.fdopen(ours, encoding="utf-8") as file:
        said = file.read()
    assert process.wait(timeout=60) == 3
    assert said.count("x" * 100_000) == 3
