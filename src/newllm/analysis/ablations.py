"""Runs with a switch changed, from before recipes were stages: ablations/results.json, until those have run."""

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, model_validator

from newllm.analysis.formats import settings
from newllm.analysis.published import STUDY_SWITCHES
from newllm.analysis.records import (
    Amount,
    Count,
    Fraction,
    Group,
    Perplexity,
    Record,
    Seed,
    Text,
    problem,
    table_of,
    validate,
)

REMEDY = "collect the experiments again (see ablations/README.md), or restore the committed file"


class AblationSeed(Record):
    """One seed of a changed run at its best epoch; losses in nats, accuracy a fraction.

    Training loss is that of the diagnose stage, without dropout; None if that did not run. The plateau is that of the
    report's appendix.
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
    for one in ablations:
        if one.name in names:
            return f"two experiments are called {one.name}"
        names.add(one.name)
        for depth in one.depths:
            key = (json.dumps(one.changes, sort_keys=True), depth.num_layers)
            if key in runs:
                return f"{runs[key]} and {one.name} both have depth {depth.num_layers} with {settings(one.changes)}"
            runs[key] = one.name
    return None


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


def mismatch(studied: Group, one: Ablation) -> str | None:
    """Why an experiment cannot be compared with the study's results, in words; None if it can."""
    if one.data_sha256 != studied.about["data_sha256"]:
        return "trained on other windows"
    found = differing(studied.parameters, one.parameters)
    for name, (ours, theirs) in found.items():
        if name not in one.changes:
            return f"{name} {theirs} instead of {ours}"
    undone = sorted(one.changes.keys() - found.keys())
    return f"{undone[0]} is the same here" if undone else None


def groups_of(ablations: Sequence[Ablation], studied: Group, depths: Mapping[int, Group]) -> list[Group]:
    """Each depth of the experiments that can be compared with the study, of those that the study has."""
    fitting = [one for one in ablations if mismatch(studied, one) is None]
    pairs = [(one, depth) for one in fitting for depth in one.depths if depth.num_layers in depths]
    return [_group(one, depth, depths[depth.num_layers].num_params) for one, depth in pairs]


def left_out(ablations: Sequence[Ablation], studied: Group, depths: Container[int]) -> list[str]:
    """Which experiments, and which depths of the others, cannot be compared with the study, and why."""
    found = {one.name: mismatch(studied, one) for one in ablations}
    without = [(one.name, depth.num_layers) for one in ablations for depth in one.depths]
    alone = [f"{name}, depth {depth}: no such depth here" for name, depth in without
             if not found[name] and depth not in depths]  # fmt: skip
    return [f"{name}: {why}" for name, why in found.items() if why] + alone


def _group(one: Ablation, depth: AblationDepth, num_params: int) -> Group:
    about = {"device": one.device, "data_sha256": one.data_sha256, "git_dirty": one.git_dirty}
    about |= {"git_commit": " ".join(one.git_commits) or None, "precision": one.parameters.get("train.precision")}
    norms = {} if depth.initial_norms is None else {"initial": depth.initial_norms}
    return Group(
        "changed", one.name, depth.num_layers, num_params, table_of(depth.seeds), pd.DataFrame(), about, one.parameters,
        one.changes, norms,
    )  # fmt: skip
