"""Loss by position: the gain from more context against the curve that the files were made with."""

from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.context import loss_by_position, reach
from newllm.analysis.diagnosis import Diagnosis
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import compare
from newllm.analysis.supplements import load_supplements
from tests.analysis.metrics_files import DATA, position_loss, write_all, write_diagnostics


def diagnosis(root: Path, **positions: float) -> Diagnosis:
    write_all(root, [4])
    write_diagnostics(root, 4, **positions)
    results = load_results([4], root / "metrics", root / "plots/curves")
    return load_supplements(results, root, 64, 32).diagnoses[0]


def section(root: Path, stride: int = 32, **positions: float) -> str:
    diagnosis(root, **positions)
    results = load_results([4], root / "metrics", root / "plots/curves")
    report = write_report(compare(results, 4, 4, DATA), supplements=load_supplements(results, root, 64, stride))
    return report.split("## What the context carries")[1].split("\n## ")[0]


def test_gain_is_that_of_the_curve(tmp_path: Path) -> None:
    found = reach(diagnosis(tmp_path), 32)
    assert found is not None
    gains = [position_loss(read, 3.0) - position_loss(read + 32, 3.0) for read in range(11, 32)]
    assert found.positions == len(gains) == 21
    assert found.gain.mean == pytest.approx(sum(gains) / 21)
    assert found.p is not None
    assert found.p < 1e-6


def test_too_short_windows(tmp_path: Path) -> None:
    one = reach(diagnosis(tmp_path), 52)
    assert one is not None
    assert (one.positions, one.p) == (1, None)
    assert reach(diagnosis(tmp_path), 53) is None
    assert "too short to tell" in section(tmp_path, stride=53)
    assert "too short to tell" in section(tmp_path, stride=52)


def test_sentence_on_both_sides(tmp_path: Path) -> None:
    assert "**The context vector carries something past 10 tokens at every depth measured**" in section(tmp_path)
    nothing = section(tmp_path, gain_beyond=-0.00136)  # undoes what 1.5 / read still falls
    assert "**No depth is shown to carry anything past 10 tokens**" in nothing
    harmful = section(tmp_path, gain_beyond=-0.01)
    assert "**No depth is shown" in harmful


def test_positions_without_targets_are_left_out(tmp_path: Path) -> None:
    record: Any = diagnosis(tmp_path)
    losses = [[*seed.val_loss_by_position_continuing_windows[:20], *[None] * 43] for seed in record.seeds]
    seeds = [
        seed.model_copy(update={"val_loss_by_position_continuing_windows": row})
        for seed, row in zip(record.seeds, losses, strict=True)
    ]
    rows = loss_by_position(record.model_copy(update={"seeds": seeds}))
    assert [read for read, *_ in rows] == list(range(1, 21))
    for read, mean, low, high in rows:
        of_seeds = [row[read - 1] for row in losses]
        assert mean == pytest.approx(sum(of_seeds) / 5)
        assert (low, high) == (min(of_seeds), max(of_seeds))
