"""Fit, overfitting and the worth of context, against scipy and the figures that the files were made with."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.fit import GAP, Split, context_gains, position_ppl, splits
from newllm.analysis.inference import Difference
from newllm.analysis.records import Group
from newllm.measurement.intervals import Estimate
from tests.analysis.metrics_files import gain_of, position_loss, write_all, write_diagnostics
from tests.analysis.studies import models, reload

BEYOND = {1: 0.004, 4: 0.01, 6: 0.0012}


def train_loss(depth: int, seed: int) -> float:
    return 2.7 + 0.02 * depth + 0.003 * (seed * depth % 7)


def test_gaps_are_of_each_seed() -> None:
    groups = models(train_loss=train_loss)
    expected = [math.log(21.7 + 0.02 * (seed - 2)) - train_loss(7, seed) for seed in range(5)]
    assert groups[7].values(GAP) == pytest.approx(expected, rel=1e-12)


def test_parts_against_scipy() -> None:
    """Of each part all pairs are a family."""
    groups = models(train_loss=train_loss)
    found = list(splits({depth: (groups[depth], groups[4]) for depth in (5, 6, 8)}).values())
    assert len(found) == 3
    losses = {depth: groups[depth].values("val_loss") for depth in groups}
    figures = {
        "train_loss": lambda train, val: train,
        "gap": lambda train, val: val - train,
        "balance": lambda train, val: 2 * train - val,
    }
    for name, figure in figures.items():
        values = {
            depth: [figure(train_loss(depth, seed), losses[depth][seed]) for seed in range(5)] for depth in groups
        }
        tests = [stats.ttest_ind(values[depth], values[4], equal_var=False) for depth in (5, 6, 8)]
        largest = 0.0
        for rank, index in enumerate(sorted(range(3), key=lambda index: tests[index].pvalue)):
            largest = min(max(largest, (3 - rank) * tests[index].pvalue), 1)
            part = getattr(found[index], name)
            assert part.adjusted_p == pytest.approx(largest), name
            interval = tests[index].confidence_interval()
            assert (part.low, part.high) == pytest.approx((interval.low, interval.high)), name
    for one in found:
        assert one.train_loss.mean + one.gap.mean == pytest.approx(one.val_loss.mean)


def test_what_was_not_measured_is_left_out_of_the_families() -> None:
    groups = models(train_loss=lambda depth, seed: None if depth == 6 else train_loss(depth, seed))
    found = splits({depth: (groups[depth], groups[4]) for depth in (5, 6, 8)})
    assert list(found) == [5, 8]
    assert found == splits({depth: (groups[depth], groups[4]) for depth in (5, 8)})
    groups[5].seeds.loc[2, "train_loss_without_dropout"] = math.nan
    assert splits({5: (groups[5], groups[4])}) == {}, "of one seed not"


@pytest.mark.parametrize(
    ("train_loss", "gap", "balance", "expected"),
    [
        (0.2, 0.0, 0.2, ("underfitting", "undecided")),
        (0.2, 0.2, 0.0, ("undecided", "undecided")),
        (0.0, 0.0, 0.2, ("undecided", "undecided")),
        (0.0, 0.2, -0.2, ("overfitting", "undecided")),
        (0.0, 0.0, -0.2, ("undecided", "undecided")),
        (-0.2, 0.0, -0.2, ("undecided", "fit")),
        (0.0, -0.2, 0.2, ("undecided", "less overfitting")),
        (-0.2, -0.2, 0.0, ("undecided", "undecided")),
        (0.2, -0.2, 0.2, ("underfitting", "less overfitting")),
    ],
)
def test_both_parts_of_the_rule_are_needed(
    train_loss: float, gap: float, balance: float, expected: tuple[str, str]
) -> None:
    """Differences of 0.2 are shown here, of 0 are not."""
    parts = [Difference(mean, 0.1, 0.0, 0.01 if mean else 0.5) for mean in (train_loss, gap, balance)]
    one = Split(Estimate(0.2, 0.1), *parts)
    assert (one.excess, one.saving) == expected


def diagnosed(root: Path, seeds: int = 5, **options: Any) -> list[Group]:
    write_all(root, BEYOND, seeds=seeds)
    for depth, beyond in BEYOND.items():
        write_diagnostics(root, depth, **{"beyond": beyond, **options})
    return list(reload(root, BEYOND).depths.values())


def test_gain_is_one_number_a_seed(tmp_path: Path) -> None:
    """Over the positions after more than ten tokens, tested over seeds, corrected for the number of depths."""
    found = context_gains(diagnosed(tmp_path))
    assert list(found) == [1, 4, 6]
    p_values = []
    for depth, one in found.items():
        gains = [math.fsum(gain_of(read, seed, BEYOND[depth]) for read in range(11, 32)) / 21 for seed in range(5)]
        test = stats.ttest_1samp(gains, 0)
        p_values.append(test.pvalue)
        interval = test.confidence_interval()
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    ranked = sorted(p_values)
    holm = {ranked[0]: 3 * ranked[0], ranked[1]: 2 * ranked[1], ranked[2]: ranked[2]}
    assert [one.adjusted_p for one in found.values()] == pytest.approx([holm[p] for p in p_values])
    assert [one.above for one in found.values()] == [True, True, False]


def test_more_context_that_harms_is_no_gain(tmp_path: Path) -> None:
    one = context_gains(diagnosed(tmp_path, beyond=-0.01))[1]
    assert (one.above, one.below) == (False, True)


def test_rounding_is_no_gain(tmp_path: Path) -> None:
    """Five seeds without any context differ by what float32 rounds, and may do so in the same direction."""
    group = diagnosed(tmp_path)[0]
    record: Any = group.diagnosis
    gains = [[1e-8 * (5 + seed)] * 31 for seed in range(5)]
    seeds = [
        seed.model_copy(update={"context_gain_by_position": row}) for seed, row in zip(record.seeds, gains, strict=True)
    ]
    one = context_gains([replace(group, diagnosis=record.model_copy(update={"seeds": seeds}))])[1]
    assert (one.mean, one.adjusted_p, one.above) == (0.0, 1.0, False)


def test_windows_that_hardly_overlap(tmp_path: Path) -> None:
    """Of 63 targets a stride of 53 leaves 10 in common, none after more than ten tokens."""
    assert list(context_gains(diagnosed(tmp_path, stride=52))) == [1, 4, 6]
    assert context_gains(diagnosed(tmp_path, stride=53)) == {}
    assert context_gains(diagnosed(tmp_path, stride=64)) == {}


def test_perplexity_by_position(tmp_path: Path) -> None:
    """Of the mean loss over seeds; what has no target is left out."""
    group = diagnosed(tmp_path, seeds=2)[1]
    losses = [[position_loss(read, value) for read in range(1, 64)] for value in group.values("val_loss")]
    expected = {read: math.exp(sum(pair) / 2) for read, pair in enumerate(zip(*losses, strict=True), start=1)}
    assert position_ppl(group) == pytest.approx(expected)
    record: Any = group.diagnosis
    rows = [[1.0, None, 3.0], [2.0, None, 3.5]]
    seeds = [
        seed.model_copy(update={"val_loss_by_position_full_windows": row})
        for seed, row in zip(record.seeds, rows, strict=True)
    ]
    found = position_ppl(replace(group, diagnosis=record.model_copy(update={"seeds": seeds})))
    assert found == pytest.approx({1: math.exp(1.5), 3: math.exp(3.25)})
