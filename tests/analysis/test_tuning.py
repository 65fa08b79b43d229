"""The rule for the tuned depths on both sides, and importances of made-up trials."""

import itertools

import pytest
from scipy import stats

from newllm.analysis.inference import Difference, answer, compared
from newllm.analysis.schemas import Search
from newllm.analysis.tuning import importances
from tests.analysis.part2_files import RECIPE, search
from tests.analysis.studies import models


def some(changes: dict[int, float], **options: float) -> dict:
    groups = models(changes, seeds=10, **options)  # type: ignore[arg-type]
    return {depth: groups[depth] for depth in changes}


def test_one_depth_is_the_best_if_all_others_are_shown_to_be_worse() -> None:
    found = answer(some({1: 19.4, 4: 19.2, 6: 19.3}))
    assert (found.best.num_layers, found.set) == (4, [4])


def test_otherwise_the_shallowest_of_those_not_shown_to_be_worse() -> None:
    """Ten seeds of standard deviation 0.0606: a difference of 0.05 has p = 0.08, of 0.2 less than 0.0001."""
    found = answer(some({1: 19.4, 4: 19.25, 6: 19.2, 8: 19.21}))
    assert (found.best.num_layers, found.set) == (6, [4, 6, 8])
    assert list(found.zero) == [1, 4, 8]


def test_differences_that_matter_are_larger_than_005() -> None:
    groups = some({1: 19.4, 4: 19.2, 6: 19.28})
    found = answer(groups)
    assert found.set == [4]
    assert found.matter == [1], "0.08 is shown to differ from 0, not to be more than 0.05"
    values = groups[4].values("val_ppl")
    raw = {
        depth: stats.ttest_ind(groups[depth].values("val_ppl"), [value + 0.05 for value in values], equal_var=False)
        for depth in (1, 6)
    }
    assert found.matters[6].adjusted_p == pytest.approx(raw[6].pvalue), "the larger of two"
    assert found.matters[1].adjusted_p == pytest.approx(2 * raw[1].pvalue)
    assert found.matter == [depth for depth in (1, 6) if raw[depth].pvalue < 0.025]


def test_permutations_are_of_each_pair_and_corrected() -> None:
    found = answer(some({1: 19.4, 4: 19.2, 6: 19.2}, spread=0.5))
    assert found.zero[1].exact_p == pytest.approx(2 * 2 / 184_756), "no value of the one is as low as of the other"
    assert found.zero[6].exact_p == 1


def test_the_more_cautious_of_both_tests_counts() -> None:
    """Shown only where both show it."""

    def shown(welch_p: float, permutation_p: float, mean: float = 0.2) -> bool:
        return Difference(mean, 0.1, 0.0, welch_p, permutation_p).above

    assert shown(0.01, 0.01)
    assert not any((shown(0.01, 0.05), shown(0.05, 0.01), shown(0.01, 0.01, -0.2)))


def test_where_both_tests_disagree() -> None:
    pairs = ((0.01, 0.01), (0.01, 0.06), (0.06, 0.01), (0.06, 0.06), (0.01, None), (0.06, None))
    found = [Difference(0.2, 0.1, 0.0, *pair).disputed for pair in pairs]
    assert found == [False, True, True, False, False, False]


def test_what_the_test_split_says_is_shown() -> None:
    groups = some({1: 19.4, 4: 19.2, 6: 19.3})
    groups[6].seeds["test_ppl"] = 17.0
    found = answer(groups)
    assert found.turned_on_test == [6]
    assert found.set == [4], "it chooses nothing"
    assert found.on_test[1].mean == pytest.approx(0.2)


def test_one_depth_alone() -> None:
    found = answer(some({4: 19.2}))
    assert (found.set, found.matter, found.turned_on_test) == ([4], [], [])


