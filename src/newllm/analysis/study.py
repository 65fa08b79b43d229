"""The study as a whole: what was found, how it differs from the specification, and one tidy table of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis.ablations import groups_of, left_out, load_ablations
from newllm.analysis.inference import Difference, family
from newllm.analysis.part2 import PartTwo, Planned, load_part_two
from newllm.analysis.published import STUDY_DATA, STUDY_DEPTHS, STUDY_NUM_SEEDS, STUDY_SWITCHES, STUDY_TRAINING
from newllm.analysis.records import (
    PATTERNS,
    Group,
    TrainingData,
    load_diagnoses,
    load_grown,
    load_results,
    load_training_data,
)
from newllm.errors import UserError

NOTHING = Planned()
PLATEAU_PPL = 60.0
"""Below it the plateau is over: predicting `<unk>` everywhere gives a validation perplexity near 67."""
SPLITS = {"train": "train_loss_without_dropout", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Study:
    """All that was found.

    Attributes:
        depths: depth → the models of the study's own recipe, shallowest first.
        studied: the depth under study (`model.num_layers`).
        baseline: the depth compared with (`study.baseline_num_layers`).
        grown: grown contexts and their controls.
        changed: the study's recipe with one thing changed.
        part_two: searches and what they led to.
        data: sizes of the data.
        window: tokens of a window.
        data_deviations: in words, how text or prediction task differ from the specification; if they do, the
            published points are of something else.
        training_deviations: in words, how model, training, seeds or depths differ from the specification.
        parameters: dotted name → value, of all that the specification prescribes; “not recorded” where not known.
        commands: what made the changed runs, where that was recorded.
        left_out: which changed runs cannot be compared with these results, and why.
    """

    depths: Mapping[int, Group]
    studied: Group
    baseline: Group
    grown: Sequence[Group]
    changed: Sequence[Group]
    part_two: PartTwo
    data: TrainingData
    window: int
    data_deviations: Sequence[str]
    training_deviations: Sequence[str]
    parameters: Mapping[str, Any]
    commands: Mapping[str, str]
    left_out: Sequence[str]

    @cached_property
    def best(self) -> Group:
        """The depth of the lowest mean validation perplexity; the shallowest of equals."""
        return best_of(self.depths)

    @cached_property
    def against_best(self) -> dict[int, Difference]:
        """Every other depth's validation perplexity against that of the best: one family."""
        return against(self.depths, self.best)

    @property
    def close(self) -> list[int]:
        """The best depth, and all that are not shown to be worse; shallowest first."""
        return not_worse(self.depths, self.best)

    @property
    def num_seeds(self) -> int:
        """Seeds a depth, the same for all."""
        return len(self.studied.seeds)

    @property
    def devices(self) -> list[str]:
        """What the depths were trained on; seconds and energy can only be compared where that is one kind."""
        return sorted({group.about["device"] for group in self.depths.values()})

    @property
    def comparable(self) -> bool:
        """Whether the published points stand for the same text and vocabulary."""
        return not self.data_deviations


def load_study(
    root: Path,
    depths: Iterable[int],
    num_layers: int,
    baseline: int,
    data: Mapping[str, Any],
    planned: Planned = NOTHING,
) -> Study:
    """Reads and checks everything below `root`, the project's folder.

    Args:
        root: where metrics/, plots/ and ablations/ lie.
        depths: those of the report, whatever else lies there.
        num_layers: the depth under study.
        baseline: the depth to compare with.
        data: the `data` section of params.yaml, for what the runs do not record themselves.
        planned: which files of part 2 there must be.

    Raises:
        UserError: a file is missing or damaged or contradicts another, or a depth is not among the results.
    """
    results = load_results(depths, root / "metrics", root / "plots/curves")
    results = load_diagnoses(results, root / "metrics/diagnostics")
    grown = load_grown(results, root / "metrics/expand", root / "plots/expand")
    by_depth = {result.num_layers: result for result in results}
    studied = _find(by_depth, num_layers, "model.num_layers")
    part_two = load_part_two(root, planned, studied.about["data_sha256"])
    ablations = load_ablations(root / "ablations/results.json")
    changed = [*(part_two.recipes or groups_of(ablations, studied, by_depth))]
    order = list(dict.fromkeys(str(group.changes) for group in changed))
    otherwise = {f"data.{name}": value for name, value in data.items()}
    otherwise |= {name: off for name, (_, off) in STUDY_SWITCHES.items()}
    recorded = studied.parameters
    parameters = {
        name: recorded.get(name, recorded.get(name.rpartition(".")[2], otherwise.get(name, "not recorded")))
        for name in STUDY_DATA | STUDY_TRAINING | STUDY_SWITCHES
    }
    return Study(
        depths=by_depth,
        studied=studied,
        baseline=_find(by_depth, baseline, "study.baseline_num_layers"),
        grown=grown,
        changed=sorted(changed, key=lambda group: (order.index(str(group.changes)), group.num_layers)),
        part_two=part_two,
        data=load_training_data(root / "metrics/data.json"),
        window=int(data["window"]),
        data_deviations=_deviations(STUDY_DATA, parameters),
        training_deviations=_deviations(STUDY_TRAINING | STUDY_SWITCHES, parameters) + _coverage(results, parameters),
        parameters=parameters,
        commands={one.name: one.command for one in ablations} if changed and not part_two.recipes else {},
        left_out=[] if part_two.recipes else left_out(ablations, studied, by_depth),
    )


