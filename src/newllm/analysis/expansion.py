"""Grown contexts: what the expand stages wrote, and the grown models against their base and the two controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from newllm.analysis.records import (
    LOSS_TOLERANCE,
    Amount,
    Count,
    Loss,
    Record,
    Text,
    problem,
    read_details,
    validate,
    write_again,
)
from newllm.analysis.results import (
    CurveRow,
    DepthResult,
    LayerMetrics,
    SeedRun,
    check_curve,
    check_means,
    load_curve,
)
from newllm.analysis.statistics import difference_interval, difference_p_value, holm, mean_p_value
from newllm.measurement.intervals import Estimate, mean_interval

DEPTHS = (1, 4)
PATTERNS = ("freeze", "finetune", "longer", "scratch")
"""As the expand stage names them: the two ways of growing, then what they have to be compared with."""
GROWING = PATTERNS[:2]


class GrownSeed(SeedRun):
    """One seed; also the validation loss before the first step, and that of the base model of this seed."""

    start_val_loss: Loss
    base_val_loss: Amount


class GrownRun(Record):
    """One pattern at one depth, and what it was trained with; None where the file does not say."""

    pattern: Text
    context_dim: Count
    norm_blocks: Count
    device: Text
    torch_version: Text | None = None
    git_commit: Text | None = None
    git_dirty: bool | None = None
    git_problem: Text | None = None
    seeds: Annotated[list[GrownSeed], Field(min_length=1)]


class _File(LayerMetrics):
    start_val_loss: Amount
    base_val_loss: Amount
    runs: Annotated[list[GrownRun], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class Grown:
    """One pattern at one depth: seeds in the order of the base's, curve rows by seed and epoch."""

    base: DepthResult
    run: GrownRun
    num_params: int
    seeds: tuple[GrownSeed, ...]
    curve: tuple[CurveRow, ...]

    @property
    def num_layers(self) -> int:
        """Depth."""
        return self.base.num_layers

    @property
    def pattern(self) -> str:
        """One of PATTERNS."""
        return self.run.pattern

    def over_seeds(self, name: str) -> list[float]:
        """A figure of every seed; `name` is an attribute of GrownSeed."""
        return [float(getattr(seed, name)) for seed in self.seeds]


@dataclass(frozen=True)
class Change:
    """Validation perplexity of a pattern minus that of something else.

    Attributes:
        difference: with its 95 % interval, of this comparison alone.
        adjusted_p: Holm's adjusted p-value over all patterns compared with the same thing; None for one seed.
    """

    difference: Estimate
    adjusted_p: float | None


def load_grown(results: Sequence[DepthResult], metrics_dir: Path, curves_dir: Path) -> list[Grown]:
    """The patterns that were trained at those of depths 1 and 4 that are among the results.

    Args:
        results: the depths and what they reached.
        metrics_dir: metrics/expand.
        curves_dir: plots/expand.

    Raises:
        UserError: a file is malformed, or is not of these results.
    """
    wanted = [(result, pattern) for result in results if result.num_layers in DEPTHS for pattern in PATTERNS]
    names = [(result, pattern, f"{result.num_layers}-{pattern}") for result, pattern in wanted]
    return [
        _load(result, pattern, metrics_dir / f"{name}.json", curves_dir / f"{name}.csv")
        for result, pattern, name in names
        if (metrics_dir / f"{name}.json").exists()
    ]


def _load(base: DepthResult, pattern: str, path: Path, curve_path: Path) -> Grown:
    stage = f"expand@{base.num_layers}-{pattern}"
    remedy = write_again(stage)
    metrics = validate(_File, read_details(path, stage), path, remedy)
    run = metrics.runs[0]
    for name, found, expected in (
        ("num_layers", metrics.num_layers, base.num_layers),
        ("pattern", run.pattern, pattern),
        ("the seeds", sorted(seed.seed for seed in run.seeds), sorted(seed.seed for seed in base.runs.seeds)),
    ):
        if found != expected:
            raise problem(path, f"found {name} {found}, expected {expected}", remedy)
    check_means(metrics, run.seeds, path, remedy, "its list")
    by_seed = {seed.seed: seed for seed in run.seeds}
    for base_run in base.runs.seeds:
        loss = by_seed[base_run.seed].base_val_loss
        if abs(loss - base_run.val_loss) > LOSS_TOLERANCE:
            what = f"found base_val_loss {loss:.4f}, but metrics/runs has {base_run.val_loss:.4f}"
            raise problem(path, f"seed {base_run.seed}: {what}", remedy)
    curve = load_curve(curve_path, base.num_layers, remedy)
    check_curve(curve, run.seeds, curve_path, remedy, str(path))
    seeds = tuple(by_seed[base_run.seed] for base_run in base.runs.seeds)
    return Grown(base, run, metrics.num_params, seeds, tuple(curve))


def of_pattern(grown: Sequence[Grown], num_layers: int, pattern: str) -> Grown | None:
    """What was trained by a pattern at a depth, if it was."""
    return next((one for one in grown if (one.num_layers, one.pattern) == (num_layers, pattern)), None)


def against_base(grown: Sequence[Grown]) -> dict[tuple[int, str], Change]:
    """Each pattern against the trained model of the depth: seed by seed where it began from that.

    Returns:
        By depth and pattern, with Student's interval and test of the seeds' own differences; of `scratch`, which began
        from nothing, with Welch's.
    """

    def change(one: Grown) -> Change:
        base = one.base.over_seeds("val_ppl")
        return _welch(one, base) if one.pattern == "scratch" else _paired(one, base)

    return _family(grown, change)


def against_longer(grown: Sequence[Grown]) -> dict[tuple[int, str], Change]:
    """The grown models against those that trained as long without growing, from the same weights, seed by seed."""
    controls = {one.num_layers: one for one in grown if one.pattern == "longer"}
    chosen = [one for one in grown if one.pattern in GROWING and one.num_layers in controls]
    return _family(chosen, lambda one: _paired(one, controls[one.num_layers].over_seeds("val_ppl")))


def against_scratch(grown: Sequence[Grown]) -> dict[tuple[int, str], Change]:
    """The grown models against fresh ones of the grown size: other weights, so by Welch's interval and test."""
    controls = {one.num_layers: one for one in grown if one.pattern == "scratch"}
    chosen = [one for one in grown if one.pattern in GROWING and one.num_layers in controls]
    return _family(chosen, lambda one: _welch(one, controls[one.num_layers].over_seeds("val_ppl")))


def _welch(one: Grown, others: Sequence[float]) -> Change:
    values = one.over_seeds("val_ppl")
    return Change(difference_interval(values, others), difference_p_value(values, others))


def _paired(one: Grown, others: Sequence[float]) -> Change:
    differences = [value - other for value, other in zip(one.over_seeds("val_ppl"), others, strict=True)]
    return Change(mean_interval(differences), mean_p_value(differences, 0.0))


def _family(chosen: Sequence[Grown], compare: Callable[[Grown], Change]) -> dict[tuple[int, str], Change]:
    changes = {(one.num_layers, one.pattern): compare(one) for one in chosen}
    p_values = [change.adjusted_p for change in changes.values() if change.adjusted_p is not None]
    if len(p_values) < len(changes):
        return changes
    return {
        key: replace(change, adjusted_p=p) for (key, change), p in zip(changes.items(), holm(p_values), strict=True)
    }
