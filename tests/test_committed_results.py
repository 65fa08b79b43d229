"""The results in git are those that DVC recorded when the stages ran, and the report is that of the committed code."""

import hashlib
from typing import Any

import pytest
import yaml

from tests.checkout import ROOT, in_git

LOCK = ROOT / "dvc.lock"
STAGES: dict[str, dict[str, Any]] = yaml.safe_load(LOCK.read_text())["stages"] if LOCK.exists() else {}


def differing(entries: list[dict[str, Any]]) -> list[str]:
    """Those of the files in git whose checksum is not the recorded one."""
    tracked = in_git()
    return [
        entry["path"]
        for entry in entries
        if entry["path"] in tracked
        and hashlib.md5((ROOT / entry["path"]).read_bytes(), usedforsecurity=False).hexdigest() != entry["md5"]
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_results_in_git_are_the_recorded_ones(stage: str) -> None:
    assert differing(STAGES[stage].get("outs", [])) == []


@pytest.mark.skipif("report" not in STAGES, reason="dvc.lock has no report")
def test_the_report_is_of_this_code_and_of_these_results() -> None:
    assert differing(STAGES["report"]["deps"]) == [], "run: dvc repro --single-item report, python -m stages.readme"


def test_all_results_in_git_are_recorded() -> None:
    recorded = {entry["path"] for stage in STAGES.values() for entry in stage.get("outs", [])}
    assert {name for name in in_git() if name.startswith(("metrics/", "plots/"))} <= recorded
