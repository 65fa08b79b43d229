"""What metrics/summary.json holds: a few numbers for `dvc metrics diff` to compare, and all statistics in a list.

DVC makes a column of every figure that is not in a list.
"""

from collections.abc import Mapping
from typing import Any

from newllm.analysis.claims import Outcome, judge
from newllm.analysis.cost import Effort, effort, main_target, startup_seconds
from newllm.analysis.inference import Difference, deviation, family
from newllm.analysis.records import Group
from newllm.analysis.study import Study, against
from newllm.measurement.intervals import Estimate

FIGURES = ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy")


def summary(study: Study) -> dict[str, Any]:
    """The depth under study and the best one in a few figures, and `details`: a list of everything.

    What is not known is absent, such as half-widths where one seed gives no interval.
    """
    studied, baseline = study.studied, study.baseline
    pairs = {name: (studied.values(name), baseline.values(name)) for name in ("val_ppl", "test_ppl")}
    differences = {name: family([pair])[0].difference for name, pair in pairs.items()}
    if studied is baseline:
        differences = dict.fromkeys(pairs, Estimate(0.0, None))
    few = {name: studied.mean(name) for name in ("val_ppl", "test_ppl", "val_accuracy")}
    details: dict[str, Any] = {
        "num_layers": studied.num_layers,
        "num_seeds": study.num_seeds,
        **_with_interval("val_ppl", studied.estimate("val_ppl")),
        **_with_interval("test_ppl", studied.estimate("test_ppl")),
        "val_accuracy": studied.mean("val_accuracy"),
        **_cost(study, studied),
        "baseline": _perplexities(baseline),
        "difference_from_baseline": {
            key: value for name, one in differences.items() for key, value in _with_interval(name, one).items()
        },
        "best": _perplexities(study.best),
        "num_not_distinguishable_from_best": len(study.close),
        "not_distinguishable_from_best": study.close,
        "depths": _depths(study),
    }
    if study.comparable:
        verdicts = judge(study.depths)
        outcomes = [verdict.outcome for verdict in verdicts]
        details["claims"] = {outcome.value: outcomes.count(outcome) for outcome in Outcome}
        details["verdicts"] = [
            {"claim": verdict.claim, "outcome": verdict.outcome.value, "numbers": verdict.deciding}
            for verdict in verdicts
        ]
    best = details["best"]
    return {"num_layers": studied.num_layers, **few, "best": best, "details": [details]}


def _depths(study: Study) -> list[dict[str, Any]]:
    families = {"against_baseline": against(study.depths, study.baseline), "against_best": study.against_best}
    return [_depth(study, group, families) for group in study.depths.values()]


def _depth(study: Study, group: Group, families: Mapping[str, Mapping[int, Difference]]) -> dict[str, Any]:
    row: dict[str, Any] = {"num_layers": group.num_layers}
    for name in FIGURES:
        row |= _with_interval(name, group.estimate(name))
        spread = deviation(group.values(name))
        row |= {} if spread is None else {f"{name}_std": spread}
    row |= _cost(study, group)
    for name, tests in families.items():
        test = tests.get(group.num_layers)
        if test is not None and test.adjusted_p is not None:
            row[name] = {**_with_interval("val_ppl", test.difference), "adjusted_p": test.adjusted_p}
    if group.has("val_ppl_without_unk"):
        row |= _with_interval("val_ppl_without_unk", group.estimate("val_ppl_without_unk"))
    return row


def _cost(study: Study, group: Group) -> dict[str, float]:
    """What a seed's training takes without its start-up, and the way to the target, over the seeds that reach it."""
    whole, way = effort(group, study), effort(group, study, main_target(study))
    cost = _effort("train", whole) | {"startup_seconds": startup_seconds(group)}
    if whole.petaflop is not None:
        cost["train_petaflop"] = whole.petaflop
    return cost | {"num_seeds_at_target": way.reached} | _effort("target", way)


def _effort(name: str, one: Effort) -> dict[str, float]:
    found = {"epochs": one.epochs, "steady_seconds": one.seconds, "joules": one.joules}
    return {f"{name}_{key}": value for key, value in found.items() if value is not None}


def _perplexities(group: Group) -> dict[str, float]:
    return {"num_layers": group.num_layers, "val_ppl": group.mean("val_ppl"), "test_ppl": group.mean("test_ppl")}


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    if estimate.half_width is None:
        return {name: estimate.mean}
    return {name: estimate.mean, f"{name}_ci95": estimate.half_width}
