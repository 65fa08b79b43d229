"""What more context is worth, against scipy and the figures that the files were made with."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.context import gain_by_position, loss_by_position, reaches
from newllm.analysis.diagnosis import Diagnosis
from newllm.analysis.report import write_report
from tests.analysis.metrics_files import gain_of, write_all, write_diagnostics
from tests.analysis.studies import more, reload

BEYOND = {1: 0.004, 4: 0.01, 6: 0.0012}


def diagnoses(root: Path, seeds: int = 5, **options: Any) -> list[Diagnosis]:
    write_all(root, BEYOND, seeds=seeds)
    for depth, beyond in BEYOND.items():
        write_diagnostics(root, depth, **{"beyond": beyond, **options})
    return list(more(root, reload(root, BEYOND)).diagnoses)


def section(root: Path, **options: Any) -> str:
    diagnoses(root, **options)
    compared = reload(root, BEYOND)
    report = write_report(compared, supplements=more(root, compared))
    return report.split("## What the context carries")[1].split("\n## ")[0]


def test_gain_is_one_number_a_seed(tmp_path: Path) -> None:
    """Over the positions after more than ten tokens, tested over seeds, corrected for the number of depths."""
    found = reaches(diagnoses(tmp_path))
    assert [(one.num_layers, one.stride, one.pairs) for one in found] == [(1, 32, 700), (4, 32, 700), (6, 32, 700)]
    p_values = []
    for one in found:
        gains = [
            math.fsum(gain_of(read, seed, BEYOND[one.num_layers]) for read in range(11, 32)) / 21 for seed in range(5)
        ]
        test = stats.ttest_1samp(gains, 0)
        p_values.append(test.pvalue)
        interval = test.confidence_interval()
        assert (one.gain.low, one.gain.high) == pytest.approx((interval.low, interval.high))
    ranked = sorted(p_values)
    holm = {ranked[0]: 3 * ranked[0], ranked[1]: 2 * ranked[1], ranked[2]: ranked[2]}
    assert [one.adjusted_p for one in found] == pytest.approx([holm[p] for p in p_values])
    assert [one.is_shown for one in found] == [True, True, False]


def test_more_context_that_harms_is_no_gain(tmp_path: Path) -> None:
    (one, *_) = reaches(diagnoses(tmp_path, beyond=-0.01))
    assert one.adjusted_p is not None
    assert one.adjusted_p < 0.01
    assert not one.is_shown


def test_rounding_is_no_gain(tmp_path: Path) -> None:
    """Five seeds without any context differ by what float32 rounds, and may do so in the same direction."""
    record: Any = diagnoses(tmp_path)[0]
    gains = [[1e-8 * (5 + seed)] * 31 for seed in range(5)]
    seeds = [
        seed.model_copy(update={"context_gain_by_position": row}) for seed, row in zip(record.seeds, gains, strict=True)
    ]
    (one,) = reaches([record.model_copy(update={"seeds": seeds})])
    assert (one.gain.mean, one.adjusted_p, one.is_shown) == (0.0, 1.0, False)


def test_windows_that_hardly_overlap(tmp_path: Path) -> None:
    """Of 63 targets a stride of 53 leaves 10 in common, none after more than ten tokens."""
    assert [one.pairs for one in reaches(diagnoses(tmp_path, stride=52))] == [700] * 3
    assert reaches(diagnoses(tmp_path, stride=53)) == []
    for stride in (53, 62, 63, 64):
        text = section(tmp_path, stride=stride)
        assert "cannot be measured here: no two windows of a row have more than 10 targets in common" in text
        assert text.count("| – | – |") == 3


def test_section(tmp_path: Path) -> None:
    text = section(tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["1", "4", "6"]
    assert rows[3][4].startswith("+0.010 ± 0.002")
    assert "with 32 tokens of context more" in text
    assert "mean over 700 pairs of windows" in text
    assert "**The context vector carries something past 10 tokens at depths 1 and 4.**" in text
    assert "At the best depth, 4, 32 tokens more are worth +0.010 ± 0.002 nats: they lower perplexity by 1.0 %" in text
    assert ", which at its 20.07 is 0.20. Over the depths" in text
    assert "Over the depths the gain goes from +0.001 ± 0.002 (depth 6) to +0.010 ± 0.002 (depth 4)." in text


def test_sentence_on_both_sides(tmp_path: Path) -> None:
    assert "something past 10 tokens at every depth measured.**" in section(tmp_path, beyond=0.02)
    for beyond in (0.0, -0.02):
        assert "**No depth is shown to carry anything past 10 tokens.**" in section(tmp_path, beyond=beyond)
    one_seed = section(tmp_path, seeds=1)
    assert "One seed gives no test of whether the context vector carries anything past 10 tokens." in one_seed
    assert "±" not in one_seed


def test_by_position(tmp_path: Path) -> None:
    record: Any = diagnoses(tmp_path)[0]
    rows = gain_by_position(record)
    assert [row[0] for row in rows] == list(range(1, 32))
    of_seeds = [gain_of(7, seed, BEYOND[1]) for seed in range(5)]
    assert rows[6] == pytest.approx((7, sum(of_seeds) / 5, min(of_seeds), max(of_seeds)))
    losses = [[*seed.val_loss_by_position_full_windows[:20], *[None] * 43] for seed in record.seeds]
    seeds = [
        seed.model_copy(update={"val_loss_by_position_full_windows": row})
        for seed, row in zip(record.seeds, losses, strict=True)
    ]
    rows = loss_by_position(record.model_copy(update={"seeds": seeds}))
    assert [read for read, *_ in rows] == list(range(1, 21)), "positions without targets are left out"
    for read, mean, low, high in rows:
        of_seeds = [row[read - 1] for row in losses]
        assert mean == pytest.approx(sum(of_seeds) / 5)
        assert (low, high) == (min(of_seeds), max(of_seeds))
