"""What metrics/summary.json holds: a few numbers for `dvc metrics diff` to compare, and all statistics in a list.

DVC makes a column of every figure that is not in a list.
"""

from collections.abc import Mapping
from typing import Any

from newllm.analysis.comparisons import PairComparison, against, not_distinguishable_from_best
from newllm.analysis.cost import Effort, mean_effort, petaflop_per_epoch, startup_seconds, target, trainings, ways
from newllm.analysis.judging import Outcome
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import deviation
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import judge
from newllm.measurement.intervals import Estimate, mean_interval

FIGURES = ("val_ppl", "test_ppl", "val_accuracy", "test_accuracy")


def headline(comparison: Comparison, supplements: Supplements) -> dict[str, Any]:
    """The depth under study and the best one in a few figures, and `details`: a list of `all_figures` alone."""
    details = all_figures(comparison, supplements)
    few = {name: details[name] for name in ("num_layers", "val_ppl", "test_ppl", "val_accuracy", "best")}
    return few | {"details": [details]}


def all_figures(comparison: Comparison, supplements: Supplements) -> dict[str, Any]:
    """All of it; what is not known is absent, such as half-widths where one seed gives no interval."""
    studied, baseline, best = comparison.studied, comparison.baseline, comparison.best
    difference: dict[str, float] = {}
    for name in ("val_ppl", "test_ppl"):
        difference |= _with_interval(name, comparison.difference(studied, name) or Estimate(0.0, None))
    close = not_distinguishable_from_best(comparison)
    verdicts = judge(comparison, supplements.overfitting) if comparison.matches_published_data else []
    summary: dict[str, Any] = {
        "num_layers": studied.num_layers,
        "num_seeds": comparison.num_seeds,
        **_with_interval("val_ppl", _estimate(studied, "val_ppl")),
        **_with_interval("test_ppl", _estimate(studied, "test_ppl")),
        "val_accuracy": _mean(studied, "val_accuracy"),
        **_cost(comparison, studied, supplements),
        "baseline": _of(baseline, "val_ppl", "test_ppl"),
        "difference_from_baseline": difference,
        "best": _of(best, "val_ppl", "test_ppl"),
        "num_not_distinguishable_from_best": len(close),
        "not_distinguishable_from_best": close,
        "depths": _depths(comparison, supplements),
    }
    if verdicts:
        outcomes = [verdict.outcome for verdict in verdicts]
        summary["claims"] = {outcome.value: outcomes.count(outcome) for outcome in Outcome}
        summary["verdicts"] = [
            {"claim": verdict.claim, "outcome": verdict.outcome.value, "numbers": verdict.finding.deciding}
            for verdict in verdicts
        ]
    return summary


def _depths(comparison: Comparison, supplements: Supplements) -> list[dict[str, Any]]:
    families = {
        "against_baseline": against(comparison, comparison.baseline),
        "against_best": against(comparison, comparison.best),
    }
    return [_depth(comparison, result, supplements, families) for result in comparison.results]


def _depth(
    comparison: Comparison,
    result: DepthResult,
    supplements: Supplements,
    families: Mapping[str, Mapping[int, PairComparison]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"num_layers": result.num_layers}
    for name in FIGURES:
        row |= _with_interval(name, _estimate(result, name))
        spread = deviation(result.over_seeds(name))
        row |= {} if spread is None else {f"{name}_std": spread}
    row |= _cost(comparison, result, supplements)
    for name, family in families.items():
        pair = family.get(result.num_layers)
        if pair is not None and pair.adjusted_p is not None:
            row[name] = {**_with_interval("val_ppl", pair.difference), "adjusted_p": pair.adjusted_p}
    diagnosis = supplements.diagnosis(result.num_layers)
    if diagnosis is not None:
        without = mean_interval([seed.val_ppl_without_unk for seed in diagnosis.seeds])
        row |= _with_interval("val_ppl_without_unk", without)
    return row


def _cost(comparison: Comparison, result: DepthResult, supplements: Supplements) -> dict[str, float]:
    """What a seed's training takes without its start-up, and the way to the target, over the seeds that reach it."""
    cost = _effort("train", mean_effort(trainings(result))) | {"startup_seconds": startup_seconds(result)}
    per_epoch = petaflop_per_epoch(result, supplements.training_data)
    if per_epoch is not None:
        cost["train_petaflop"] = per_epoch * _mean(result, "epochs_run")
    found = ways(result, target(comparison))
    cost["num_seeds_at_target"] = sum(way is not None for way in found)
    return cost | _effort("target", mean_effort(found))


def _effort(name: str, effort: Effort | None) -> dict[str, float]:
    if effort is None:
        return {}
    joules = {} if effort.joules is None else {f"{name}_joules": effort.joules}
    return {f"{name}_epochs": effort.epochs, f"{name}_steady_seconds": effort.seconds, **joules}


def _of(result: DepthResult, *names: str) -> dict[str, float]:
    return {"num_layers": result.num_layers, **{name: _mean(result, name) for name in names}}


def _estimate(result: DepthResult, name: str) -> Estimate:
    return mean_interval(result.over_seeds(name))


def _mean(result: DepthResult, name: str) -> float:
    return _estimate(result, name).mean


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    if estimate.half_width is None:
        return {name: estimate.mean}
    return {name: estimate.mean, f"{name}_ci95": estimate.half_width}
