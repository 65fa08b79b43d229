"""What metrics/summary.json holds: a few numbers for `dvc metrics diff` to compare, and all statistics in a list.

DVC makes a column of every figure that is not in a list.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from newllm.analysis.claims import Outcome, judge
from newllm.analysis.cost import effort, main_target, startup_seconds
from newllm.analysis.inference import Difference, deviation
from newllm.analysis.records import Group
from newllm.analysis.study import Study, against, compare
from newllm.measurement.intervals import Estimate

FIGURES = ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy")


def summary(study: Study) -> dict[str, Any]:
    """The depth under study and the best one in a few figures, and `details`: a list of everything.

    What is not known is absent, such as half-widths where one seed gives no interval.
    """
    studied, baseline = study.studied, study.baseline
    differences = dict.fromkeys(FIGURES[:2], Estimate(0.0, None))
    if studied is not baseline:
        differences = {name: compare({0: (studied, baseline)}, name)[0].difference for name in FIGURES[:2]}
    few = {"num_layers": studied.num_layers, **_means(studied, FIGURES[:3])}
    best = {"num_layers": study.best.num_layers, **_means(study.best, FIGURES[:2])}
    families = {"against_baseline": against(study.depths, baseline), "against_best": study.against_best}
    details: dict[str, Any] = {
        "num_layers": studied.num_layers,
        "num_seeds": study.num_seeds,
        **_intervals({name: studied.estimate(name) for name in FIGURES[:2]}),
        "val_accuracy": studied.mean("val_accuracy"),
        **_cost(study, studied),
        "baseline": {"num_layers": baseline.num_layers, **_means(baseline, FIGURES[:2])},
        "difference_from_baseline": _intervals(differences),
        "best": best,
        "num_not_distinguishable_from_best": len(study.close),
        "not_distinguishable_from_best": study.close,
        "depths": [_depth(study, group, families) for group in study.depths.values()],
    }
    if study.comparable:
        verdicts = judge(study.depths)
        outcomes = [verdict.outcome for verdict in verdicts]
        details["claims"] = {outcome.value: outcomes.count(outcome) for outcome in Outcome}
        details["verdicts"] = [
            {"claim": one.claim, "outcome": one.outcome.value, "numbers": one.deciding} for one in verdicts
        ]
    return {**few, "best": best, "details": [details]}


def _depth(study: Study, group: Group, families: Mapping[str, Mapping[int, Difference]]) -> dict[str, Any]:
    row: dict[str, Any] = {"num_layers": group.num_layers}
    for name in FIGURES:
        row |= _intervals({name: group.estimate(name)}) | _known({f"{name}_std": deviation(group.values(name))})
    row |= _cost(study, group)
    for name, tests in families.items():
        test = tests.get(group.num_layers)
        if test is not None and test.adjusted_p is not None:
            row[name] = {**_intervals({"val_ppl": test.difference}), "adjusted_p": test.adjusted_p}
    name = "val_ppl_without_unk"
    return row | (_intervals({name: group.estimate(name)}) if group.has(name) else {})


def _cost(study: Study, group: Group) -> dict[str, Any]:
    """What a seed's training takes without its start-up, and the way to the target, over the seeds that reach it."""
    efforts = {"train": effort(group, study), "target": effort(group, study, main_target(study))}
    train, target = (
        {f"{name}_epochs": one.epochs, f"{name}_steady_seconds": one.seconds, f"{name}_joules": one.joules}
        for name, one in efforts.items()
    )
    more = {"startup_seconds": startup_seconds(group), "train_petaflop": efforts["train"].petaflop}
    return _known({**train, **more, "num_seeds_at_target": efforts["target"].reached, **target})


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _means(group: Group, names: Iterable[str]) -> dict[str, float]:
    return {name: group.mean(name) for name in names}


def _intervals(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    pairs = [((name, one.mean), (f"{name}_ci95", one.half_width)) for name, one in estimates.items()]
    return _known(dict(item for pair in pairs for item in pair))
