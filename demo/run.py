"""Runs the whole pipeline on a small generated corpus in a copy of the project: python demo/run.py.

The copy, build/demo, is a git and DVC project of its own, to look at and to play with; the checkout itself
stays as it is.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = ("-c", "user.name=New-LLM depth study", "-c", "user.email=study@localhost")


def environment() -> dict[str, str]:
    """The environment for DVC: `python` is this interpreter, and nobody is told about the run.

    One thread, unless said otherwise: products this small gain little from more, and waiting threads are in the way of
    whatever else the machine does.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"OMP_NUM_THREADS": "1"} | os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def copy_project(folder: Path, changes: Mapping[str, Any]) -> None:
    """Copies what git tracks, or would, into `folder` as a new git repository, with changed parameters, and commits it.

    Committed results (dvc.lock, metrics, plots, those of ablations) are left out: they are those of other parameters.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if name == "dvc.lock" or name.startswith(("metrics/", "plots/")) or not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "ablations" / "results.json").write_text('{"experiments": []}\n', encoding="utf-8")
    parameters = folder / "params.yaml"
    values = merged(yaml.safe_load(parameters.read_text(encoding="utf-8")), changes)
    parameters.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    commit(folder, "Copy of the project")


def commit(folder: Path, message: str) -> None:
    """Commits all that git does not ignore."""
    for command in (["add", "--all"], ["commit", "--quiet", "--message", message]):
        subprocess.run(["git", *IDENTITY, *command], cwd=folder, check=True)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with nested `changes`."""
    result = dict(values)
    for name, change in changes.items():
        result[name] = merged(result[name], change) if isinstance(change, Mapping) else change
    return result


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
    activate = Path(sys.prefix) / "bin" / "activate"
    print(f"Go on there, for instance:\n  . {activate} && export OMP_NUM_THREADS=1 && cd {folder}")
    print("  dvc exp run -S model.num_layers=9 && dvc metrics diff")


if __name__ == "__main__":
    main()
