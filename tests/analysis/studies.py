"""A made-up full study in which every claim of the notebook but the one on overfitting holds, to be changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.supplements import Supplements, load_supplements
from tests.analysis.metrics_files import DATA, write_all

PERPLEXITIES = {1: 20.25, 2: 20.12, 3: 20.02, 4: 19.90, 5: 20.10, 6: 20.50, 7: 21.70, 8: 23.0}
"""Means by depth. With the standard deviation 0.0316 of five seeds a difference of two has the interval ± 0.046."""


def study(
    root: Path, changes: Mapping[int, float] | None = None, spread: float = 1.0, without: int = 0, **options: Any
) -> Comparison:
    """Other means by depth in `changes`; standard deviation times `spread`; without one depth."""
    means = {**PERPLEXITIES, **(changes or {})}
    depths = [depth for depth in means if depth != without]
    options = {"epochs": 150, **options}
    write_all(root, depths, perplexity_of=lambda depth, seed: means[depth] + spread * 0.02 * (seed - 2), **options)
    return reload(root, depths)


def reload(root: Path, depths: Any = tuple(PERPLEXITIES)) -> Comparison:
    return compare(load_results(depths, root / "metrics", root / "plots/curves"), 6, 6, DATA)


def more(root: Path, compared: Comparison) -> Supplements:
    return load_supplements(compared.results, root, 64)
