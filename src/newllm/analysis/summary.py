"""What metrics/summary.json holds: a few numbers for `dvc metrics diff` to compare, and all statistics in a list.

DVC makes a column of every figure that is not in a list.
"""

from collections.abc import Mapping
from typing import Any

from newllm.analysis.claims import Outcome, judge
from newllm.analysis.cost import effort, main_target, startup_seconds
from newllm.analysis.inference import against, compare, deviation
from newllm.analysis.records import Group
from newllm.analysis.study import Study
from newllm.measurement.intervals import Estimate

PERPLEXITIES = ("val_ppl", "test_ppl")


def summary(study: Study) -> dict[str, Any]:
    """The depth under study and the best one in a few figures, and `details`: a list of everything.

    What is not known is absent, such as half-widths where one seed gives no interval.
    """
    studied, baseline = study.studied, study.baseline
    base, best = (
        {"num_layers": one.num_layers, **{name: one.mean(name) for name in PERPLEXITIES}}
        for one in (baseline, study.best)
    )
    differences = dict.fromkeys(PERPLEXITIES, Estimate(0.0, None))
    if studied is not baseline:
        differences = {name: compare({0: (studied, baseline)}, name)[0] for name in PERPLEXITIES}
    details: dict[str, Any] = {
        "num_layers": studied.num_layers,
        "num_seeds": study.num_seeds,
        **_known({name: studied.estimate(name) for name in PERPLEXITIES}),
        "val_accuracy": studied.mean("val_accuracy"),
        **_cost(study, studied),
        "baseline": base,
        "difference_from_baseline": _known(differences),
        "best": best,
        "num_not_distinguishable_from_best": len(study.answer.set),
        "not_distinguishable_from_best": study.answer.set,
        "depths": [_depth(study, group) for group in study.depths.values()],
    }
    if study.comparable:
        verdicts = judge(study.depths)
        outcomes = [verdict.outcome for verdict in verdicts]
        details["claims"] = {outcome.value: outcomes.count(outcome) for outcome in Outcome}
        details["verdicts"] = [
            {"claim": one.claim, "outcome": one.outcome.value, "numbers": one.deciding} for one in verdicts
        ]
    few = {name: studied.mean(name) for name in (*PERPLEXITIES, "val_accuracy")}
    return {"num_layers": studied.num_layers, **few, "best": best, "details": [details]}


def _depth(study: Study, group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {"num_layers": group.num_layers}
    for name in (*PERPLEXITIES, "val_accuracy", "test_accuracy"):
        row |= _known({name: group.estimate(name), f"{name}_std": deviation(group.values(name))})
    row |= _cost(study, group)
    for name, tests in (("baseline", against(study.depths, study.baseline)), ("best", study.answer.zero)):
        test = tests.get(group.num_layers)
        if test is not None and test.adjusted_p is not None:
            row[f"against_{name}"] = _known({"val_ppl": test, "adjusted_p": test.adjusted_p})
    name = "val_ppl_without_unk"
    return row | (_known({name: group.estimate(name)}) if group.has(name) else {})


def _cost(study: Study, group: Group) -> dict[str, Any]:
    """What a seed's training takes without its start-up, and the way to the target, over the seeds that reach it."""
    efforts = {"train": effort(group, study), "target": effort(group, study, main_target(study))}
    train, target = (
        {f"{name}_epochs": one.epochs, f"{name}_steady_seconds": one.seconds, f"{name}_joules": one.joules}
        for name, one in efforts.items()
    )
    more = {"startup_seconds": startup_seconds(group), "train_petaflop": efforts["train"].petaflop}
    return _known({**train, **more, "num_seeds_at_target": efforts["target"].reached, **target})


def _known(values: Mapping[str, Estimate | float | None]) -> dict[str, Any]:
    """What is not None; of an estimate the mean, and half of its interval as `<name>_ci95`."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        mean, half_width = (value.mean, value.half_width) if isinstance(value, Estimate) else (value, None)
        row |= {name: mean, f"{name}_ci95": half_width}
    return {name: value for name, value in row.items() if value is not None}
