"""Families of tests against scipy's single tests, and the set around the best depth."""

from pathlib import Path

import pytest
from scipy import stats

from newllm.analysis.comparisons import Difference, against, compare_pairs, not_distinguishable_from_best
from newllm.analysis.statistics import Estimate
from tests.analysis.metrics_files import change_json
from tests.analysis.studies import PERPLEXITIES, reload, study


def test_against_the_baseline(tmp_path: Path) -> None:
    compared = study(tmp_path, {5: 20.46, 7: 20.55, 8: 20.49})
    family = against(compared, compared.baseline)
    assert list(family) == [1, 2, 3, 4, 5, 7, 8]
    values = {result.num_layers: result.over_seeds("val_ppl") for result in compared.results}
    raw = {depth: stats.ttest_ind(values[depth], values[6], equal_var=False) for depth in family}
    # upwards: 1 to 4 far below, then 7, 5 and 8, which are multiplied by 3, 2 and 1
    for depth, factor in ((7, 3), (5, 2), (8, 1)):
        assert family[depth].adjusted_p == pytest.approx(factor * raw[depth].pvalue)
        interval = raw[depth].confidence_interval()
        assert family[depth].difference.low == pytest.approx(interval.low)
        assert family[depth].difference.high == pytest.approx(interval.high)
    assert raw[7].pvalue < 0.05 < 3 * raw[7].pvalue
    assert [depth for depth, pair in family.items() if pair.below] == [1, 2, 3, 4]
    assert not any(pair.above for pair in family.values())


def test_shown_is_a_p_value_below_5_percent_and_a_difference_other_than_expected() -> None:
    def shown(mean: float, p: float | None) -> tuple[bool, bool]:
        difference = Difference(Estimate(mean, 0.1), 0.1, p)
        return difference.above, difference.below

    assert [shown(0.2, p) for p in (0.0499, 0.05, None)] == [(True, False), (False, False), (False, False)]
    assert [shown(mean, 0.0) for mean in (0.0, 0.1, 0.2)] == [(False, True), (False, False), (True, False)]


def test_expected_difference() -> None:
    values = {1: [20.0, 20.1, 20.2], 2: [19.0, 19.1, 19.2]}
    zero, one, two = (compare_pairs(values, [(1, 2)], expected)[0] for expected in (0.0, 1.0, 2.0))
    assert (zero.above, one.above, two.above) == (True, False, False)
    assert (zero.below, one.below, two.below) == (False, False, True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [4]),
        ({3: 19.92, 5: 19.93}, [3, 4, 5]),
        ({3: 19.95}, [4]),  # p = 0.037, the largest of the family: nothing to correct
        ({3: 19.95, 5: 19.95}, [3, 4, 5]),  # 0.037 twice: Holm's factors are 2 and 1, and 0.074 carries over
        ({8: 19.5}, [8]),
    ],
    ids=str,
)
def test_not_distinguishable(tmp_path: Path, changes: dict[int, float], expected: list[int]) -> None:
    assert not_distinguishable_from_best(study(tmp_path, changes)) == expected


def test_one_seed_distinguishes_nothing(tmp_path: Path) -> None:
    compared = study(tmp_path, seeds=1)
    assert not_distinguishable_from_best(compared) == list(PERPLEXITIES)
    assert all(pair.adjusted_p is None for pair in against(compared, compared.best).values())


def test_test_figures_choose_nothing(tmp_path: Path) -> None:
    before = study(tmp_path)

    def turn_round(runs: dict[str, list[dict[str, float]]]) -> None:
        for run in runs["seeds"]:
            run["test_ppl"] = 1.5

    for depth in PERPLEXITIES:
        change_json(tmp_path / f"metrics/runs/{depth}.json", turn_round)
        change_json(tmp_path / f"metrics/layers/{depth}.json", lambda layer: layer.update(test_ppl=1.5))
    after = reload(tmp_path)
    assert after.results[0].runs.seeds[0].test_ppl == 1.5
    assert not_distinguishable_from_best(after) == not_distinguishable_from_best(before)
    assert against(after, after.best) == against(before, before.best)
