"""Experiments that change one switch of the study at some depths, against the study's own runs of those depths."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from newllm.analysis.comparisons import Difference, compare_samples
from newllm.analysis.overfitting import Diagnostics, losses_by_seed, not_measured
from newllm.analysis.published import STUDY_SWITCHES
from newllm.analysis.records import Amount, Count, Fraction, Perplexity, Record, Seed, Text, problem, validate
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import difference_interval
from newllm.analysis.summary import Comparison
from newllm.measurement.intervals import Estimate

Losses = Sequence[tuple[float, float]]
"""Training and validation loss of every seed."""
REMEDY = "collect the experiments again (see ablations/README.md), or restore the committed file"


class AblationSeed(Record):
    """One seed of a changed run at its best epoch; losses in nats, accuracy a fraction.

    Training loss is that of the diagnose stage, without dropout; None if that did not run. The plateau is that of the
    report's section on overfitting.
    """

    seed: Seed
    train_loss_without_dropout: Amount | None
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    test_ppl: Perplexity
    best_epoch: Count
    epochs_run: Count
    stopped_early: bool
    plateau_epochs: Annotated[int, Field(ge=0, le=10**15)]


class AblationDepth(Record):
    """One depth of an experiment.

    `initial_norms` are by hidden layer the gradient's norm of the fresh weights, mean over seeds, as the diagnose stage
    measures it; None if that did not run.
    """

    num_layers: Count
    initial_norms: Annotated[list[Amount], Field(min_length=1)] | None
    seeds: Annotated[list[AblationSeed], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if len({seed.seed for seed in self.seeds}) < len(self.seeds):
            raise ValueError("a seed is listed twice")
        return self

    def over_seeds(self, name: str) -> list[float]:
        """A figure of every seed; `name` is an attribute of AblationSeed."""
        return [float(getattr(seed, name)) for seed in self.seeds]


class Ablation(Record):
    """One experiment.

    `changes` are the switches that differ from the study, `parameters` all that the runs recorded, with dotted names;
    `git_commits` and `git_dirty` say which code trained: the commits that were checked out, and whether any run's code
    differed from its commit.
    """

    name: Text
    command: Text
    changes: Annotated[dict[Text, Any], Field(min_length=1)]
    parameters: dict[Text, Any]
    data_sha256: Text
    device: Text
    git_commits: list[Text]
    git_dirty: bool | None
    depths: Annotated[list[AblationDepth], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, value in self.changes.items():
            if self.parameters.get(name) != value:
                raise ValueError(f"changes have {name} {value}, parameters {self.parameters.get(name)}")
        expected = self.parameters.get("train.seeds")
        for depth in self.depths:
            if [seed.seed for seed in depth.seeds] != expected:
                found = [seed.seed for seed in depth.seeds]
                raise ValueError(f"depth {depth.num_layers} has the seeds {found}, train.seeds is {expected}")
        return self

    @property
    def words(self) -> str:
        """What is changed, in words."""
        return " and ".join(_in_words(name, value) for name, value in self.changes.items())


def _in_words(name: str, value: object) -> str:
    if name == "train.warmup_epochs":
        return f"warm-up over {value} epoch{'' if value == 1 else 's'}" if value else "no warm-up"
    words = STUDY_SWITCHES.get(name, (name,))[0]
    return words if value is True else f"no {words}" if value is False else f"{words}: {value}"


class AblationsFile(Record):
    """ablations/results.json."""

    experiments: list[Ablation]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if found := repeated(self.experiments):
            raise ValueError(found)
        return self


def repeated(ablations: Sequence[Ablation]) -> str | None:
    """Which name, or which depth of which change, is there twice, in words; None if all is there once."""
    names: set[str] = set()
    runs: dict[tuple[str, int], str] = {}
    for ablation in ablations:
        if ablation.name in names:
            return f"two experiments are called {ablation.name}"
        names.add(ablation.name)
        for depth in ablation.depths:
            key = (ablation.words, depth.num_layers)
            if key in runs:
                return f"{runs[key]} and {ablation.name} both have depth {depth.num_layers} with {ablation.words}"
            runs[key] = ablation.name
    return None


@dataclass(frozen=True)
class Parts:
    """What a change does to validation loss, split into training loss without dropout and the gap, in nats.

    Attributes:
        train_loss: change of training loss: below 0, the model fits better.
        gap: change of validation minus training loss: below 0, it overfits less.
        balance: change of (training loss - gap): below 0 if training loss falls by more than the gap.
    """

    train_loss: Difference
    gap: Difference
    balance: Difference

    @property
    def is_fit(self) -> bool:
        """Whether training loss is shown to fall, and by more than the gap."""
        return self.train_loss.below and self.balance.below

    @property
    def is_gap(self) -> bool:
        """Whether the gap is shown to narrow, and by more than training loss falls."""
        return self.gap.below and self.balance.above


@dataclass(frozen=True)
class Effect:
    """A changed depth minus the study's same depth; `parts` is None where training loss was not measured in both.

    P-values are corrected over all depths of all experiments.
    """

    ablation: Ablation
    depth: AblationDepth
    val_ppl: Difference
    val_loss: Estimate
    parts: Parts | None


def load_ablations(path: Path) -> list[Ablation]:
    """The experiments in ablations/results.json; none if there is no such file. UserError if it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError) as error:
        raise problem(path, f"not valid JSON ({error})", REMEDY) from None
    if not isinstance(values, dict):
        raise problem(path, f"found a JSON {type(values).__name__}, expected an object", REMEDY)
    return validate(AblationsFile, values, path, REMEDY).experiments


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted parameters whose values differ: ours, theirs. A switch that is not recorded counts as in the study."""
    usual = {name: value for name, (_, value) in STUDY_SWITCHES.items()}
    first, second = {**usual, **ours}, {**usual, **theirs}
    names = sorted((first.keys() | second.keys()) - {"model.num_layers"})
    pairs = {name: (first.get(name, "nothing"), second.get(name, "nothing")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def mismatch(comparison: Comparison, ablation: Ablation) -> str | None:
    """Why an experiment cannot be compared with the results, in words; None if it can."""
    runs = comparison.studied.runs
    if ablation.data_sha256 != runs.data_sha256:
        return "trained on other windows"
    found = differing(runs.parameters, ablation.parameters)
    others = {name: pair for name, pair in found.items() if name not in ablation.changes}
    if others:
        name, (ours, theirs) = next(iter(others.items()))
        return f"{name} {theirs} instead of {ours}"
    undone = sorted(ablation.changes.keys() - found.keys())
    return f"{undone[0]} is the same here" if undone else None


def effects(
    comparison: Comparison, ablations: Sequence[Ablation], diagnostics: Sequence[Diagnostics] = ()
) -> list[Effect]:
    """Each depth of the comparable experiments against the same depth of the results, where that is among them.

    Ordered by change, in the order of the experiments, then by depth: one change may be spread over experiments.
    """
    results = {result.num_layers: result for result in comparison.results}
    compared = [ablation for ablation in ablations if mismatch(comparison, ablation) is None]
    changes = list(dict.fromkeys(ablation.words for ablation in compared))
    found = [
        (ablation, depth, results[depth.num_layers])
        for ablation in compared
        for depth in ablation.depths
        if depth.num_layers in results
    ]
    found.sort(key=lambda one: (changes.index(one[0].words), one[1].num_layers))
    val_ppls = compare_samples([(depth.over_seeds("val_ppl"), own.over_seeds("val_ppl")) for _, depth, own in found])
    parts = _parts([(depth, own) for _, depth, own in found], diagnostics)
    return [
        Effect(
            ablation,
            depth,
            val_ppl,
            difference_interval(depth.over_seeds("val_loss"), own.over_seeds("val_loss")),
            parts.get(index),
        )
        for index, ((ablation, depth, own), val_ppl) in enumerate(zip(found, val_ppls, strict=True))
    ]


def against_best(comparison: Comparison, found: Sequence[Effect]) -> list[Difference]:
    """Validation perplexity of every changed depth minus that of the study's best depth: one family of tests."""
    best = comparison.best.over_seeds("val_ppl")
    return compare_samples([(effect.depth.over_seeds("val_ppl"), best) for effect in found])


def _parts(pairs: Sequence[tuple[AblationDepth, DepthResult]], diagnostics: Sequence[Diagnostics]) -> dict[int, Parts]:
    """By index, the parts of those pairs in which both training losses were measured: a family of tests a part."""
    losses: dict[int, tuple[Losses, Losses]] = {}
    for index, (depth, own) in enumerate(pairs):
        changed = [
            (seed.train_loss_without_dropout, seed.val_loss)
            for seed in depth.seeds
            if seed.train_loss_without_dropout is not None
        ]
        if len(changed) == len(depth.seeds) and not not_measured([own.num_layers], diagnostics):
            losses[index] = changed, losses_by_seed(own, diagnostics)

    def family(figure: Callable[[float, float], float]) -> list[Difference]:
        def values(seeds: Losses) -> list[float]:
            return [figure(train, val) for train, val in seeds]

        return compare_samples([(values(changed), values(own)) for changed, own in losses.values()])

    train_losses = family(lambda train, _: train)
    gaps = family(lambda train, val: val - train)
    balances = family(lambda train, val: train - (val - train))
    return {index: Parts(*parts) for index, *parts in zip(losses, train_losses, gaps, balances, strict=True)}
