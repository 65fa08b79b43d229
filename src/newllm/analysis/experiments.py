"""The report's sections on grown contexts and on ablations, in Markdown."""

from collections.abc import Mapping, Sequence

from newllm.analysis.ablation import Effect, effects, mismatch
from newllm.analysis.expansion import (
    GROWING,
    Change,
    Grown,
    against_base,
    against_longer,
    against_scratch,
    of_pattern,
)
from newllm.analysis.markdown import at_depths, cell, listed, number, p_value, table
from newllm.analysis.overfitting import plateau_epochs, worse_and_deeper
from newllm.analysis.statistics import SIGNIFICANCE, mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements

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
        commit = "commit unknown" if run.git_commit is None else f"commit {run.git_commit[:12]}"
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


def ablations_section(comparison: Comparison, supplements: Supplements) -> str:
    """Every changed depth beside the study's own, and what that says of claim 6."""
    found = effects(comparison, supplements.ablations, supplements.overfitting)
    parts = []
    if found:
        header = ["change", "layers", "val PPL", "the study’s", "difference", "adjusted p", "test PPL"]
        header += ["val loss − the study’s", "train loss − the study’s", "gap − the study’s"]
        header += ["best epoch", "plateau in epochs", "the study’s"]
        parts.append(
            "Runs of some depths with one switch changed and all else as in the study, against the study’s own runs of "
            "the same depth: Welch’s 95 % intervals, p-values by Holm’s method over the table. Losses at the best "
            "epoch, in nats; training loss on a fixed sample without dropout, gap is validation minus training loss."
        )
        parts.append(table(header, [_effect_row(comparison, effect) for effect in found], texts=["change"]))
        parts.append(
            " ".join(_of_change(words, [e for e in found if e.ablation.words == words]) for words in _words(found))
        )
        parts.append(_on_claim_six(comparison, found))
    for ablation in supplements.ablations:
        reason = mismatch(comparison, ablation)
        if reason:
            parts.append(f"Left out, not of this study: {cell(ablation.name)} ({cell(reason)}).")
        else:
            parts.append(f"{cell(ablation.name)}: `{cell(ablation.command)}`, commit {ablation.revision[:12]}.")
    return "\n\n".join(parts)


def _effect_row(comparison: Comparison, effect: Effect) -> list[str]:
    depth = effect.depth
    own = next(result for result in comparison.results if result.num_layers == depth.num_layers)
    measured = effect.parts and (effect.parts.train_loss.difference, effect.parts.gap.difference)
    return [
        cell(effect.ablation.words),
        str(depth.num_layers),
        number(mean_interval(depth.over_seeds("val_ppl"))),
        number(mean_interval(own.over_seeds("val_ppl"))),
        number(effect.val_ppl.difference, signed=True),
        p_value(effect.val_ppl.adjusted_p).removeprefix("= "),
        number(mean_interval(depth.over_seeds("test_ppl"))),
        number(effect.val_loss, signed=True, decimals=3),
        *([number(part, signed=True, decimals=3) for part in measured] if measured else ["not measured"] * 2),
        f"{mean_interval(depth.over_seeds('best_epoch')).mean:.1f}",
        f"{mean_interval(depth.over_seeds('plateau_epochs')).mean:.1f}",
        f"{mean_interval([float(epochs) for epochs in plateau_epochs(own)]).mean:.1f}",
    ]


def _on_claim_six(comparison: Comparison, found: Sequence[Effect]) -> str:
    """Depth by depth, whether what a change wins had been lost to fitting too little or to overfitting."""
    asked = set(worse_and_deeper(comparison))
    helped = [effect for effect in found if effect.val_ppl.below and effect.depth.num_layers in asked]
    if not asked & {effect.depth.num_layers for effect in found}:
        return "None of these depths is shown to be worse than the best: this says nothing on claim 6."
    if not helped:
        return "At the deep depths that are worse no change is shown to help: this says nothing for or against claim 6."
    changes = [_won(words, [effect for effect in helped if effect.ablation.words == words]) for words in _words(helped)]
    return " ".join(
        [
            "**On claim 6**: these changes take no capacity away. Where one lowers the perplexity of a depth that is "
            "deeper than the best and worse, validation loss falls by as much as training loss and gap together; which "
            "of them falls, and by more than the other, is tested as for the claim itself.",
            *changes,
        ]
    )


def _won(words: str, helped: Sequence[Effect]) -> str:
    """One change at the depths where it helps."""
    kinds: dict[str, list[int]] = {}
    for effect in helped:
        if effect.parts is None:
            kind = "training loss without dropout was not measured"
        elif effect.parts.is_fit:
            kind = "most of what is won is training loss, so that it had been lost to fitting too little"
        elif effect.parts.is_gap:
            kind = "most of what is won is gap, so that it had been lost to overfitting"
        else:
            kind = "it is undecided whether more training loss or more gap is won"
        kinds.setdefault(kind, []).append(effect.depth.num_layers)
    return f"{_title(words)}: {'; '.join(f'{at_depths(depths)} {kind}' for kind, depths in kinds.items())}."


def _words(found: Sequence[Effect]) -> list[str]:
    return list(dict.fromkeys(effect.ablation.words for effect in found))


def _title(words: str) -> str:
    return cell(words[0].upper() + words[1:])


def _of_change(words: str, found: Sequence[Effect]) -> str:
    better = [effect.depth.num_layers for effect in found if effect.val_ppl.below]
    worse = [effect.depth.num_layers for effect in found if effect.val_ppl.above]
    rest = [effect.depth.num_layers for effect in found if not (effect.val_ppl.below or effect.val_ppl.above)]
    parts = [
        f"{what} {at_depths(depths)}"
        for what, depths in (("better", better), ("worse", worse), ("no difference shown", rest))
        if depths
    ]
    return f"{_title(words)}: {', '.join(parts)}."
