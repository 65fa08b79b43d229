"""Runs the whole pipeline on a small generated corpus in a copy of the project: python demo/run.py.

The copy, build/demo, is a git and DVC project of its own, to look at and to play with; the checkout itself
stays as it is.
"""

import copy
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from dulwich.ignore import IgnoreFilterManager
from dvc.utils.serialize import modify_yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from newllm.runtime.git import git, isolated
from stages import run

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """The environment for git and DVC in the copy: `python` is this interpreter, and nobody is told about the run.

    One thread, unless said otherwise: products this small gain little from more, and waiting threads are in the way of
    whatever else the machine does.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"OMP_NUM_THREADS": "1"} | isolated(os.environ) | {"PATH": path}


def copy_project(folder: Path, changes: Mapping[str, Any]) -> None:
    """Copies what git does not ignore into `folder` as a new project, with changed parameters, and commits it.

    Committed results (dvc.lock, metrics, plots, those of ablations) are left out: they are those of other parameters.
    Without git the copy is a DVC project alone.

    Raises:
        UserError: git fails.
    """
    for name in files():
        if name == "dvc.lock" or name.startswith(("metrics/", "plots/")):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)  # without its mode: the original may be read-only
    (folder / "ablations" / "results.json").write_text('{"experiments": []}\n', encoding="utf-8")
    with modify_yaml(folder / "params.yaml") as values:  # as `dvc exp run -S` does, with all comments
        change(values, changes)
    if has_git():
        git(folder, "init", "--quiet", environment=environment())
    else:
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    commit(folder, "Copy of the project")


def change(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts `changes` into nested `values`; an empty mapping empties one."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and value and name in values:
            change(values[name], value)
        else:
            values[name] = copy.deepcopy(value)


def files() -> Iterator[str]:
    """The project's files that no .gitignore names, relative to the root; folders behind links are none of it."""
    ignored = IgnoreFilterManager(str(ROOT), [], ignorecase=False)
    for folder, folders, names in os.walk(ROOT):
        relative = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if name != ".git" and not ignored.is_ignored(f"{relative / name}/")]
        for name in names:
            if name != ".git" and (Path(folder) / name).is_file() and not ignored.is_ignored(str(relative / name)):
                yield (relative / name).as_posix()


def has_git() -> bool:
    """Whether there is a git to be run."""
    return shutil.which("git") is not None


def commit(folder: Path, message: str) -> None:
    """Commits all that git does not ignore, if there is a git.

    Raises:
        UserError: git fails.
    """
    if has_git():
        git(folder, "add", "--all", environment=environment())
        git(folder, "commit", "--quiet", "--message", message, environment=environment())


def main() -> None:
    """Copies, runs `dvc repro`, and shows the table and where the pictures are."""
    folder = ROOT / "build" / "demo"
    if folder.exists():
        shutil.rmtree(folder)
    start = time.monotonic()
    copy_project(folder, yaml.safe_load((ROOT / "demo" / "settings.yaml").read_text(encoding="utf-8")))
    print(f"The demo runs in {folder}: 8 depths, 2 seeds each, a generated corpus; two or three minutes.\n", flush=True)
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), check=False)
    if done.returncode:
        sys.exit(done.returncode)
    commit(folder, "Results of the demo")  # for `dvc metrics diff` to compare with
    report = (folder / "metrics" / "report.md").read_text(encoding="utf-8")
    table = [line for line in report.splitlines() if line.startswith("|")]
    print(
        "\n" + "\n".join(table[: next((i for i, line in enumerate(table[2:], 2) if "---" in line), len(table) + 1) - 1])
    )
    print(f"\nDone in {time.monotonic() - start:.0f} s. The report and its pictures:")
    for path in (folder / "metrics" / "report.md", *sorted((folder / "plots").glob("*.png"))):
        print(f"  {path}")
    print("So short a training of such small models shows that all works; the order of the depths means nothing here.")
    activate = shlex.quote(str(Path(sys.prefix) / "bin" / "activate"))
    print(f"Go on there, for instance:\n  . {activate} && export OMP_NUM_THREADS=1 && cd {shlex.quote(str(folder))}")
    if has_git():
        print("  dvc exp run -S model.num_layers=9 && dvc metrics diff")
    else:
        print("  dvc repro --force report    # DVC's experiments and comparisons need git, which is not installed here")


if __name__ == "__main__":
    run(main)
