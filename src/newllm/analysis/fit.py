"""Fit and overfitting: differences of validation loss split into training loss and gap; what more context is worth."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from newllm.analysis.inference import Difference, compare, mean_tests
from newllm.analysis.records import Group
from newllm.measurement.intervals import Estimate

TRAIN_LOSS = "train_loss_without_dropout"
GAP = f"val_loss - {TRAIN_LOSS}"
FAR = 10
"""Tokens: the question is whether the model has any use of what lies further back."""
ROUNDING = 1e-6
"""Nats: a gain that is no larger is none, whatever a test of it says."""

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Split:
    """The validation loss of one group minus that of another, and its two parts, which add up to it, in nats."""

    val_loss: Estimate  # with Welch's interval
    train_loss: Difference  # without dropout: what the first fits worse
    gap: Difference  # validation minus training loss: what it overfits more
    balance: Difference  # of (training loss - gap): above 0 if the greater part is training loss

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


def splits(pairs: Mapping[_Key, tuple[Group, Group]]) -> dict[_Key, Split]:
    """The first of each pair minus the second, where training loss was measured in both; a family for each part."""
    known = {key: pair for key, pair in pairs.items() if all(group.has(TRAIN_LOSS) for group in pair)}
    val_loss, *parts = (compare(known, figure) for figure in ("val_loss", TRAIN_LOSS, GAP, f"{TRAIN_LOSS} - ({GAP})"))
    return {key: Split(val_loss[key], *(part[key] for part in parts)) for key in known}


def position_ppl(group: Group) -> dict[int, float]:
    """Number of tokens read → validation perplexity of the next in full windows, of the mean loss over seeds."""
    seeds = group.diagnosis.seeds if group.diagnosis else []
    rows = zip(*(seed.val_loss_by_position_full_windows for seed in seeds), strict=True)
    losses = {read: [loss for loss in row if loss is not None] for read, row in enumerate(rows, start=1)}
    return {read: math.exp(math.fsum(known) / len(known)) for read, known in losses.items() if known}


def context_gains(groups: Iterable[Group]) -> dict[int, Difference]:
    """Depth → what one stride more of context is worth in nats to a model that has read more than FAR tokens.

    Of the depths whose windows overlap by more than that. A seed's gain is the mean over all targets before which more
    than FAR tokens are read in the later window; every position has one in each pair of windows, so that they count
    equally. One family of Student's tests that the gain is 0.
    """
    found: dict[int, list[float]] = {}
    for group in groups:
        gains = [seed.context_gain_by_position[FAR:] for seed in group.diagnosis.seeds] if group.diagnosis else []
        if gains and all(gains):
            means = [math.fsum(values) / len(values) for values in gains]
            found[group.num_layers] = [mean if abs(mean) > ROUNDING else 0.0 for mean in means]
    return mean_tests(found)
