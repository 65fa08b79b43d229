"""Part 2: which depth is best when each has the best recipe that was found for it, and what matters besides depth.

The rule is in docs/rules.md, which was written before the search was run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from newllm.analysis.cost import petaflop_per_epoch
from newllm.analysis.formats import KNOBS
from newllm.analysis.inference import Difference
from newllm.analysis.records import Group
from newllm.analysis.schemas import Search
from newllm.analysis.study import Study, best_of, compare

MATTERS = 0.05
"""Perplexity: a difference that is not shown to be larger does not matter to a user."""


@dataclass(frozen=True)
class Comparison:
    """Differences of validation perplexity, by key: whether there are any, and whether they matter."""

    zero: Mapping[int, Difference]  # against no difference
    matters: Mapping[int, Difference]  # against MATTERS

    def shown(self, key: int) -> str:
        """What is shown of one difference, in words."""
        test, more = self.zero[key], self.matters[key]
        if not (test.above or test.below):
            return "nothing"
        larger = f" by more than {MATTERS}" if (more.above, more.below) == (test.above, test.below) else ""
        return ("worse" if test.above else "better") + larger


@dataclass(frozen=True)
class Answer(Comparison):
    """What the rule says of some depths, each compared with the best."""

    best: Group  # the depth of the lowest mean
    set: list[int]  # it and those that are not shown to be worse, shallowest first; alone, it is the best
    on_test: Mapping[int, Difference]  # as zero on the test split, which chooses nothing; empty if not measured

    def shown(self, key: int) -> str:
        """What is shown of a depth, in words."""
        return "best" if key == self.best.num_layers else super().shown(key)

    @property
    def matter(self) -> list[int]:
        """The depths that are worse by more than MATTERS."""
        return [depth for depth, test in self.matters.items() if test.above]

    @property
    def turned_on_test(self) -> list[int]:
        """The depths that are worse than the best on one split and better on the other."""
        means = {depth: test.mean for depth, test in self.on_test.items()}
        return [depth for depth, mean in means.items() if mean * self.zero[depth].mean < 0]


def answer(groups: Mapping[int, Group], exact: bool = True) -> Answer:
    """By the rule, of models by depth; `exact`: by permutation tests too."""
    best = best_of(groups)
    pairs = {depth: (group, best) for depth, group in groups.items() if group is not best}
    found = compared(pairs, exact)
    close = [depth for depth in groups if depth not in pairs or not found.zero[depth].above]
    measured = pairs if all(group.has("test_ppl") for group in groups.values()) else {}
    return Answer(found.zero, found.matters, best, close, compare(measured, "test_ppl", exact=exact))


def compared(pairs: Mapping[int, tuple[Group, Group]], exact: bool = True) -> Comparison:
    """Validation perplexity of the first of each pair minus that of the second.

    That it matters is tested against MATTERS in the direction of the difference that was found.
    """
    margins = [math.copysign(MATTERS, one.mean("val_ppl") - other.mean("val_ppl")) for one, other in pairs.values()]
    return Comparison(compare(pairs, exact=exact), compare(pairs, expected=margins, exact=exact))


def within_operations(groups: Mapping[int, Group], study: Study) -> tuple[float, dict[int, Group]]:
    """The most operations that every seed of every group was trained, in PFLOP, and what each group was by then.

    Of a seed's figures only the lowest validation perplexity by then stays. No groups where sizes are unknown, or where
    the first epoch of one takes more.
    """
    per_epoch = {key: petaflop_per_epoch(group, study) or 0.0 for key, group in groups.items()}
    budget = min((per_epoch[key] * int(group.seeds["epochs_run"].min()) for key, group in groups.items()), default=0.0)
    last = {key: int(budget / one + 1e-9) if one else 0 for key, one in per_epoch.items()}
    if not all(last.values()):
        return budget, {}
    lowest = {key: {"seed": group.seeds["seed"], "val_ppl": group.lowest(last[key])} for key, group in groups.items()}
    return budget, {key: replace(group, seeds=pd.DataFrame(lowest[key])) for key, group in groups.items()}


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
    ranked = sorted(found, key=lambda name: (-found[name], name))  # equals by name: the library's order is chance
    return {KNOBS.get(name, name).rstrip(" ×"): found[name] / total for name in ranked} if total else {}
