"""Fit and overfitting: differences of validation loss split into training loss and gap; what more context is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from newllm.analysis.inference import Difference, family, mean_tests
from newllm.analysis.records import Group
from newllm.measurement.intervals import Estimate

TRAIN_LOSS = "train_loss_without_dropout"
FAR = 10
"""Tokens: the question is whether the model has any use of what lies further back."""
ROUNDING = 1e-6
"""Nats: a gain that is no larger is none, whatever a test of it says."""


@dataclass(frozen=True)
class Split:
    """The validation loss of one group minus that of another, and its two parts, which add up to it, in nats.

    Attributes:
        val_loss: difference of validation loss, with Welch's interval.
        train_loss: difference of training loss without dropout: what the first fits worse.
        gap: difference of the gap, validation minus training loss: what it overfits more.
        balance: difference of (training loss - gap): above 0 if the greater part is training loss.
    """

    val_loss: Estimate
    train_loss: Difference
    gap: Difference
    balance: Difference

    @property
    def excess(self) -> str:
        """What an excess of validation loss is, as far as it is shown: that part above 0, and above the other."""
        if self.train_loss.above and self.balance.above:
            return "underfitting"
        return "overfitting" if self.gap.above and self.balance.below else "undecided"

    @property
    def saving(self) -> str:
        """What a saving of validation loss is, as far as it is shown: that part below 0, and below the other."""
        if self.train_loss.below and self.balance.below:
            return "fit"
        return "less overfitting" if self.gap.below and self.balance.above else "undecided"


def gaps(group: Group) -> list[float]:
    """Of every seed, validation loss minus training loss without dropout."""
    return [val - train for val, train in zip(group.values("val_loss"), group.values(TRAIN_LOSS), strict=True)]


def splits(pairs: Sequence[tuple[Group, Group]]) -> list[Split | None]:
    """The first of each pair minus the second; a family of tests for each part.

    None where training loss was not measured in both.
    """
    measured = [pair for pair in pairs if all(group.has(TRAIN_LOSS) for group in pair)]
    trains = [(first.values(TRAIN_LOSS), second.values(TRAIN_LOSS)) for first, second in measured]
    widths = [(gaps(first), gaps(second)) for first, second in measured]
    balances = [
        tuple([train - gap for train, gap in zip(*both, strict=True)] for both in zip(loss, gap, strict=True))
        for loss, gap in zip(trains, widths, strict=True)
    ]
    val_losses = family([(first.values("val_loss"), second.values("val_loss")) for first, second in measured])
    parts = zip(val_losses, family(trains), family(widths), family(balances), strict=True)  # type: ignore[arg-type]
    found = iter([Split(val_loss.difference, *rest) for val_loss, *rest in parts])
    return [next(found) if all(group.has(TRAIN_LOSS) for group in pair) else None for pair in pairs]


def by_position(values: Sequence[Sequence[float | None]]) -> list[tuple[int, float, float, float]]:
    """By number of tokens read: mean and extremes over seeds; positions without a value are left out."""
    rows = []
    for read, of_seeds in enumerate(zip(*values, strict=True), start=1):
        known = [value for value in of_seeds if value is not None]
        if known:
            rows.append((read, math.fsum(known) / len(known), min(known), max(known)))
    return rows


def context_gains(groups: Sequence[Group]) -> dict[int, Difference]:
    """Depth → what one stride more of context is worth in nats to a model that has read more than FAR tokens.

    Of the depths whose windows overlap by more than that. A seed's gain is the mean over all targets before which more
    than FAR tokens are read in the later window; every position has one in each pair of windows, so that they count
    equally. One family of Student's tests that the gain is 0.
    """
    found: dict[int, list[float]] = {}
    for group in groups:
        if group.diagnosis and all(seed.context_gain_by_position[FAR:] for seed in group.diagnosis.seeds):
            gains = [seed.context_gain_by_position[FAR:] for seed in group.diagnosis.seeds]
            means = [math.fsum(values) / len(values) for values in gains]
            found[group.num_layers] = [mean if abs(mean) > ROUNDING else 0.0 for mean in means]
    return dict(zip(found, mean_tests(list(found.values()), [0.0] * len(found)), strict=True))
