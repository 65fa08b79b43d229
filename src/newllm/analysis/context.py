"""How far back the context vector carries anything: what more context is worth for the same words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from newllm.analysis.diagnosis import Diagnosis, SeedDiagnosis
from newllm.analysis.statistics import SIGNIFICANCE, holm, mean_p_value
from newllm.measurement.intervals import Estimate, mean_interval

FAR = 10
"""Tokens: the question is whether the model has any use of what lies further back."""
ROUNDING = 1e-6
"""Nats: a gain that is no larger is none, whatever a test of it says."""


@dataclass(frozen=True)
class Reach:
    """What `stride` more tokens of context are worth to a model that has read more than FAR already.

    Attributes:
        num_layers: depth.
        stride: tokens between the starts of two windows that overlap.
        pairs: number of such pairs of windows.
        gain: loss minus that of the same targets with `stride` tokens more, in nats; mean over seeds with Student's
            interval.
        adjusted_p: of Student's two-sided test that the gain is 0, by Holm's method over the depths; None for one seed.
    """

    num_layers: int
    stride: int
    pairs: int
    gain: Estimate
    adjusted_p: float | None

    @property
    def is_shown(self) -> bool:
        """Whether the gain is shown to be above 0."""
        return self.gain.mean > 0 and self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE


def loss_by_position(diagnosis: Diagnosis) -> list[tuple[int, float, float, float]]:
    """In full windows, by number of tokens read: loss in nats, mean and extremes over seeds."""
    return _by_position([seed.val_loss_by_position_full_windows for seed in diagnosis.seeds])


def gain_by_position(diagnosis: Diagnosis) -> list[tuple[int, float, float, float]]:
    """By number of tokens read in the later window: gain from one stride more in nats, mean and extremes over seeds."""
    return _by_position([seed.context_gain_by_position for seed in diagnosis.seeds])


def reaches(diagnoses: Sequence[Diagnosis]) -> list[Reach]:
    """Of every depth whose windows overlap by more than FAR targets.

    A seed's gain is the mean over all targets before which more than FAR tokens are read in the later window; every
    position has one in each pair of windows, so that they count equally.
    """
    gains = {
        diagnosis.num_layers: [_gain(seed) for seed in diagnosis.seeds]
        for diagnosis in diagnoses
        if all(seed.context_gain_by_position[FAR:] for seed in diagnosis.seeds)
    }
    p_values = [p for values in gains.values() if (p := mean_p_value(values, 0.0)) is not None]
    adjusted = dict(zip(gains, holm(p_values), strict=True)) if len(p_values) == len(gains) else {}
    return [
        Reach(depth, one.context_stride, one.context_pairs, mean_interval(gains[depth]), adjusted.get(depth))
        for one in diagnoses
        if (depth := one.num_layers) in gains
    ]


def _gain(seed: SeedDiagnosis) -> float:
    mean = _mean(seed.context_gain_by_position[FAR:])
    return mean if abs(mean) > ROUNDING else 0.0


def _by_position(values: Sequence[Sequence[float | None]]) -> list[tuple[int, float, float, float]]:
    rows = []
    for read, of_seeds in enumerate(zip(*values, strict=True), start=1):
        known = [value for value in of_seeds if value is not None]
        if known:
            rows.append((read, _mean(known), min(known), max(known)))
    return rows


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
