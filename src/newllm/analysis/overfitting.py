"""Why deep models are worse: the excess of validation loss over the best depth, split into training loss and gap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from newllm.analysis.comparisons import PairComparison, against, compare_pairs
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import difference_interval
from newllm.analysis.summary import Comparison
from newllm.measurement.intervals import Estimate

PLATEAU_PPL = 60.0
"""Below it the plateau is over: predicting `<unk>` everywhere gives a validation perplexity near 67."""


@dataclass(frozen=True)
class Diagnostics:
    """What was measured of one depth for the overfitting claim.

    Attributes:
        num_layers: depth.
        train_losses: by seed, in the order of the runs file: mean cross-entropy in nats over the non-padding targets of
            a fixed sample of training windows, without dropout, of the weights of the best epoch. All depths the same
            sample.
        gradient_norms: by hidden layer, from the one that reads the embedding up: norm of the gradient of its weights,
            mean over seeds, at the best epoch. Shown, not judged by. Empty if not measured.
        initial_norms: the same of the fresh weights.
    """

    num_layers: int
    train_losses: tuple[float, ...]
    gradient_norms: tuple[float, ...] = ()
    initial_norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Excess:
    """The validation loss that a deeper depth has above the best depth, and its two parts, which add up to it.

    All in nats; every difference is the deeper depth's mean minus the best depth's. Corrected for the number of deeper
    depths.

    Attributes:
        num_layers: the deeper depth.
        val_loss: difference of validation loss.
        train_loss: difference of training loss without dropout: what the deeper model fits worse.
        gap: difference of the generalisation gap, validation minus training loss: what it overfits more.
        balance: difference of (training loss - gap): above 0 if the greater part of the excess is training loss.
    """

    num_layers: int
    val_loss: Estimate
    train_loss: PairComparison
    gap: PairComparison
    balance: PairComparison

    @property
    def is_underfitting(self) -> bool:
        """Whether training loss is shown to be higher, and to be the greater part of the excess."""
        return self.train_loss.above and self.balance.above

    @property
    def is_overfitting(self) -> bool:
        """Whether the gap is shown to be wider, and to be the greater part of the excess."""
        return self.gap.above and self.balance.below


def worse_and_deeper(comparison: Comparison) -> list[int]:
    """The depths below which the question arises: deeper than the best and shown to be worse than it."""
    pairs = against(comparison, comparison.best)
    return [depth for depth, pair in pairs.items() if depth > comparison.best.num_layers and pair.above]


def excesses(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> list[Excess]:
    """One entry for each of `worse_and_deeper`, split by the measured training losses.

    Raises:
        ValueError: a depth that is needed was not measured, or not with one loss a seed.
    """
    best, deeper = comparison.best.num_layers, worse_and_deeper(comparison)
    results = {result.num_layers: result for result in comparison.results}
    losses = {depth: losses_by_seed(results[depth], diagnostics) for depth in (best, *deeper)}
    pairs = [(depth, best) for depth in deeper]

    def family(figure: Callable[[float, float], float]) -> list[PairComparison]:
        values = {depth: [figure(train, val) for train, val in seeds] for depth, seeds in losses.items()}
        return compare_pairs(values, pairs)

    train_losses = family(lambda train, _: train)
    gaps = family(lambda train, val: val - train)
    balances = family(lambda train, val: train - (val - train))
    val_losses = {depth: [val for _, val in seeds] for depth, seeds in losses.items()}
    return [
        Excess(depth, difference_interval(val_losses[depth], val_losses[best]), *parts)
        for depth, *parts in zip(deeper, train_losses, gaps, balances, strict=True)
    ]


def gaps(result: DepthResult, diagnostics: Sequence[Diagnostics]) -> list[float]:
    """Validation loss minus training loss without dropout, in nats, of every seed; ValueError as `excesses`."""
    return [val - train for train, val in losses_by_seed(result, diagnostics)]


def plateau_epochs(result: DepthResult) -> list[int]:
    """Of every seed, the epochs before validation perplexity first falls below 60; all its epochs if it never does."""
    lengths = []
    for run in result.runs.seeds:
        left = [row.epoch for row in result.curve if row.seed == run.seed and row.val_ppl < PLATEAU_PPL]
        lengths.append(min(left) - 1 if left else run.epochs_run)
    return lengths


def not_measured(depths: Sequence[int], diagnostics: Sequence[Diagnostics]) -> list[int]:
    """Those of the depths that no diagnostics are of."""
    measured = {entry.num_layers for entry in diagnostics}
    return [depth for depth in depths if depth not in measured]


def losses_by_seed(result: DepthResult, diagnostics: Sequence[Diagnostics]) -> list[tuple[float, float]]:
    """Training loss without dropout and validation loss of every seed; ValueError as `excesses`."""
    of_depth = [entry.train_losses for entry in diagnostics if entry.num_layers == result.num_layers]
    val_losses = result.over_seeds("val_loss")
    if len(of_depth) != 1 or len(of_depth[0]) != len(val_losses):
        found = f"{[len(losses) for losses in of_depth]} training losses"
        raise ValueError(f"depth {result.num_layers}: found {found}, expected one for each of {len(val_losses)} seeds")
    return list(zip(of_depth[0], val_losses, strict=True))
