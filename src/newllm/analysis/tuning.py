"""Part 2: what matters besides depth in the searches for each depth's best recipe."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from newllm.analysis.formats import KNOBS
from newllm.analysis.schemas import Search


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