def best_of(groups: Mapping[int, Group], name: str = "val_ppl") -> Group:
    """The lowest mean of a figure; the first of equals."""
    return min(groups.values(), key=lambda group: group.mean(name))


def against(
    groups: Mapping[int, Group], reference: Group, name: str = "val_ppl", expected: float = 0.0
) -> dict[int, Difference]:
    """A figure of every other group minus that of one, tested against `expected`: one family, by the groups' keys."""
    others = [key for key, group in groups.items() if group is not reference]
    values = reference.values(name)
    return dict(zip(others, family([(groups[key].values(name), values) for key in others], expected), strict=True))


def not_worse(groups: Mapping[int, Group], best: Group) -> list[int]:
    """The best, and all that are not shown to be worse (adjusted p >= 0.05, or no test); in the groups' order."""
    worse = {key for key, test in against(groups, best).items() if test.above}
    return [key for key in groups if key not in worse]


@dataclass(frozen=True)
class Growth:
    """A pattern's validation perplexity minus that of its base and of the two controls, where there are those."""

    base: Difference
    longer: Difference | None
    scratch: Difference | None

    @property
    def gains(self) -> bool:
        """Whether growing is shown to gain more than training longer does."""
        return self.longer is not None and self.longer.below and self.base.below


def growth(study: Study) -> dict[tuple[int, str], Growth]:
    """By depth and pattern.

    Seed by seed where both began from the same weights (Student's interval and test); of and from `scratch`, which
    began from nothing, by Welch's. What is compared with the same thing is a family.
    """
    found = {(group.num_layers, group.name): group for group in study.grown}
    grown = [key for key in found if key[1] in PATTERNS[:2]]

    def compared(pairs: Mapping[tuple[int, str], Group | None]) -> dict[tuple[int, str], Difference]:
        known = {key: other for key, other in pairs.items() if other}
        samples = [(found[key].values("val_ppl"), other.values("val_ppl")) for key, other in known.items()]
        paired = ["scratch" not in (key[1], other.name) for key, other in known.items()]
        return dict(zip(known, family(samples, paired=paired), strict=True))

    base = compared({key: study.depths[key[0]] for key in found})
    longer, scratch = (compared({key: found.get((key[0], name)) for key in grown}) for name in PATTERNS[2:])
    return {key: Growth(base[key], longer.get(key), scratch.get(key)) for key in found}


def learning_curves(groups: Iterable[Group]) -> pd.DataFrame:
    """One row a depth and epoch: means over the seeds that trained in that epoch, and the extremes of perplexity.

    A seed that stopped early takes no part in later epochs, so that no value is invented; `num_seeds` says how many
    are left, and a step in the mean where it falls is a change of company, not of a model. `val_ppl` is the mean of
    the seeds' perplexities. Losses in nats.
    """
    rows = pd.concat([group.curve for group in groups])
    return rows.groupby(["num_layers", "epoch"], as_index=False).agg(
        num_seeds=("seed", "size"),
        val_ppl=("val_ppl", "mean"),
        val_ppl_min=("val_ppl", "min"),
        val_ppl_max=("val_ppl", "max"),
        train_loss=("train_loss", "mean"),
        val_loss=("val_loss", "mean"),
        val_accuracy=("val_accuracy", "mean"),
    )


def perplexity_by_depth(groups: Iterable[Group]) -> pd.DataFrame:
    """One row a depth: mean perplexities with the bounds of their 95 % intervals (None for one seed)."""
    rows = []
    for group in groups:
        row = {"num_layers": group.num_layers, "num_params": group.num_params, "num_seeds": len(group.seeds)}
        for name in ("val_ppl", "test_ppl"):
            estimate = group.estimate(name)
            row |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}  # type: ignore[dict-item]
        rows.append(row | {"val_accuracy": group.mean("val_accuracy")})
    return pd.DataFrame(rows)


def plateau_epochs(group: Group) -> list[int]:
    """Of every seed, the epochs before validation perplexity first falls below 60; all its epochs if it never does."""
    if "plateau_epochs" in group.seeds:
        return [int(epochs) for epochs in group.seeds["plateau_epochs"]]
    left = [rows.loc[rows["val_ppl"] < PLATEAU_PPL, "epoch"] for rows in group.curves()]
    return [
        int(epochs.min()) - 1 if len(epochs) else int(run)
        for epochs, run in zip(left, group.seeds["epochs_run"], strict=True)
    ]


