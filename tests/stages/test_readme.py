"""README's results come from the committed metrics, and stay as they are where there are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.readme import BEGIN, END, replaced, results_section
from tests.analysis.metrics_files import change_json, write_diagnostics
from tests.analysis.studies import PERPLEXITIES, study
from tests.checkout import ROOT, in_git, write_parameters


def call(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.readme"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_parameters(tmp_path)
    study(tmp_path)
    (tmp_path / "README.md").write_text(f"# Title\n\n{BEGIN}\nearlier\n{END}\n\n## More\n")
    return tmp_path


def test_readme_quotes_the_committed_metrics() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    if "metrics/summary.json" in in_git():
        assert replaced(text, results_section(ROOT)) == text, "run: python -m stages.readme"
    else:
        assert "The study is not complete yet" in text


def test_section_is_replaced_and_nothing_else(project: Path) -> None:
    write_diagnostics(project, 4)
    done = call(project)
    assert (done.returncode, done.stderr) == (0, "")
    text = (project / "README.md").read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\n## More\n")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [f"| {depth}" for depth in PERPLEXITIES]
    assert rows[3][1:] == ["2,214,120", "19.90 ± 0.04", "18.90 ± 0.04", "38.20 ± 0.20", "150", "225 |"]
    assert "](plots/pictures/perplexity_by_depth.png)" in text
    assert "earlier" not in text
    assert call(project).returncode == 0
    assert (project / "README.md").read_text() == text


def test_different_devices_stand_in_the_place_of_seconds(project: Path) -> None:
    change_json(project / "metrics/runs/4.json", lambda runs: runs.update(device="another"))
    rows = [line.removesuffix(" |").split(" | ") for line in results_section(project).splitlines() if line[:2] == "| "]
    assert [row[-1] for row in rows if row[0] in ("| layers", "| 3", "| 4")] == ["device", "NVIDIA L4", "another"]


def test_errors_leave_the_text(project: Path) -> None:
    before = (project / "README.md").read_text()
    (project / "metrics/layers/3.json").unlink()
    done = call(project)
    assert done.returncode == 1
    assert "metrics/layers/3.json: no such file" in done.stderr
    assert (project / "README.md").read_text() == before
    (project / "README.md").write_text("no marks")
    assert "expected the marks" in call(project).stderr
