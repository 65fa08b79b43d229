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
from newllm.analysis.markdown import cell, listed, number, p_value, table
from newllm.analysis.overfitting import plateau_epochs, worse_and_deeper
from newllm.analysis.statistics import SIGNIFICANCE, mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements

Changes = Mapping[tuple[int, str], Change]


def grown_section(grown: Sequence[Grown]) -> str:
    """Every pattern beside its base and the controls, and a sentence a depth of what follows."""
    base, longer, scratch = against_base(grown), against_longer(grown), against_scratch(grown)
    header = ["layers", "pattern", "context", "parameters", "val loss at the start", "of the base", "best val PPL"]
    header += ["test PPL", "− base", "− longer", "− scratch"]
    rows = []
    for num_layers in _depths(grown):
        rows.append(_base_row(next(one for one in grown if one.num_layers == num_layers)))
        for one in grown:
            if one.num_layers == num_layers:
                key = (one.num_layers, one.pattern)
                rows.append([*_grown_row(one), *(_change(changes.get(key)) for changes in (base, longer, scratch))])
    text = (
        "`freeze` and `finetune` grow the context of the best models of a depth and train the new weights alone, or "
        "all; `longer` trains the same models as long without growing, `scratch` fresh ones of the grown size. Losses "
        "in nats. Differences of validation perplexity with 95 % intervals: from the base and from `longer` seed by "
        "seed, since both begin from the same weights; from `scratch` by Welch’s method. P-values by Holm’s method, a "
        "column being a family."
    )
    followings = [_following(grown, num_layers, (base, longer, scratch)) for num_layers in _depths(grown)]
    return "\n\n".join([text, table(header, rows), *followings])


def _depths(grown: Sequence[Grown]) -> list[int]:
    return sorted({one.num_layers for one in grown})


def _base_row(one: Grown) -> list[str]:
    base = one.base
    context = str(base.runs.parameters.get("model.context_dim", "–"))
    figures = [number(mean_interval(base.over_seeds(name))) for name in ("val_ppl", "test_ppl")]
    return [str(base.num_layers), "base", context, f"{base.metrics.num_params:,}", "–", "–", *figures, "–", "–", "–"]


def _grown_row(one: Grown) -> list[str]:
    losses = [f"{mean_interval(one.over_seeds(name)).mean:.4f}" for name in ("start_val_loss", "base_val_loss")]
    figures = [number(mean_interval(one.over_seeds(name))) for name in ("val_ppl", "test_ppl")]
    return [str(one.num_layers), f"`{one.pattern}`", str(one.context_dim), f"{one.num_params:,}", *losses, *figures]


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
    for pattern in ("longer", *GROWING):
        if of_pattern(grown, num_layers, pattern) is None:
            continue
        names = ("the base", "`longer`", "`scratch`")
        found = [(name, changes.get((num_layers, pattern))) for name, changes in zip(names, families, strict=True)]
        parts = [f"{_verdict(change)} {name}" for name, change in found if change is not None]
        sentences.append(f"`{pattern}` is {'; '.join(parts)}.")
    sentences.append(_worth(num_layers, families[1]))
    return " ".join(filter(None, sentences))


def _worth(num_layers: int, longer: Changes) -> str:
    """What growing is worth beyond the longer training that comes with it."""
    found = {pattern: longer[num_layers, pattern] for pattern in GROWING if (num_layers, pattern) in longer}
    if not found:
        return "Without `longer` there is no telling growth from longer training."
    better = [f"`{pattern}`" for pattern, change in found.items() if _verdict(change) == "better than"]
    if better:
        return f"So growing by {listed(better)} gains more than training longer does."
    return "So growing is not shown to gain anything that training longer does not."


def _verdict(change: Change) -> str:
    if change.adjusted_p is None or change.adjusted_p >= SIGNIFICANCE:
        return "not to be told from"
    return "better than" if change.difference.mean < 0 else "worse than"


def ablations_section(comparison: Comparison, supplements: Supplements) -> str:
    """Every changed depth beside the study's own, and what that says of claim 6."""
    found = effects(comparison, supplements.ablations)
    parts = []
    if found:
        header = ["change", "layers", "val PPL", "the study’s", "difference", "adjusted p", "test PPL"]
        header += ["train loss − the study’s", "best epoch", "plateau in epochs", "the study’s"]
        parts.append(
            "Runs of some depths with one switch changed and all else as in the study, against the study’s own runs of "
            "the same depth: Welch’s 95 % intervals, p-values by Holm’s method over the table. Training loss with "
            "dropout, at the best epoch, in nats."
        )
        parts.append(table(header, [_effect_row(comparison, effect) for effect in found]))
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
    return [
        cell(effect.ablation.words),
        str(depth.num_layers),
        number(mean_interval(depth.over_seeds("val_ppl"))),
        number(mean_interval(own.over_seeds("val_ppl"))),
        number(effect.val_ppl, signed=True),
        p_value(effect.adjusted_p).removeprefix("= "),
        number(mean_interval(depth.over_seeds("test_ppl"))),
        number(effect.train_loss, signed=True, decimals=3),
        f"{mean_interval(depth.over_seeds('best_epoch')).mean:.1f}",
        f"{mean_interval(depth.over_seeds('plateau_epochs')).mean:.1f}",
        f"{mean_interval([float(epochs) for epochs in plateau_epochs(own)]).mean:.1f}",
    ]


def _on_claim_six(comparison: Comparison, found: Sequence[Effect]) -> str:
    """If a change lets a deep model fit the training text better, and others with it, it had not fitted it too well."""
    asked = set(worse_and_deeper(comparison))
    sentences = [_of_change(words, [e for e in found if e.ablation.words == words]) for words in _words(found)]
    helped = [effect for effect in found if effect.is_better and effect.depth.num_layers in asked]
    if not asked & {effect.depth.num_layers for effect in found}:
        sentences.append("None of these depths is shown to be worse than the best: this says nothing on claim 6.")
    elif not helped:
        sentences.append(
            "At the deep depths that are worse no change is shown to help: this says nothing for or against claim 6."
        )
    else:
        shown = listed([f"{effect.depth.num_layers} ({cell(effect.ablation.words)})" for effect in helped])
        fitted = all(effect.train_loss.excludes_zero and effect.train_loss.mean < 0 for effect in helped)
        meaning = (
            "and training loss with it: what is won there had not been lost to overfitting, but to fitting too little"
            if fitted
            else "but training loss is not shown to fall with it everywhere, so that this does not decide between "
            "overfitting and fitting too little"
        )
        sentences.append(
            f"**On claim 6**: a change that takes no capacity away lowers perplexity at depth {shown}, {meaning}."
        )
    return " ".join(sentences)


def _words(found: Sequence[Effect]) -> list[str]:
    return list(dict.fromkeys(effect.ablation.words for effect in found))


def _of_change(words: str, found: Sequence[Effect]) -> str:
    better = [effect.depth.num_layers for effect in found if effect.is_better]
    worse = [effect.depth.num_layers for effect in found if effect.is_worse]
    rest = [effect.depth.num_layers for effect in found if not (effect.is_better or effect.is_worse)]
    parts = [
        f"{what} at depth {listed(depths)}"
        for what, depths in (("better", better), ("worse", worse), ("no difference shown", rest))
        if depths
    ]
    return f"{cell(words[0].upper() + words[1:])}: {', '.join(parts)}."