def test_differences_below_are_tested_against_the_margin_below() -> None:
    """An LSTM or a changed recipe may be better as well as worse: 0.2 and 0.1, by both tests, are more than 0.05."""
    groups = some({1: 19.4, 4: 19.2, 6: 19.3})
    found = compared({1: (groups[4], groups[1]), 2: (groups[6], groups[1]), 3: (groups[1], groups[1])})
    other = compared({1: (groups[1], groups[4]), 2: (groups[1], groups[6]), 3: (groups[1], groups[1])})
    values = {depth: groups[depth].values("val_ppl") for depth in groups}
    raw = stats.ttest_ind(values[4], [value - 0.05 for value in values[1]], equal_var=False).pvalue
    assert found.matters[1].adjusted_p == pytest.approx(3 * raw)
    for one, mirrored in ((found.zero, other.zero), (found.matters, other.matters)):
        for key, test in one.items():
            assert test.exact_p == pytest.approx(mirrored[key].exact_p)
            assert (test.below, test.above) == (mirrored[key].above, mirrored[key].below)
    assert [(key, test.above) for key, test in found.zero.items() if test.above or test.below] == [
        (1, False),
        (2, False),
    ]
    assert [found.shown(key) for key in (1, 2, 3)] == ["better by more than 0.05", "better", "nothing"]
    assert [other.shown(key) for key in (1, 2)] == ["worse by more than 0.05", "worse"]


def test_with_five_seeds_welch_decides_alone() -> None:
    """Five against five have no permutation p below 2 in 252, so that of seven none passes Holm's correction."""
    groups = models({depth: 20.0 + 0.3 * (depth != 2) for depth in range(1, 9)})
    assert answer(groups).set == list(range(1, 9))
    found = answer(groups, exact=False)
    assert (found.set, found.matter, {test.exact_p for test in found.zero.values()}) == (
        [2], [1, 3, 4, 5, 6, 7, 8], {None}
    )  # fmt: skip


def searches(depths: tuple[int, ...] = (1, 4), **changes: object) -> dict[int, Search]:
    return {depth: Search.model_validate({**search(depth, 19.2, RECIPE), **changes}) for depth in depths}


def test_importances() -> None:
    """Dropout makes the trials good or bad, the rate little, depth hardly; the other knobs never differ."""
    found = importances(searches())
    assert set(found) == {"depth", "dropout", "learning rate"}
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "dropout"
    assert found["dropout"] > 0.5 > found["learning rate"] > found["depth"]


def test_pruned_and_diverged_trials_count() -> None:
    """Two knobs alone make them bad, by equal shares; the others would be all alike, and would say nothing of them.

    Of the ten that came to their end the best four have both dropouts, twice each.
    """
    first = search(4, 19.2, RECIPE)["trials"][0]
    trials = []
    for number, (rate, initial, dropout, repeat) in enumerate(
        itertools.product((1.0, 16.0), ("he", "normal"), (0.1, 0.3), range(5))
    ):
        recipe = {**RECIPE, "learning_rate_factor": rate, "initialisation": initial, "dropout": dropout}
        diverged, pruned = rate == 16.0, rate == 1.0 and initial == "normal"
        values = {"number": number, "recipe": recipe, "pruned": pruned, "problem": "infinite" if diverged else None}
        trials.append({**first, **values, "val_ppl": None if diverged else (60.0 if pruned else 20.0) + repeat})
    found = importances(searches(trials=trials, depths=(4,)))
    assert found["learning rate"] == pytest.approx(0.5, abs=0.01)
    assert found["initial weights"] == found["learning rate"]
    assert list(found)[:2] == ["initial weights", "learning rate"], (
        "equals have one order, whatever Python's hashes are"
    )
    assert found["dropout"] == pytest.approx(0, abs=0.01)


def test_too_few_trials_or_none() -> None:
    assert importances({}) == {}
    few = search(4, 19.2, RECIPE)
    assert importances({4: Search.model_validate({**few, "trials": few["trials"][8:17]})}) == {}
