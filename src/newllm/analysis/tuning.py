"""Part 2: which depth is best when each has the best recipe that was found for it, and what matters besides depth.

The rule is in docs/rules.md, which was written before the search was run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from newllm.analysis.cost import best_within, petaflop_per_epoch
from newllm.analysis.formats import KNOBS
from newllm.analysis.inference import SIGNIFICANCE, Difference, permutation_p_values
from newllm.analysis.records import Group
from newllm.analysis.schemas import Search
from newllm.analysis.study import Study, best_of, compare

MATTERS = 0.05
"""Perplexity: a difference that is not shown to be larger does not matter to a user."""


@dataclass(frozen=True)
class Family:
    """Differences of a family, by key: Welch's tests and, where they count too, exact permutation tests, each by Holm.

    Where both are made a difference is shown only if both show it.
    """

    welch: Mapping[int, Difference]
    permutation: Mapping[int, float]

    @property
    def above(self) -> list[int]:
        """Whose difference is shown to be above what it is tested against."""
        return [key for key, test in self.welch.items() if test.above and self._agreed(key)]

    @property
    def below(self) -> list[int]:
        """Whose difference is shown to be below it."""
        return [key for key, test in self.welch.items() if test.below and self._agreed(key)]

    @property
    def disagreeing(self) -> list[int]:
        """Of which one test shows a difference and the other does not."""
        shown = {key: test.above or test.below for key, test in self.welch.items() if self.permutation}
        return [key for key, welch in shown.items() if welch != self._agreed(key)]

    def _agreed(self, key: int) -> bool:
        return not self.permutation or self.permutation[key] < SIGNIFICANCE


@dataclass(frozen=True)
class Comparison:
    """Differences of validation perplexity: whether there are any, and whether they matter."""

    zero: Family  # against no difference
    matters: Family  # against MATTERS

    def shown(self, key: int) -> str:
        """What is shown of one difference, in words."""
        words = {"better": "below", "worse": "above"}
        found = next((word for word, side in words.items() if key in getattr(self.zero, side)), None)
        if found is None:
            return "nothing"
        more = f" by more than {MATTERS}" if key in getattr(self.matters, words[found]) else ""
        return f"{found}{more}"


@dataclass(frozen=True)
class Answer(Comparison):
    """What the rule says of some depths, each compared with the best."""

    best: Group  # the depth of the lowest mean
    set: list[int]  # it and those that are not shown to be worse, shallowest first; alone, it is the best
    on_test: Family  # as zero on the test split, which chooses nothing; empty where that was not measured

    def shown(self, key: int) -> str:
        """What is shown of a depth, in words."""
        return "best" if key == self.best.num_layers else super().shown(key)

    @property
    def recommended(self) -> int:
        """The shallowest of the set."""
        return min(self.set)

    @property
    def turned_on_test(self) -> list[int]:
        """The depths that are worse than the best on one split and better on the other."""
        means = {depth: test.difference.mean for depth, test in self.on_test.welch.items()}
        return [depth for depth, mean in means.items() if mean * self.zero.welch[depth].difference.mean < 0]


def answer(groups: Mapping[int, Group], both: bool = True) -> Answer:
    """By the rule, of models by depth; `both`: by permutation tests too."""
    best = best_of(groups)
    pairs = {depth: (group, best) for depth, group in groups.items() if group is not best}
    found = compared(pairs, both)
    close = [depth for depth in groups if depth not in found.zero.above]
    measured = pairs if all(group.has("test_ppl") for group in groups.values()) else {}
    return Answer(found.zero, found.matters, best, close, _tests(measured, both, "test_ppl"))


def compared(pairs: Mapping[int, tuple[Group, Group]], both: bool = True) -> Comparison:
    """Validation perplexity of the first of each pair minus that of the second; two families, or four with `both`."""
    return Comparison(_tests(pairs, both), _tests(pairs, both, margin=MATTERS))


def _tests(pairs: Mapping[int, tuple[Group, Group]], both: bool, name: str = "val_ppl", margin: float = 0.0) -> Family:
    """One figure, against a difference of `margin` in the direction of the difference that was found."""
    expected = [math.copysign(margin, one.mean(name) - other.mean(name)) for one, other in pairs.values()]
    samples = [(one.values(name), other.values(name)) for one, other in pairs.values()]
    permutation = permutation_p_values(samples, expected) if both else []
    return Family(compare(pairs, name, expected), dict(zip(pairs, permutation, strict=False)))


def within_operations(groups: Mapping[int, Group], study: Study) -> tuple[float, dict[int, Group]]:
    """The most operations that every seed of every group was trained, in PFLOP, and what each group was by then.

    Of a seed's figures only the lowest validation perplexity by then stays. No groups where sizes are unknown, or where
    the first epoch of one takes more.
    """
    per_epoch = {key: petaflop_per_epoch(group, study) or 0.0 for key, group in groups.items()}
    budget = min((per_epoch[key] * int(group.seeds["epochs_run"].min()) for key, group in groups.items()), default=0.0)
    lowest = {key: best_within(group, study, budget) for key, group in groups.items()}
    if not all(lowest.values()):
        return budget, {}
    tables = {key: pd.DataFrame({"seed": group.seeds["seed"], "val_ppl": lowest[key]}) for key, group in groups.items()}
    return budget, {key: replace(group, seeds=tables[key]) for key, group in groups.items()}


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
    return {KNOBS.get(name, name).rstrip(" ×"): value / total for name, value in found.items()} if total else {}
