"""The study as a whole: what was found, how it differs from the specification, and one tidy table of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis import records
from newllm.analysis.formats import settings
from newllm.analysis.inference import Answer, Difference, answer, compare
from newllm.analysis.published import STUDY_DATA, STUDY_DEPTHS, STUDY_NUM_SEEDS, STUDY_SWITCHES, STUDY_TRAINING
from newllm.analysis.records import PATTERNS, Group
from newllm.analysis.schemas import Search, TrainingData
from newllm.config import Config
from newllm.errors import UserError

MODEL = ["kind", "recipe", "settings", "num_layers", "num_params", "hidden_size", "context_dim", "seed"]
FIGURES = ["split", "loss", "ppl", "accuracy", "loss_with_dropout", "ppl_without_unk"]
RUN = ["best_epoch", "epochs_run", "stopped_early", "ended", "plateau_epochs", "seconds", "joules", "tokens_per_second"]
ABOUT = ["device", "precision", "torch_version", "git_commit", "git_dirty", "data_sha256"]


@dataclass(frozen=True)
class Study:
    """All that was found; a deviation says in words what differs from the specification."""

    depths: Mapping[int, Group]  # of the study's own recipe, shallowest first
    studied: Group  # model.num_layers
    baseline: Group  # study.baseline_num_layers
    grown: Sequence[Group]  # grown contexts and their controls
    changed: Sequence[Group]  # the study's recipe with a change
    tuning: Mapping[int, Search]  # by depth
    tuned: Mapping[int, Group]  # by depth, each with its own recipe
    equal: Mapping[int, Group]  # the same at the hidden size that gives equal parameters
    lstm: Mapping[int, Group]  # by hidden size
    lstm_searches: Mapping[int, Search]
    data: TrainingData
    window: int  # in tokens
    data_deviations: Sequence[str]  # of text or prediction task: the published points are of something else
    training_deviations: Sequence[str]  # of model, training, seeds or depths
    parameters: Mapping[str, Any]  # by dotted name, all that the specification prescribes; or “not recorded”

    @cached_property
    def answer(self) -> Answer:
        """Which depth is best, by Welch's tests alone."""
        return answer(self.depths, exact=False)

    @property
    def best(self) -> Group:
        """The depth of the lowest mean validation perplexity; the shallowest of equals."""
        return self.answer.best

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

    @property
    def groups(self) -> list[Group]:
        """Everything that was trained and kept, the study's own depths first."""
        trained = [*self.depths.values(), *self.grown, *self.changed]
        return [*trained, *self.tuned.values(), *self.equal.values(), *self.lstm.values()]


def load_study(root: Path, depths: Iterable[int], config: Config) -> Study:
    """Reads and checks everything of these depths below `root`, the project's folder, whatever else lies there.

    `config`, from params.yaml, says what is studied, which files of part 2 there must be, and what runs do not record.

    Raises:
        UserError: a file is missing or damaged or contradicts another, or a depth is not among the results.
    """
    results = records.load_diagnoses(records.load_results(depths, root), root)
    by_depth = {result.num_layers: result for result in results}
    num_layers, baseline = config.model.num_layers, config.study.baseline_num_layers
    for parameter, depth in (("model.num_layers", num_layers), ("study.baseline_num_layers", baseline)):
        if depth not in by_depth:
            raise UserError(
                f"parameter {parameter}: found {depth}, which is not among the depths of this report "
                f"({', '.join(map(str, by_depth))}); set it to one of them, or add {depth} to the sweep in dvc.yaml, "
                f"under vars and in the foreach of train, and run `dvc repro`"
            )
    studied, tuned, sizes = by_depth[num_layers], config.search.depths, config.lstm.hidden_sizes
    equal = sorted((int(depth), size) for depth, size in config.search.equal_parameters.items())
    confirmed = partial(records.load_confirmed, root, data_sha256=studied.about["data_sha256"])
    changed = [confirmed("recipes", name) for name in config.recipes]
    order = list(dict.fromkeys(str(group.changes) for group in changed))
    otherwise = {f"data.{name}": value for name, value in config.data}
    otherwise |= {name: off for name, (_, off) in STUDY_SWITCHES.items()}
    recorded = studied.parameters
    parameters = {
        name: recorded.get(name, recorded.get(name.rpartition(".")[2], otherwise.get(name, "not recorded")))
        for name in STUDY_DATA | STUDY_TRAINING | STUDY_SWITCHES
    }
    return Study(
        depths=by_depth,
        studied=studied,
        baseline=by_depth[baseline],
        grown=records.load_grown(results, root),
        changed=sorted(changed, key=lambda group: (order.index(str(group.changes)), group.num_layers)),
        tuning={depth: records.load_search(root, "tuning", depth, "tuning", depth) for depth in tuned},
        tuned={depth: confirmed("tuned", depth, num_layers=depth) for depth in tuned},
        equal={depth: confirmed("equal", depth, num_layers=depth, hidden_size=size) for depth, size in equal},
        lstm={size: confirmed("lstm", size, hidden_size=size) for size in sizes},
        lstm_searches={size: records.load_search(root, "lstm", size, "details", 1) for size in sizes},
        data=records.load_training_data(root),
        window=config.data.window,
        data_deviations=_deviations(STUDY_DATA, parameters),
        training_deviations=_deviations(STUDY_TRAINING | STUDY_SWITCHES, parameters) + _coverage(results, parameters),
        parameters=parameters,
    )