def results_table(study: Study) -> pd.DataFrame:
    """One row a recipe, depth, seed and split, and one for each trial of a search; docs/results.md has the columns."""
    two = study.part_two
    groups = [*study.depths.values(), *study.grown, *study.changed, *two.tuned.values(), *two.equal.values()]
    rows = [row for group in [*groups, *two.lstm.values()] for row in _rows(group)]
    trials = [row for depth, search in two.tuning.items() for row in _trial_rows("trial", depth, search.trials)]
    trials += [row for search in two.lstm_searches.values() for row in _trial_rows("lstm trial", 1, search.trials)]

    return pd.DataFrame(rows + trials, dtype=object)  # as they are: integers stay integers beside missing ones


def _rows(group: Group) -> Iterable[dict[str, Any]]:
    def known(seed: Mapping[str, Any], name: str) -> Any:
        value = seed.get(name)
        return None if pd.isna(value) else value

    sizes = {name: group.parameters.get(f"model.{name}") for name in ("hidden_size", "context_dim")}
    about = {name: group.about.get(name) for name in ("device", "precision", "torch_version", "git_commit")}
    about |= {"git_dirty": group.about.get("git_dirty"), "data_sha256": group.about.get("data_sha256")}
    settings = "; ".join(f"{name}={value}" for name, value in group.changes.items()) or None
    model = {"kind": group.kind, "recipe": group.name, "settings": settings, "num_layers": group.num_layers}
    for seed, plateau, energy in zip(
        group.rows(), _plateau(group), _joules(group), strict=True
    ):  # fmt: skip
        run = {name: known(seed, name) for name in ("best_epoch", "epochs_run", "stopped_early", "ended")}
        run |= {"plateau_epochs": plateau, "seconds": known(seed, "train_seconds"), "joules": energy}
        run |= {"tokens_per_second": known(seed, "tokens_per_second")}
        for split, name in (("train", ""), ("validation", "val"), ("test", "test")):
            figures = {key: known(seed, f"{name}_{key}") for key in ("loss", "ppl", "accuracy")}
            if split == "train":
                figures["loss"] = known(seed, "train_loss_without_dropout")
            figures["loss_with_dropout"] = known(seed, "train_loss") if split == "train" else None
            figures["ppl_without_unk"] = known(seed, f"{name}_ppl_without_unk")
            params = {"num_params": group.num_params, **sizes}
            yield {**model, **params, "seed": seed["seed"], "split": split, **figures, **run, **about}


def _trial_rows(kind: str, depth: int, trials: Sequence[Any]) -> Iterable[dict[str, Any]]:
    for trial in trials:
        settings = "; ".join(f"{name}={value}" for name, value in trial.recipe.model_dump().items())
        ended = "pruned" if trial.pruned else trial.ended
        yield {
            "kind": kind, "recipe": f"trial {trial.number}", "settings": settings, "num_layers": depth,
            "seed": trial.seed, "split": "validation", "loss": trial.val_loss, "ppl": trial.val_ppl,
            "best_epoch": trial.best_epoch, "epochs_run": trial.epochs_run, "ended": ended,
            "seconds": trial.train_seconds,
        }  # fmt: skip


def _plateau(group: Group) -> Sequence[int | None]:
    return plateau_epochs(group) if len(group.curve) or "plateau_epochs" in group.seeds else [None] * len(group.seeds)


def _joules(group: Group) -> Sequence[float | None]:
    if not len(group.curve):
        return [None] * len(group.seeds)
    return [None if rows["joules"].isna().any() else float(rows["joules"].sum()) for rows in group.curves()]


def _find(results: Mapping[int, Group], depth: int, parameter: str) -> Group:
    if depth in results:
        return results[depth]
    raise UserError(
        f"parameter {parameter}: found {depth}, which is not among the depths of this report "
        f"({', '.join(map(str, results))}); set it to one of them, or add {depth} to the sweep in dvc.yaml, under vars "
        f"and in the foreach of train, and run `dvc repro`"
    )


def _deviations(study: Mapping[str, tuple[str, object]], parameters: Mapping[str, Any]) -> list[str]:
    return [
        f"{words} {parameters[name]} instead of {prescribed}"
        for name, (words, prescribed) in study.items()
        if parameters[name] != prescribed
    ]


def _coverage(results: Sequence[Group], parameters: Mapping[str, Any]) -> list[str]:
    """What the results lack: seeds, depths, and epochs that were asked for and did not run."""
    found = []
    epochs = parameters["train.epochs"]
    runs = pd.concat([group.seeds for group in results])
    short = runs.loc[~runs["stopped_early"] & (runs["epochs_run"] != epochs), "epochs_run"]
    if len(short) and isinstance(epochs, int):
        found.append(
            f"epochs {int(short.min())} or more instead of {epochs}, without an early stop, in {len(short)} of "
            f"{len(runs)} runs"
        )
    if len(results[0].seeds) < STUDY_NUM_SEEDS:
        found.append(f"seeds a depth {len(results[0].seeds)} instead of {STUDY_NUM_SEEDS}")
    missing = sorted(set(STUDY_DEPTHS) - {group.num_layers for group in results})
    return found + ([f"depths not trained: {', '.join(map(str, missing))}"] if missing else [])
