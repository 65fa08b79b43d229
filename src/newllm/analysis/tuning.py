"""Part 2: which depth is best when each has the best recipe that was found for it, and what matters besides depth.

The rule is in docs/rules.md, which was written before the search was run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from newllm.analysis.inference import SIGNIFICANCE, Difference, permutation_p_values
from newllm.analysis.records import Group
from newllm.analysis.schemas import Search
from newllm.analysis.study import against, best_of

MATTERS = 0.05
"""Perplexity: a difference that is not shown to be larger does not matter to a user."""


@dataclass(frozen=True)
class BothTests:
    """Every other depth minus the best: Welch's tests and exact permutation tests, both corrected by Holm's method."""

    welch: Mapping[int, Difference]
    permutation: Mapping[int, float]

    @property
    def above(self) -> list[int]:
        """The depths of which both show that the difference is above what it is tested against."""
        return [depth for depth, test in self.welch.items() if test.above and self.permutation[depth] < SIGNIFICANCE]


@dataclass(frozen=True)
class Answer:
    """What the rule says of some depths."""

    best: Group  # the depth of the lowest mean
    set: list[int]  # it and those that are not shown to be worse, shallowest first; alone, it is the best
    zero: BothTests  # of validation perplexity against no difference
    matters: BothTests  # the same against MATTERS
    on_test: BothTests  # as zero on the test split, which chooses nothing

    @property
    def recommended(self) -> int:
        """The shallowest of the set."""
        return min(self.set)

    @property
    def turned_on_test(self) -> list[int]:
        """The depths that are worse than the best on one split and better on the other."""
        means = {depth: test.difference.mean for depth, test in self.zero.welch.items()}
        return [depth for depth, mean in means.items() if mean * self.on_test.welch[depth].difference.mean < 0]


def answer(groups: Mapping[int, Group]) -> Answer:
    """By the rule, of models by depth."""
    best = best_of(groups)
    zero, on_test = (both_tests(groups, best, name) for name in ("val_ppl", "test_ppl"))
    close = [depth for depth in groups if depth not in zero.above]
    return Answer(best, close, zero, both_tests(groups, best, expected=MATTERS), on_test)


def both_tests(groups: Mapping[int, Group], best: Group, name: str = "val_ppl", expected: float = 0.0) -> BothTests:
    """A figure of every group but the best minus that of the best, tested against `expected`: two families."""
    welch = against(groups, best, name, expected)
    samples = [(groups[depth].values(name), best.values(name)) for depth in welch]
    return BothTests(welch, dict(zip(welch, permutation_p_values(samples, expected), strict=True)))


def importances(searches: Mapping[int, Search]) -> dict[str, float]:
    """How much of what puts a trial among the best tenth belongs to each knob and to depth: shares of 1, largest first.

    PED-ANOVA (S. Watanabe, A. Bansal, F. Hutter, 2023) over all trials of all depths together; empty for fewer than
    ten. To leave out those that were pruned or diverged would hide the values that make trials bad: a pruned one counts
    with what it had reached, a diverged one as worse than all others. These are no shares of variance. A knob whose
    value never differs has none.
    """
    import optuna  # noqa: PLC0415 (half a second, and needed only where there was a search)

    trials = [(depth, trial) for depth, search in searches.items() for trial in search.trials]
    knobs = pd.DataFrame([{"depth": depth, **trial.recipe.model_dump()} for depth, trial in trials], dtype=str)
    knobs = knobs.loc[:, knobs.nunique() > 1]
    if len(trials) < 10 or knobs.empty:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    kinds: Any = {name: optuna.distributions.CategoricalDistribution(sorted(set(knobs[name]))) for name in knobs}
    rows: list[Any] = knobs.to_dict("records")
    worst = 1 + max((trial.val_ppl for _, trial in trials if trial.val_ppl is not None), default=0.0)
    for params, (_, trial) in zip(rows, trials, strict=True):
        value = worst if trial.val_ppl is None else trial.val_ppl  # finite: the library leaves out what is not
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=value))
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total else {}