def _deviations(study: Mapping[str, tuple[str, object]], parameters: Mapping[str, Any]) -> list[str]:
    pairs = {words: (parameters[name], prescribed) for name, (words, prescribed) in study.items()}
    return [f"{words} {found} instead of {expected}" for words, (found, expected) in pairs.items() if found != expected]


def _coverage(results: Sequence[Group], parameters: Mapping[str, Any]) -> list[str]:
    """What the results lack: seeds, depths, and epochs that were asked for and did not run."""
    found = []
    epochs, num_seeds = parameters["train.epochs"], len(results[0].seeds)
    runs = pd.concat([group.seeds for group in results])
    short = runs.loc[~runs["stopped_early"] & (runs["epochs_run"] != epochs), "epochs_run"]
    if len(short) and isinstance(epochs, int):
        runs_of = f"without an early stop, in {len(short)} of {len(runs)} runs"
        found.append(f"epochs {short.min()} or more instead of {epochs}, {runs_of}")
    if num_seeds < STUDY_NUM_SEEDS:
        found.append(f"seeds a depth {num_seeds} instead of {STUDY_NUM_SEEDS}")
    missing = sorted(set(STUDY_DEPTHS) - {group.num_layers for group in results})
    return found + ([f"depths not trained: {', '.join(map(str, missing))}"] if missing else [])


def by_change(groups: Iterable[Group]) -> dict[str, dict[int, Group]]:
    """Change in words → depth → changed recipe."""
    found: dict[str, dict[int, Group]] = {}
    for group in groups:
        found.setdefault(settings(group.changes), {})[group.num_layers] = group
    return found


def families(groups: Iterable[Group]) -> dict[str, dict[int, Group]]:
    """The changes of one thing that were tried at three depths or more; all changes, if there are no such."""
    every = by_change(groups)
    many = {name: depths for name, depths in every.items() if len(depths) > 2}
    return {
        name: depths for name, depths in many.items() if all(len(one.changes) == 1 for one in depths.values())
    } or every


def spread(groups: Iterable[Group]) -> float:
    """How far apart the mean validation perplexities are; 0 of none."""
    means = [group.mean("val_ppl") for group in groups] or [0.0]
    return max(means) - min(means)


def growth(study: Study) -> dict[str, dict[tuple[int, str], Difference]]:
    """Validation perplexity by depth and pattern minus that of the `base`, and of the controls `longer` and `scratch`.

    Seed by seed where both began from the same weights (Student's interval and test); of and from `scratch`, which
    began from nothing, by Welch's. What is compared with the same thing is a family.
    """
    models = {(group.num_layers, group.name): group for group in study.grown}
    others = models | {(depth, "base"): group for depth, group in study.depths.items()}
    tests = {}
    for name in ("base", *PATTERNS[2:]):
        compared = [key for key in models if (name == "base" or key[1] in PATTERNS[:2]) and (key[0], name) in others]
        pairs = {key: (models[key], others[key[0], name]) for key in compared}
        tests[name] = compare(pairs, paired=["scratch" not in (key[1], name) for key in pairs])
    return tests


