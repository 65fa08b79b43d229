"""How far back the context vector carries anything: validation loss by position in the window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from newllm.analysis.diagnosis import Diagnosis
from newllm.analysis.statistics import Estimate, mean_interval, mean_p_value

FAR = 10
"""Tokens: the question is whether the model has any use of what lies further back."""


@dataclass(frozen=True)
class Reach:
    """What `stride` more tokens of context are worth to a model that has read more than FAR already.

    Attributes:
        num_layers: depth.
        stride: tokens between the starts of two windows of a row.
        positions: number of positions compared with the one `stride` later.
        gain: loss at a position minus that `stride` later, in nats: mean over these positions, with the interval of
            their scatter.
        p: of Student's two-sided test that the gain is 0; None for fewer than two positions.
    """

    num_layers: int
    stride: int
    positions: int
    gain: Estimate
    p: float | None


def loss_by_position(diagnosis: Diagnosis) -> list[tuple[int, float, float, float]]:
    """In windows that continue a row, by number of tokens read: loss in nats, mean and extremes over seeds.

    These windows are all from within long rows and begin with an empty context, so that positions differ by what the
    model has read and little else.
    """
    rows = []
    for read, losses in enumerate(zip(*_losses(diagnosis), strict=True), start=1):
        known = [loss for loss in losses if loss is not None]
        if known:
            rows.append((read, math.fsum(known) / len(known), min(known), max(known)))
    return rows


def reach(diagnosis: Diagnosis, stride: int) -> Reach | None:
    """The gain from `stride` more tokens where more than FAR are read; None where no position allows the comparison.

    A window begins `stride` tokens after the one before it in the row, so that a position's targets in one window are
    those of the position `stride` later in the window before: nearly the same words are predicted with less and with
    more context. The positions' differences, each the mean over seeds, are the observations of interval and test.
    """
    means = {read: mean for read, mean, _, _ in loss_by_position(diagnosis)}
    gains = [means[read] - means[read + stride] for read in means if read > FAR and read + stride in means]
    if not gains:
        return None
    return Reach(diagnosis.num_layers, stride, len(gains), mean_interval(gains), mean_p_value(gains, 0.0))


def _losses(diagnosis: Diagnosis) -> Sequence[Sequence[float | None]]:
    return [seed.val_loss_by_position_continuing_windows for seed in diagnosis.seeds]
