"""Experiments that change one switch of the study at some depths, against the study's own runs of those depths."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from newllm.analysis.published import STUDY_SWITCHES
from newllm.analysis.records import Amount, Count, Fraction, Perplexity, Record, Seed, Text, problem, validate
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import Estimate, difference_interval, difference_p_value, holm
from newllm.analysis.summary import Comparison

REMEDY = "collect the experiments again (see ablations/README.md), or restore the committed file"


class AblationSeed(Record):
    """One seed of a changed run; losses in nats, accuracy a fraction, training loss with dropout, at the best epoch."""

    seed: Seed
    train_loss: Amount
    val_loss: Amount
    val_ppl: Perplexity
    val_accuracy: Fraction
    test_ppl: Perplexity
    best_epoch: Count
    epochs_run: Count
    plateau_epochs: Annotated[int, Field(ge=0, le=10**15)]


class AblationDepth(Record):
    """One depth of an experiment."""

    num_layers: Count
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

    `changes` are the switches that differ from the study, `parameters` all that the runs recorded, with dotted names.
    """

    name: Text
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    command: Text
    changes: Annotated[dict[Text, Any], Field(min_length=1)]
    parameters: dict[Text, Any]
    data_sha256: Text
    device: Text
    depths: Annotated[list[AblationDepth], Field(min_length=1)]

    @property
    def words(self) -> str:
        """What is changed, in words."""
        names = {name: STUDY_SWITCHES.get(name, (name,))[0] for name in self.changes}
        return ", ".join(
            names[name] if value is True else f"{names[name]}: {value}" for name, value in self.changes.items()
        )


class AblationsFile(Record):
    """ablations/results.json."""

    experiments: list[Ablation]


@dataclass(frozen=True)
class Effect:
    """A changed depth minus the study's same depth, with Welch's 95 % intervals of one comparison each.

    `adjusted_p` is Holm's, over all depths of all experiments; None for one seed.
    """

    ablation: Ablation
    depth: AblationDepth
    val_ppl: Estimate
    train_loss: Estimate
    adjusted_p: float | None

    @property
    def is_better(self) -> bool:
        """Whether perplexity is shown to be lower than without the change."""
        return self.val_ppl.mean < 0 and self.adjusted_p is not None and self.adjusted_p < 0.05

    @property
    def is_worse(self) -> bool:
        """Whether perplexity is shown to be higher than without the change."""
        return self.val_ppl.mean > 0 and self.adjusted_p is not None and self.adjusted_p < 0.05


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


def effects(comparison: Comparison, ablations: Sequence[Ablation]) -> list[Effect]:
    """Each depth of the comparable experiments against the same depth of the results, where that is among them."""
    results = {result.num_layers: result for result in comparison.results}
    pairs = [
        (ablation, depth, results[depth.num_layers])
        for ablation in ablations
        if mismatch(comparison, ablation) is None
        for depth in ablation.depths
        if depth.num_layers in results
    ]
    p_values = [difference_p_value(depth.over_seeds("val_ppl"), r.over_seeds("val_ppl")) for _, depth, r in pairs]
    known = [p for p in p_values if p is not None]
    adjusted: Sequence[float | None] = holm(known) if len(known) == len(p_values) else p_values
    return [_effect(*pair, p) for pair, p in zip(pairs, adjusted, strict=True)]


def _effect(ablation: Ablation, depth: AblationDepth, result: DepthResult, p: float | None) -> Effect:
    val_ppl, train_loss = (
        difference_interval(depth.over_seeds(name), result.over_seeds(name)) for name in ("val_ppl", "train_loss")
    )
    return Effect(ablation, depth, val_ppl, train_loss, p)