def gaining(study: Study) -> list[tuple[int, str]]:
    """Depths and patterns of which growing is shown to gain more than training longer does."""
    tests = growth(study)
    return [key for key, test in tests["longer"].items() if test.below and tests["base"][key].below]


def learning_curves(groups: Iterable[Group]) -> pd.DataFrame:
    """One row a depth and epoch: means over the seeds that trained in that epoch, and the extremes of perplexity.

    A seed that stopped early takes no part in later epochs, so that no value is invented; `num_seeds` says how many
    are left, and a step in the mean where it falls is a change of company, not of a model. `val_ppl` is the mean of
    the seeds' perplexities. Losses in nats.
    """
    rows = pd.concat([group.curve for group in groups])
    extremes = {f"val_ppl_{which}": ("val_ppl", which) for which in ("min", "max")}
    means = {name: (name, "mean") for name in ("train_loss", "val_loss", "val_accuracy")}
    by_epoch = rows.groupby(["num_layers", "epoch"], as_index=False)
    return by_epoch.agg(num_seeds=("seed", "size"), val_ppl=("val_ppl", "mean"), **extremes, **means)


def perplexity_by_depth(groups: Iterable[Group]) -> pd.DataFrame:
    """One row a depth: mean perplexities with the bounds of their 95 % intervals (None for one seed)."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        rows.append({"num_layers": group.num_layers, "num_params": group.num_params, "num_seeds": len(group.seeds)})
        for name, one in ((name, group.estimate(name)) for name in ("val_ppl", "test_ppl")):
            rows[-1] |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
        rows[-1]["val_accuracy"] = group.mean("val_accuracy")
    return pd.DataFrame(rows)


def results_table(study: Study) -> pd.DataFrame:
    """One row a recipe, depth, seed and split, and one for each trial of a search; docs/results.md has the columns."""
    searches: list[tuple[str, int, Search]] = [("trial", *item) for item in study.tuning.items()]
    searches += [("lstm trial", 1, search) for search in study.lstm_searches.values()]
    rows = [row for group in study.groups for row in _rows(group)]
    for kind, depth, search in searches:
        for trial in search.trials:
            row: dict[str, Any] = {"kind": kind, "num_layers": depth, "split": "validation"}
            row |= trial.model_dump() | {"settings": _listed(trial.recipe.model_dump())}
            row |= {"loss": trial.val_loss, "ppl": trial.val_ppl, "seconds": trial.train_seconds}
            rows.append(row | {"recipe": f"trial {trial.number}", "ended": "pruned" if trial.pruned else trial.ended})
    # as they are: integers stay integers beside missing ones
    return pd.DataFrame(rows, columns=MODEL + FIGURES + RUN + ABOUT, dtype=object)


def _rows(group: Group) -> Iterator[dict[str, Any]]:
    sizes = {name: group.parameters.get(f"model.{name}") for name in ("hidden_size", "context_dim")}
    model = {"kind": group.kind, "recipe": group.name, "settings": _listed(group.changes), **sizes, **group.about}
    model |= {"num_layers": group.num_layers, "num_params": group.num_params}
    rows: list[Any] = group.seeds.to_dict("records")
    for seed in rows:
        run = {**model, **seed, "seconds": seed.get("train_seconds")}
        losses = {"loss": seed.get("train_loss_without_dropout"), "loss_with_dropout": seed.get("train_loss")}
        yield {**run, "split": "train", **losses}
        for split, name in (("validation", "val"), ("test", "test")):
            figures = {key: seed.get(f"{name}_{key}") for key in ("loss", "ppl", "accuracy", "ppl_without_unk")}
            yield {**run, "split": split, **figures}


def _listed(changes: Mapping[str, Any]) -> str | None:
    return "; ".join(f"{name}={value}" for name, value in changes.items()) or None
