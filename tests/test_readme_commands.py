"""The commands of the documents: what they name exists; and what checks README's commands sees when one fails."""

import subprocess
from pathlib import Path

import pytest

from demo.run import environment
from tests.test_documents import DOCUMENTS
from tools import readme_commands
from tools.readme_commands import Names, blocks, commands, failure, reason_not_to_run, run_blocks, unknown_names

ROOT = Path(__file__).parent.parent
NAMES = Names.of(ROOT)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_names_what_exists(path: Path) -> None:
    assert unknown_names(path.read_text(encoding="utf-8"), NAMES) == []


def test_readme_has_commands_that_are_run() -> None:
    lines = [line for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) for line in block]
    assert len([line for line in lines if not reason_not_to_run(line)]) >= 5


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("make demos", ["make demos"]),
        ("make repro JOBS=2 && make tests", ["make tests"]),
        ("dvc repro train@3 train@33", ["train@33"]),
        ("dvc repro --single expand@1-freeze expand@2-freeze", ["expand@2-freeze"]),
        ("dvc exp run --force-all", ["dvc exp run --force-all"]),
        ("dvc exp runs", ["dvc exp runs"]),
        ("dvc exp run -S model.dropuot=0.2 -S train.epochs=1", ["model.dropuot=0.2"]),
        ("dvc exp run -S train.epochs.more=1", ["train.epochs.more=1"]),
        ("dvc exp run -S 'search.depths=[4]' tune@4", []),
        ("dvc exp run -S '+recipes.mine={dropout: 0.3}'", []),
        ("for d in 1 2; do dvc repro evaluat@$d; dvc exp run nothing; done", ["nothing"]),
        ("python -m stages.nothing", ["stages.nothing"]),
        ("python -m nothing.at.all", ["nothing.at.all"]),
        ("python demo/nothing.py", ["demo/nothing.py"]),
        ("nothing --at all", ["nothing"]),
        ("git status && dvc metrics diff HEAD~1   # nothing", []),
        ("x=$(mktemp -d)", []),
        ("NAME=value dvc status", []),
    ],
)
def test_what_does_not_exist_is_named(line: str, unknown: list[str]) -> None:
    assert unknown_names(f"text\n```sh\n{line}\n```\n", NAMES) == unknown


def test_blocks_are_of_shell_code_alone() -> None:
    text = "```sh\na \\\n  b\n# c\n\nd  # e\n```\n```\nf\n```\n```python\ng\n```\n```sh\nh\n```\n"
    assert blocks(text) == [["a    b", "d  # e"], ["h"]]
    assert [*commands("a 'b c' && d | e; f # g")] == [["a", "b c"], ["d"], ["e"], ["f"]]


@pytest.mark.git
def test_failures_are_seen_and_each_block_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as committed")
    for command in ("git init --quiet", "dvc init --quiet", "git add --all", "git commit --quiet --message Kept"):
        subprocess.run(command.split(), cwd=tmp_path, env=environment(), check=True)
    text = """
```sh
grep changed kept
echo changed > kept
grep changed kept
```
```sh
grep changed kept
git push
```
```sh
make demo
```
"""
    found = run_blocks(text, tmp_path, tmp_path / "clone")
    assert [problem.splitlines()[0] for problem in found] == ["grep changed kept"] * 2


def test_blocks_about_the_study_are_run_in_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    monkeypatch.setattr(readme_commands, "restore", lambda folder: None)
    monkeypatch.setattr(readme_commands, "failure", lambda line, folder: places.append((line, folder.name)))
    lines = [
        "dvc metrics diff 88a09e3 HEAD",
        "dvc exp run --allow-missing",
        "dvc metrics diff HEAD~1 HEAD",
        "ls build/demo",
    ]
    run_blocks("".join(f"```sh\n{line}\n```\n" for line in lines), tmp_path / "demo", tmp_path / "clone")
    assert places == [*zip(lines, ("clone", "clone", "demo", "clone"), strict=True)]


def test_what_a_line_shows(tmp_path: Path) -> None:
    assert failure("false | cat", tmp_path) == "ended with status 1:\n"
    assert failure("echo well", tmp_path) is None
    (tmp_path / "Makefile").write_text("experiments:\n\t@echo $(SHOWN)\n")
    assert failure("make experiments SHOWN=workspace", tmp_path) is None
    assert "workspace" in (failure("make experiments SHOWN=nothing", tmp_path) or "")
