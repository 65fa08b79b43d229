"""The comparison of depths as numbers: the series that the plots draw, and what is not as prescribed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from newllm.analysis.published import (
    STUDY_DATA,
    STUDY_DEPTHS,
    STUDY_NUM_SEEDS,
    STUDY_SWITCHES,
    STUDY_TRAINING,
)
from newllm.analysis.results import CurveRow, DepthResult
from newllm.analysis.statistics import difference_interval
from newllm.errors import UserError
from newllm.measurement.intervals import Estimate, mean_interval


@dataclass(frozen=True)
class Comparison:
    """Results of all depths, shallowest first, with the studied and the baseline depth among them.

    Attributes:
        results: one entry a depth.
        studied: the depth under study (`model.num_layers`).
        baseline: the depth compared with (`study.baseline_num_layers`).
        data_deviations: in words, how text or prediction task differ from the specification; if they do, the
            published points are of something else.
        training_deviations: in words, how model, training, seeds or depths differ from the specification.
        parameters: dotted name → value, of all that the specification prescribes; “not recorded” where it is not known.
    """

    results: tuple[DepthResult, ...]
    studied: DepthResult
    baseline: DepthResult
    data_deviations: tuple[str, ...]
    training_deviations: tuple[str, ...]
    parameters: Mapping[str, Any]

    @property
    def best(self) -> DepthResult:
        """The depth of the lowest mean validation perplexity; the shallowest of equals."""
        return min(self.results, key=lambda result: mean_interval(result.over_seeds("val_ppl")).mean)

    @property
    def unfinished(self) -> list[DepthResult]:
        """The depths of which most seeds did not stop early; shallowest first."""
        return [
            result
            for result in self.results
            if 2 * sum(run.stopped_early for run in result.runs.seeds) < len(result.runs.seeds)
        ]

    @property
    def most_epochs(self) -> int:
        """The most that any seed ran."""
        return max(run.epochs_run for result in self.results for run in result.runs.seeds)

    @property
    def num_seeds(self) -> int:
        """Seeds a depth, the same for all."""
        return len(self.studied.runs.seeds)

    @property
    def devices(self) -> list[str]:
        """What the depths were trained on; seconds and energy can only be compared where that is one kind."""
        return sorted({result.runs.device for result in self.results})

    @property
    def matches_published_data(self) -> bool:
        """Whether the published points stand for the same text and vocabulary."""
        return not self.data_deviations

    def difference(self, result: DepthResult, name: str) -> Estimate | None:
        """A figure's difference from the baseline depth, with Welch's interval; None for the baseline itself."""
        if result is self.baseline:
            return None
        return difference_interval(result.over_seeds(name), self.baseline.over_seeds(name))


def compare(
    results: Sequence[DepthResult], num_layers: int, baseline_num_layers: int, data_parameters: Mapping[str, Any]
) -> Comparison:
    """Puts the depths side by side.

    Args:
        results: what `load_results` gave.
        num_layers: the studied depth.
        baseline_num_layers: the depth to compare with.
        data_parameters: the `data` section of params.yaml, for what the runs do not record themselves.

    Raises:
        UserError: the studied or the baseline depth is not among the results.
    """
    studied = _find(results, num_layers, "model.num_layers")
    baseline = _find(results, baseline_num_layers, "study.baseline_num_layers")
    recorded = studied.runs.parameters
    otherwise = {f"data.{name}": value for name, value in data_parameters.items()}
    otherwise |= {name: off for name, (_, off) in STUDY_SWITCHES.items()}
    parameters = {
        name: recorded.get(name, recorded.get(name.rpartition(".")[2], otherwise.get(name, "not recorded")))
        for name in STUDY_DATA | STUDY_TRAINING | STUDY_SWITCHES
    }
    data_deviations = _deviations(STUDY_DATA, parameters)
    training_deviations = _deviations(STUDY_TRAINING | STUDY_SWITCHES, parameters) + _coverage(results, parameters)
    return Comparison(tuple(results), studied, baseline, tuple(data_deviations), tuple(training_deviations), parameters)


def learning_curves(results: Iterable[DepthResult]) -> list[dict[str, float]]:
    """One row a depth and epoch: means over the seeds that trained in that epoch, and the extremes of perplexity.

    A seed that stopped early takes no part in later epochs, so that no value is invented; `num_seeds` says how many
    are left, and a step in the mean where it falls is a change of company, not of a model. `val_ppl` is the mean of
    the seeds' perplexities. Losses in nats.
    """
    rows = []
    for result in results:
        for epoch in range(1, max(run.epochs_run for run in result.runs.seeds) + 1):
            rows.append(_mean_epoch([row for row in result.curve if row.epoch == epoch]))
    return rows


def perplexity_by_depth(results: Iterable[DepthResult]) -> list[dict[str, float | None]]:
    """One row a depth: mean perplexities with the bounds of their 95 % intervals (None for one seed)."""
    rows = []
    for result in results:
        val_ppl = mean_interval(result.over_seeds("val_ppl"))
        test_ppl = mean_interval(result.over_seeds("test_ppl"))
        rows.append(
            {
                "num_layers": result.num_layers,
                "num_params": result.metrics.num_params,
                "num_seeds": len(result.runs.seeds),
                "val_ppl": val_ppl.mean,
                "val_ppl_low": val_ppl.low,
                "val_ppl_high": val_ppl.high,
                "test_ppl": test_ppl.mean,
                "test_ppl_low": test_ppl.low,
                "test_ppl_high": test_ppl.high,
                "val_accuracy": mean_interval(result.over_seeds("val_accuracy")).mean,
            }
        )
    return rows


def _find(results: Sequence[DepthResult], depth: int, parameter: str) -> DepthResult:
    for result in results:
        if result.num_layers == depth:
            return result
    depths = ", ".join(str(result.num_layers) for result in results)
    raise UserError(
        f"parameter {parameter}: found {depth}, which is not among the depths of this report ({depths}); "
        f"set it to one of them, or add {depth} to the sweep in dvc.yaml, under vars and in the "
        f"foreach of train, and run `dvc repro`"
    )


def _deviations(study: Mapping[str, tuple[str, object]], parameters: Mapping[str, Any]) -> list[str]:
    return [
        f"{words} {parameters[name]} instead of {prescribed}"
        for name, (words, prescribed) in study.items()
        if parameters[name] != prescribed
    ]


def _coverage(results: Sequence[DepthResult], parameters: Mapping[str, Any]) -> list[str]:
    """What the results lack: seeds, depths, and epochs that were asked for and did not run."""
    deviations = []
    epochs = parameters["train.epochs"]
    runs = [run for result in results for run in result.runs.seeds]
    short = [run.epochs_run for run in runs if not run.stopped_early and run.epochs_run != epochs]
    if short and isinstance(epochs, int):
        found = f"{len(short)} of {len(runs)} runs ended after {min(short)} epochs or later"
        deviations.append(f"{found} instead of {epochs}, without an early stop")
    num_seeds = len(results[0].runs.seeds)
    if num_seeds < STUDY_NUM_SEEDS:
        deviations.append(f"{num_seeds} {'seed' if num_seeds == 1 else 'seeds'} instead of {STUDY_NUM_SEEDS}")
    missing = sorted(set(STUDY_DEPTHS) - {result.num_layers for result in results})
    if missing:
        deviations.append(f"without the {'depth' if len(missing) == 1 else 'depths'} {', '.join(map(str, missing))}")
    return deviations


def _mean_epoch(rows: Sequence[CurveRow]) -> dict[str, float]:
    perplexities = [row.val_ppl for row in rows]
    return {
        "num_layers": rows[0].num_layers,
        "epoch": rows[0].epoch,
        "num_seeds": len(rows),
        "val_ppl": float(np.mean(perplexities)),
        "val_ppl_min": min(perplexities),
        "val_ppl_max": max(perplexities),
        "train_loss": float(np.mean([row.train_loss for row in rows])),
        "val_loss": float(np.mean([row.val_loss for row in rows])),
        "val_accuracy": float(np.mean([row.val_accuracy for row in rows])),
    }
