"""Pairs of depths compared by Welch's test, with Holm's correction within a family of such tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import SIGNIFICANCE, difference_interval, difference_p_value, holm
from newllm.analysis.summary import Comparison
from newllm.measurement.intervals import Estimate

CHOOSING = "val_ppl"
"""The figure that comparisons rest on: a seed's best validation perplexity. Test figures choose nothing."""


@dataclass(frozen=True)
class Difference:
    """A figure's mean over some runs minus its mean over others, tested against a value.

    Attributes:
        difference: with Welch's 95 % interval, of this comparison alone.
        expected: what the difference is tested against; 0 unless said otherwise.
        adjusted_p: Holm's adjusted p-value within the family; None for one seed.
    """

    difference: Estimate
    expected: float
    adjusted_p: float | None

    @property
    def above(self) -> bool:
        """Whether the difference is shown to be more than expected."""
        return self._shown and self.difference.mean > self.expected

    @property
    def below(self) -> bool:
        """Whether the difference is shown to be less than expected."""
        return self._shown and self.difference.mean < self.expected

    @property
    def _shown(self) -> bool:
        return self.adjusted_p is not None and self.adjusted_p < SIGNIFICANCE


@dataclass(frozen=True)
class PairComparison(Difference):
    """Of two depths: the mean at `reference` is subtracted from that at `num_layers`."""

    num_layers: int
    reference: int


def compare_samples(
    samples: Sequence[tuple[Sequence[float], Sequence[float]]], expected: float = 0.0
) -> list[Difference]:
    """A family of tests, one for each pair of samples, the second subtracted; corrected for their number."""
    p_values = [difference_p_value(values, baseline, expected) for values, baseline in samples]
    known = [p for p in p_values if p is not None]
    adjusted: Sequence[float | None] = holm(known) if len(known) == len(p_values) else [None] * len(p_values)
    return [
        Difference(difference_interval(values, baseline), expected, p)
        for (values, baseline), p in zip(samples, adjusted, strict=True)
    ]


def compare_pairs(
    values: Mapping[int, Sequence[float]], pairs: Sequence[tuple[int, int]], expected: float = 0.0
) -> list[PairComparison]:
    """A family of tests, one for each (depth, reference depth), corrected for their number.

    Args:
        values: depth → the figure of every seed.
        pairs: the differences to test, depth first.
        expected: what each difference is tested against, in the figure's unit.
    """
    found = compare_samples([(values[depth], values[reference]) for depth, reference in pairs], expected)
    return [
        PairComparison(one.difference, one.expected, one.adjusted_p, depth, reference)
        for (depth, reference), one in zip(pairs, found, strict=True)
    ]


def perplexities(comparison: Comparison) -> dict[int, list[float]]:
    """Depth → best validation perplexity of every seed, shallowest first."""
    return {result.num_layers: result.over_seeds(CHOOSING) for result in comparison.results}


def against(comparison: Comparison, reference: DepthResult) -> dict[int, PairComparison]:
    """Every other depth's validation perplexity against that of one depth: one family. Depth → its comparison."""
    values = perplexities(comparison)
    pairs = [(depth, reference.num_layers) for depth in values if depth != reference.num_layers]
    return {pair.num_layers: pair for pair in compare_pairs(values, pairs)}


def not_distinguishable_from_best(comparison: Comparison) -> list[int]:
    """The best depth, and all that are not shown to be worse (adjusted p >= 0.05, or no test); shallowest first."""
    worse = {depth for depth, pair in against(comparison, comparison.best).items() if pair.above}
    return [result.num_layers for result in comparison.results if result.num_layers not in worse]
