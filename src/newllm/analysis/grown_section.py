"""The report's section on grown contexts, in Markdown."""

from collections.abc import Mapping, Sequence

from newllm.analysis.expansion import (
    GROWING,
    Change,
    Grown,
    against_base,
    against_longer,
    against_scratch,
    of_pattern,
)
from newllm.analysis.markdown import cell, listed, number, p_value, table
from newllm.analysis.statistics import SIGNIFICANCE
from newllm.measurement.intervals import mean_interval

Changes = Mapping[tuple[int, str], Change]
BETTER, WORSE, NOT_SHOWN = "better than", "worse than", "no difference shown from"


def grown_section(grown: Sequence[Grown]) -> str:
    """Every pattern beside its base and the controls, and a paragraph a depth of what follows."""
    families = against_base(grown), against_longer(grown), against_scratch(grown)
    header = ["layers", "pattern", "context", "parameters", "val loss before the first step", "base’s val loss"]
    header += ["best val PPL", "test PPL", "− base", "− longer", "− scratch", "best epoch", "epochs run"]
    rows = []
    for num_layers in _depths(grown):
        rows.append(_base_row(next(one for one in grown if one.num_layers == num_layers)))
        for one in grown:
            if one.num_layers == num_layers:
                key = (one.num_layers, one.pattern)
                changes = [_change(family.get(key)) for family in families]
                epochs = [_span(one.over_seeds(name)) for name in ("best_epoch", "epochs_run")]
                rows.append([*_grown_row(one), *changes, *epochs])
    trainings = (
        "`freeze` and `finetune` grow the context of the best models of a depth and train the new weights alone, or "
        "all; `longer` trains the same models further without growing, `scratch` fresh ones of the grown size. "
        f"{_lengths(grown)} What goes on from a model takes over its weights alone: Adam’s moments are zero at first, "
        "and gradient clipping begins again with that of the first epoch. The start itself counts as no epoch: where a "
        "seed ends above its base, none of its epochs was as good as its start."
    )
    differences = (
        "Losses in nats; epochs are the lowest and the highest of the seeds. Differences of validation perplexity from "
        "the base and from `longer` are taken seed by seed, since both begin from the same weights; of and from "
        "`scratch` by Welch’s method. The 95 % intervals are of one comparison each, while p-values are corrected by "
        f"Holm’s method, a column being a family: an interval can exclude 0 although p is not below {SIGNIFICANCE:g}."
    )
    followings = [_following(grown, num_layers, families) for num_layers in _depths(grown)]
    return "\n\n".join(
        [trainings, table(header, rows, texts=["pattern"]), differences, *followings, _trained_with(grown)]
    )


def _lengths(grown: Sequence[Grown]) -> str:
    """How long the trainings were: early stopping makes them unequal."""
    seeds = [seed for one in grown for seed in one.seeds]
    stopped = [seed.epochs_run for seed in seeds if seed.stopped_early]
    rest = [seed.epochs_run for seed in seeds if not seed.stopped_early]
    if not stopped:
        return f"Each training ran for all {_span(rest)} epochs."
    others = f"; the others ran for all {_span(rest)}" if rest else ""
    return (
        f"They are not trained equally long: early stopping ended {len(stopped)} of {len(seeds)} trainings, after "
        f"{_span(stopped)} epochs{others}."
    )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):g}" if min(values) == max(values) else f"{min(values):g}–{max(values):g}"


def _trained_with(grown: Sequence[Grown]) -> str:
    """Provenance; files of old do not have all of it."""
    parts = []
    for run in (one.run for one in grown):
        version = "torch of unknown version" if run.torch_version is None else f"torch {run.torch_version}"
        unknown = f"commit unknown ({run.git_problem})" if run.git_problem else "commit unknown"
        commit = unknown if run.git_commit is None else f"commit {run.git_commit[:12]}"
        parts.append(f"{run.device}, {version}, {commit}{' with changes' if run.git_dirty else ''}")
    return f"Trained with: {cell('; '.join(dict.fromkeys(parts)))}."


def _depths(grown: Sequence[Grown]) -> list[int]:
    return sorted({one.num_layers for one in grown})


