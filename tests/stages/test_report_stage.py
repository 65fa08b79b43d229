"""The report stage as DVC runs it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.analysis.metrics_files import change_json, final_perplexity, write_all, write_supplements
from tests.checkout import ROOT, write_parameters

OUTPUTS = [
    "metrics/report.md",
    "metrics/appendix.md",
    "metrics/results.csv",
    "metrics/summary.json",
    "plots/learning_curves.csv",
    "plots/perplexity_by_depth.csv",
    *(f"plots/pictures/{name}.png" for name in ("perplexity_by_depth", "fit", "learning_curves", "grown_contexts")),
]


def stage(folder: Path, *depths: int | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "stages.report", "--num-layers", *map(str, depths)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "random"},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_parameters(tmp_path)
    write_all(tmp_path)
    write_supplements(tmp_path)
    return tmp_path


def test_same_bytes_whatever_lies_about(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = stage(project, 1, 4, 6, 6)
    assert (done.returncode, done.stderr) == (0, "")
    first = outputs(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(project / "params.yaml", elsewhere)
    write_all(elsewhere, [6, 9, 4, 1])
    write_supplements(elsewhere, [4, 9, 6, 1])
    for name in ("runs/9", "diagnostics/9", "expand/9-freeze", "expand/4-joint"):
        (elsewhere / f"metrics/{name}.json").write_text("of an earlier experiment")
    inputs = files(elsewhere)
    assert stage(elsewhere, 6, 4, 1).returncode == 0
    assert outputs(elsewhere) == first
    assert files(elsewhere) == inputs | set(OUTPUTS)


def test_contents(project: Path) -> None:
    assert stage(project, 1, 4, 6).returncode == 0
    summary = json.loads((project / "metrics/summary.json").read_text())
    assert summary["num_layers"] == 6
    assert summary["best"]["num_layers"] == 4
    with (project / "plots/learning_curves.csv").open(newline="") as file:
        curves = list(csv.DictReader(file))
    assert [(row["num_layers"], row["epoch"]) for row in curves] == [(d, e) for d in "146" for e in "123"]
    with (project / "plots/perplexity_by_depth.csv").open(newline="") as file:
        depths = list(csv.DictReader(file))
    expected = sum(final_perplexity(1, seed) for seed in range(5)) / 5
    assert float(depths[0]["val_ppl"]) == pytest.approx(expected, rel=1e-6)
    report, appendix = ((project / f"metrics/{name}.md").read_text() for name in ("report", "appendix"))
    for title in ("The answer", "The depths", "What it costs", "Grown contexts", "Glossary"):
        assert f"\n## {title}\n" in report
    for name in OUTPUTS:
        if name.endswith(".png"):
            assert f"(../{name})" in report + appendix
            assert (project / name).stat().st_size > 15_000


def test_pictures_of_an_earlier_experiment_go(project: Path) -> None:
    assert stage(project, 1, 4, 6).returncode == 0
    for path in [*project.glob("metrics/expand/*"), *project.glob("metrics/diagnostics/*")]:
        path.unlink()
    assert stage(project, 1, 4, 6).returncode == 0
    names = {path.stem for path in (project / "plots/pictures").iterdir()}
    assert names == {"perplexity_by_depth", "learning_curves"}


def test_error_keeps_the_earlier_report(project: Path) -> None:
    assert stage(project, 1, 4, 6).returncode == 0
    before = outputs(project)
    (project / "metrics/layers/4.json").unlink()
    done = stage(project, 1, 4, 6)
    assert done.returncode == 1
    assert done.stderr == "error: metrics/layers/4.json: no such file; run `dvc repro evaluate@4` to write it again\n"
    assert outputs(project) == before


@pytest.mark.parametrize(
    ("depths", "expected"), [((1, 4), "model.num_layers"), ((6, 0), "metrics/layers/0.json"), ((4, "x"), "'x'")]
)
def test_bad_depths(project: Path, depths: tuple[int | str, ...], expected: str) -> None:
    done = stage(project, *depths)
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "metrics/summary.json").exists()


def test_mixed_epochs(project: Path) -> None:
    change_json(project / "metrics/runs/6.json", lambda runs: runs["parameters"]["train"].update(epochs=3))
    done = stage(project, 1, 4, 6)
    assert done.returncode == 1
    assert "depth 6 was run with train.epochs 3, but depth 1 with 150" in done.stderr


INPUTS = ["metrics/layers/6.json", "metrics/runs/6.json", "plots/curves/6.csv", "metrics/data.json"]
INPUTS += ["metrics/diagnostics/6.json", "metrics/expand/4-freeze.json", "plots/expand/4-freeze.csv"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(INPUTS), junk=st.binary())
def test_junk_gives_one_message(project: Path, place: str, junk: bytes) -> None:
    (project / place).parent.mkdir(exist_ok=True)
    (project / place).write_bytes(junk)
    done = stage(project, 4, 6)
    (project / place).unlink()
    write_all(project)
    write_supplements(project)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {place}")
    assert done.stderr.count("\n") == 1
