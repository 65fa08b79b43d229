"""Runs with a switch changed, from before recipes were stages: ablations/results.json, until those have run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis import records
from newllm.analysis.formats import settings
from newllm.analysis.published import STUDY_SWITCHES
from newllm.analysis.records import Group, Source, table_of
from newllm.analysis.schemas import Ablation, AblationsFile

REMEDY = "collect the experiments again (see ablations/README.md), or restore the committed file"


def repeated(ablations: Sequence[Ablation]) -> str | None:
    """Which name, or which depth of which change, is there twice, in words; None if all is there once."""
    names = [one.name for one in ablations]
    if twice := [name for name in names if names.count(name) > 1]:
        return f"two experiments are called {twice[0]}"
    runs: dict[tuple[str, int], str] = {}
    for one in ablations:
        for depth in one.depths:
            key = (json.dumps(one.changes, sort_keys=True), depth.num_layers)
            if key in runs:
                return f"{runs[key]} and {one.name} both have depth {depth.num_layers} with {settings(one.changes)}"
            runs[key] = one.name
    return None


def load_ablations(path: Path) -> list[Ablation]:
    """The experiments in ablations/results.json; none if there is no such file. UserError if it is damaged."""
    if not path.exists():
        return []
    source = Source(path, REMEDY)
    found = source.valid(AblationsFile, source.json()).experiments
    if twice := repeated(found):
        raise source.problem(twice)
    return found


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """As `records.differing`; a switch that is not recorded counts as in the study."""
    usual = {name: value for name, (_, value) in STUDY_SWITCHES.items()}
    return records.differing({**usual, **ours}, {**usual, **theirs})


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


def compared(
    ablations: Sequence[Ablation], studied: Group, depths: Mapping[int, Group]
) -> tuple[list[Group], list[str]]:
    """Each depth of the experiments that can be compared with the study; in words, what cannot be, and why."""
    groups, left_out = [], []
    for one in ablations:
        if why := mismatch(studied, one):
            left_out.append(f"{one.name}: {why}")
            continue
        about = {"device": one.device, "data_sha256": one.data_sha256, "git_dirty": one.git_dirty}
        about |= {"git_commit": " ".join(one.git_commits) or None, "precision": one.parameters.get("train.precision")}
        for found in one.depths:
            if not (own := depths.get(found.num_layers)):
                left_out.append(f"{one.name}, depth {found.num_layers}: no such depth here")
                continue
            model = ("changed", one.name, found.num_layers, own.num_params)
            norms = {"initial": found.initial_norms} if found.initial_norms else {}
            seeds = table_of(found.seeds)
            groups.append(Group(*model, seeds, pd.DataFrame(), about, one.parameters, one.changes, norms))
    return groups, left_out