def _base_row(one: Grown) -> list[str]:
    base = one.base
    context = str(base.runs.parameters.get("model.context_dim", "–"))
    figures = [number(mean_interval(base.over_seeds(name))) for name in ("val_ppl", "test_ppl")]
    return [str(base.num_layers), "base", context, f"{base.metrics.num_params:,}", "–", "–", *figures, *["–"] * 5]


def _grown_row(one: Grown) -> list[str]:
    losses = [f"{mean_interval(one.over_seeds(name)).mean:.4f}" for name in ("start_val_loss", "base_val_loss")]
    figures = [number(mean_interval(one.over_seeds(name))) for name in ("val_ppl", "test_ppl")]
    return [str(one.num_layers), f"`{one.pattern}`", str(one.run.context_dim), f"{one.num_params:,}", *losses, *figures]


def _change(change: Change | None) -> str:
    if change is None:
        return "–"
    p = "" if change.adjusted_p is None else f" (p {p_value(change.adjusted_p)})"
    return number(change.difference, signed=True) + p


def _following(grown: Sequence[Grown], num_layers: int, families: tuple[Changes, Changes, Changes]) -> str:
    sentences = [f"**Depth {num_layers}.**"]
    moved = [
        abs(start - base)
        for one in grown
        if one.num_layers == num_layers and one.pattern in GROWING
        for start, base in zip(one.over_seeds("start_val_loss"), one.over_seeds("base_val_loss"), strict=True)
    ]
    if moved:
        distance = f"within {max(moved):.1g} nats of" if max(moved) else "exactly at the loss of"
        sentences.append(f"Before the first step a grown model is {distance} its base.")
    for pattern in ("longer", "scratch", *GROWING):
        if of_pattern(grown, num_layers, pattern) is not None:
            sentences.append(_beside_the_others(num_layers, pattern, families))
    sentences.append(_worth(num_layers, *families[:2]))
    return " ".join(sentences)


def _beside_the_others(num_layers: int, pattern: str, families: tuple[Changes, Changes, Changes]) -> str:
    names: dict[str, list[str]] = {}
    for name, changes in zip(("the base", "`longer`", "`scratch`"), families, strict=True):
        if (num_layers, pattern) in changes:
            names.setdefault(_verdict(changes[num_layers, pattern]), []).append(name)
    return f"`{pattern}`: {'; '.join(f'{verdict} {listed(found)}' for verdict, found in names.items())}."


def _worth(num_layers: int, base: Changes, longer: Changes) -> str:
    """What growing is worth beyond the longer training that comes with it: better than a control that got worse is not.

    Args:
        num_layers: depth.
        base: changes against the base, of `longer` too.
        longer: changes of the grown models against `longer`.
    """
    found = [pattern for pattern in GROWING if (num_layers, pattern) in longer]
    if not found:
        return "Without `longer` there is no telling growth from longer training."
    ahead = [pattern for pattern in found if _verdict(longer[num_layers, pattern]) == BETTER]
    gaining = [pattern for pattern in ahead if _verdict(base[num_layers, pattern]) == BETTER]
    sentences = [
        f"`{pattern}` ends better than `longer`, but is not shown to be better than the base that it started from."
        for pattern in ahead
        if pattern not in gaining
    ]
    if sentences:
        own = {BETTER: "gained, too", WORSE: "ended worse than that base", NOT_SHOWN: "is not shown to gain anything"}
        sentences.append(f"`longer` {own[_verdict(base[num_layers, 'longer'])]}.")
    if gaining:
        names = listed([f"`{pattern}`" for pattern in gaining])
        sentences.append(f"So growing by {names} gains more than training longer does.")
    elif ahead:
        sentences.append("So growing is not shown to gain anything.")
    else:
        sentences.append("So growing is not shown to gain anything that training longer does not.")
    return " ".join(sentences)


def _verdict(change: Change) -> str:
    if change.adjusted_p is None or change.adjusted_p >= SIGNIFICANCE:
        return NOT_SHOWN
    return BETTER if change.difference.mean < 0 else WORSE
