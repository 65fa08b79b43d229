"""Collects experiments into ablations/results.json: python -m ablations.collect NAME=REVISION ...

A revision is a commit, or the name of a DVC experiment. Each must differ from params.yaml here in the switches alone.
Of each, the depths are taken that were trained with its parameters.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from newllm.analysis.ablations import differing, repeated
from newllm.analysis.published import STUDY_SWITCHES
from newllm.analysis.records import Group, load_diagnoses, load_results
from newllm.analysis.schemas import Ablation, AblationDepth, AblationSeed, AblationsFile, flatten
from newllm.config import load_config
from newllm.errors import UserError
from newllm.files import write_json
from newllm.runtime.git import git

RESULTS = Path("ablations/results.json")
ROUNDING = 5e-4
"""Nats between two stages' losses of the same weights at most. Those of two trainings differ by more at some seed."""


def main() -> None:
    """Reads everything, then writes the table in one step: an error leaves the earlier one as it was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="NAME=REVISION")
    options = parser.parse_args()
    pairs = [experiment.partition("=") for experiment in options.experiments]
    if bad := [name + sign + revision for name, sign, revision in pairs if not (name and revision)]:
        parser.error(f"found {bad[0]!r}, expected NAME=REVISION")
    try:
        study = flatten(load_config(Path("params.yaml")).model_dump())
        experiments = [collect(name, revision, study) for name, _, revision in pairs]
        if found := repeated(experiments):
            raise UserError(f"{found}; name every experiment once, and leave one of the two out")
    except UserError as error:
        sys.exit(f"error: {error}")
    write_json(RESULTS, AblationsFile(experiments=experiments).model_dump())
    for one in experiments:
        for depth in one.depths:
            values = [seed.val_ppl for seed in depth.seeds]
            print(f"{one.name}, depth {depth.num_layers}: val PPL {sum(values) / len(values):.2f}, {len(values)} seeds")


def collect(name: str, revision: str, study: Mapping[str, Any]) -> Ablation:
    """One experiment's results at the depths that it trained.

    Args:
        name: what to call it.
        revision: a commit or a DVC experiment's name.
        study: the study's parameters with dotted names.

    Raises:
        UserError: there is no such revision, its params.yaml differs from the study's otherwise than in switches, or in
            none; or no results were made with it, or they are damaged.
    """
    commit = _resolve(revision)
    parameters = _parameters(commit, revision)
    found = differing(study, parameters)
    if others := sorted(found.keys() - STUDY_SWITCHES.keys()):
        ours, theirs = found[others[0]]
        raise UserError(
            f"{revision}:params.yaml: found {others[0]} {theirs}, expected {ours} as in params.yaml here; run the "
            f"experiment again with only {' or '.join(STUDY_SWITCHES)} changed"
        )
    if not found:
        raise UserError(f"{revision}:params.yaml: no switch differs from params.yaml here; name another revision")
    changes = {switch: theirs for switch, (_, theirs) in found.items()}
    depths = _trained(commit, parameters)
    command = _command(name, changes, depths)
    if not depths:
        raise UserError(f"{revision}:metrics/runs: no depth was trained with its params.yaml; run `{command} ...`")
    with tempfile.TemporaryDirectory() as folder:
        results = _results(commit, revision, depths, Path(folder))
        results = [_diagnosed(commit, result, Path(folder)) for result in results]
    if unknown := [str(result.num_layers) for result in results if result.diagnosis is None]:
        print(
            f"{name}: training loss without dropout is not known at depth {', '.join(unknown)}, nor claim 6 judged: "
            f"metrics/diagnostics has nothing of these weights; run `{command}` for it"
        )
    dirty = [result.about["git_dirty"] for result in results]
    return Ablation(
        name=name,
        command=command,
        changes=changes,
        parameters=dict(results[0].parameters),
        data_sha256=results[0].about["data_sha256"],
        device=" and ".join(sorted({result.about["device"] for result in results})),
        git_commits=sorted({one.about["git_commit"] for one in results if one.about["git_commit"]}),
        git_dirty=any(dirty) if None not in dirty else None,
        depths=[_depth(result) for result in results],
    )


def _command(name: str, changes: Mapping[str, Any], depths: Sequence[int]) -> str:
    """What makes the experiment from the study."""
    settings = [f"-S {switch}={json.dumps(value)}" for switch, value in changes.items()]
    stages = [f"{stage}@{depth}" for stage in ("evaluate", "diagnose") for depth in depths]
    return " ".join(["dvc exp run --temp --name", shlex.quote(name), *settings, *stages])


def _parameters(commit: str, revision: str) -> dict[str, Any]:
    """Of the commit's params.yaml, with dotted names; the same checks as for any."""
    with tempfile.TemporaryDirectory() as folder:
        _put(Path(folder) / "params.yaml", _show(commit, "params.yaml"))
        try:
            return flatten(load_config(Path(folder) / "params.yaml").model_dump())
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", f"{revision}:")) from None


