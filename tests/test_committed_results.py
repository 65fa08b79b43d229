"""The results in git are those that DVC recorded when the stages ran, and the report is that of the committed code."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkout import ROOT, in_git

LOCK = ROOT / "dvc.lock"
STAGES: dict[str, dict[str, Any]] = yaml.safe_load(LOCK.read_text())["stages"] if LOCK.exists() else {}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def checksum(path: str, tracked: set[str]) -> str | None:
    """As DVC makes it, of the committed files alone; None for what is not in git.

    That of a folder is of a list of its files' checksums and names.
    """
    if path in tracked:
        return md5((ROOT / path).read_bytes())
    names = sorted(name for name in tracked if name.startswith(f"{path}/"))
    files = [{"md5": md5((ROOT / name).read_bytes()), "relpath": name.removeprefix(f"{path}/")} for name in names]
    return f"{md5(json.dumps(files).encode())}.dir" if files else None


def differing(entries: list[dict[str, Any]]) -> list[str]:
    """Those of the files and folders in git whose checksum is not the recorded one."""
    tracked = in_git()
    return [entry["path"] for entry in entries if checksum(entry["path"], tracked) not in (None, entry["md5"])]


@pytest.mark.parametrize("stage", STAGES)
def test_results_in_git_are_the_recorded_ones(stage: str) -> None:
    assert differing(STAGES[stage].get("outs", [])) == []


@pytest.mark.skipif("report" not in STAGES, reason="dvc.lock has no report")
def test_the_report_is_of_this_code_and_of_these_results() -> None:
    assert differing(STAGES["report"]["deps"]) == [], "run: dvc repro --single-item report, python -m stages.readme"


def test_all_results_in_git_are_recorded() -> None:
    recorded = {entry["path"] for stage in STAGES.values() for entry in stage.get("outs", [])}
    written = {name for name in in_git() if name.startswith(("metrics/", "plots/")) and not name.endswith(".gitkeep")}
    assert [name for name in written if not {name, *map(str, Path(name).parents)} & recorded] == []


def seconds_of(results: Any) -> float:
    """Of all trainings in a record together."""
    if isinstance(results, list):
        return sum(map(seconds_of, results))
    if isinstance(results, dict):
        own = results.get("train_seconds")
        return float(own) if own is not None else sum(map(seconds_of, results.values()))
    return 0.0


def seconds(path: Path, *keys: str) -> list[str]:
    """Of parts of one record, as docs/search.md has them; a dash for each if there is no such record."""
    if not path.exists():
        return ["–"] * len(keys)
    record = json.loads(path.read_text())
    (found,) = record["tuning" if path.parent.name == "tuning" else "details"]
    return [f"{seconds_of(found[key]):.0f}" for key in keys]


def test_the_documented_seconds_of_the_searches_are_the_committed_ones() -> None:
    rows = re.findall(r"^\| (\d|LSTM of \d+)[^|]*((?:\| \S+ ){4})\|$", (ROOT / "docs/search.md").read_text(), re.M)
    metrics, committed = ROOT / "metrics", {}
    for path in metrics.glob("tuning/*.json"):
        committed[path.stem] = seconds(path, "trials", "finalists")
        committed[path.stem] += seconds(metrics / "tuned" / path.name, "runs")
        committed[path.stem] += seconds(metrics / "equal" / path.name, "runs")
    for path in metrics.glob("lstm/*.json"):
        committed[f"LSTM of {path.stem}"] = [*seconds(path, "trials", "finalists", "runs"), "–"]
    assert {name: cells.replace("|", " ").split() for name, cells in rows} == committed