def _trained(commit: str, parameters: Mapping[str, Any]) -> list[int]:
    """The depths whose runs record the parameters; the commit also has the study's own files of the others.

    Runs that say nothing of their parameters count: what is wrong with them is said where they are read.
    """
    used = {name: value for name, value in parameters.items() if name.startswith(("model.", "train."))}
    listing = git(Path(), "ls-tree", "--name-only", commit, "metrics/runs/").split()
    recorded = {int(Path(path).stem): _recorded(_show(commit, path)) for path in listing if Path(path).stem.isdecimal()}
    return sorted(depth for depth, found in recorded.items() if found is None or not differing(used, found))


def _recorded(runs: str) -> dict[str, Any] | None:
    """The parameters in a text of metrics/runs/<depth>.json, with dotted names; None if it has none."""
    try:
        return flatten(json.loads(runs)["runs"][0]["parameters"])
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _results(commit: str, revision: str, depths: Sequence[int], folder: Path) -> list[Group]:
    """As of the files in the commit, put into `folder`, with the same checks as for the report."""
    for depth in depths:
        for path in (f"metrics/layers/{depth}.json", f"metrics/runs/{depth}.json", f"plots/curves/{depth}.csv"):
            _put(folder / path, _show(commit, path))
    try:
        return load_results(depths, folder)
    except UserError as error:
        raise UserError(str(error).replace(f"{folder}/", f"{revision}:")) from None


def _diagnosed(commit: str, result: Group, folder: Path) -> Group:
    """As it is if the commit's diagnostics are missing, damaged, or those of the study's weights."""
    path = f"metrics/diagnostics/{result.num_layers}.json"
    try:
        _put(folder / path, _show(commit, path))
        (found,) = load_diagnoses([result], folder)
    except UserError:
        return result
    losses = [seed.val_loss for seed in found.diagnosis.seeds] if found.diagnosis else []
    distances = [abs(a - b) for a, b in zip(losses, result.values("val_loss"), strict=True)]
    return found if max(distances) < ROUNDING else result


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _depth(result: Group) -> AblationDepth:
    rows: list[Any] = result.seeds.to_dict("records")
    seeds = [AblationSeed(**{name: row.get(name) for name in AblationSeed.model_fields}) for row in rows]
    norms = list(result.norms["initial"]) if result.norms else None
    return AblationDepth(num_layers=result.num_layers, initial_norms=norms, seeds=seeds)


def _resolve(revision: str) -> str:
    """The commit's hexadecimal name; a DVC experiment's reference is refs/exps/<two levels of its base>/<name>."""
    references = git(Path(), "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{revision}").split()
    remedy = "`dvc exp show --all-commits` lists them, a commit is always one"
    if len(references) > 1:
        raise UserError(f"revision {revision}: {len(references)} experiments of this name; {remedy}")
    try:
        return git(Path(), "rev-parse", "--verify", f"{(references or [revision])[0]}^{{commit}}")
    except UserError as error:
        raise UserError(f"revision {revision}: no such commit or experiment ({error}); {remedy}") from None


def _show(commit: str, path: str) -> str:
    try:
        return git(Path(), "show", f"{commit}:{path}")
    except UserError as error:
        raise UserError(f"{commit[:12]}:{path}: no such file in this commit ({error}); name one that has it") from None


if __name__ == "__main__":
    main()
