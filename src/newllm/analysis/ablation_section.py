"""The report's section on ablations and the opening's words on them, in Markdown."""

from collections.abc import Callable, Iterable, Sequence

from newllm.analysis.ablation import Ablation, Effect, against_best, effects, mismatch
from newllm.analysis.markdown import at_depths, cell, depths_in_words, listed, number, p_value, plural, table
from newllm.analysis.overfitting import plateau_epochs, worse_and_deeper
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements

FIT = "most of what is won is training loss, so that it had been lost to fitting too little"
GAP = "most of what is won is gap, so that it had been lost to overfitting"


def ablations_in_short(comparison: Comparison, supplements: Supplements) -> Iterable[str]:
    """What the changes do at the depths that are deeper than the best and worse; nothing if there was no such run."""
    asked = set(worse_and_deeper(comparison))
    found = effects(comparison, supplements.ablations, supplements.overfitting)
    tried = [effect for effect in found if effect.depth.num_layers in asked]
    helped = [effect for effect in tried if effect.val_ppl.below]
    for own in _by_change(helped):
        depths, results = _depths(own), [_result(comparison, effect) for effect in own]
        spans = [
            _span([mean_interval(one.over_seeds("val_ppl")).mean for one in ones])
            for ones in ([effect.depth for effect in own], results)
        ]
        kinds = [f"{at_depths(_depths(of_kind))} {kind}" for kind, of_kind in _kinds(own) if kind in (FIT, GAP)]
        text = f"With {cell(own[0].ablation.words)} {depths_in_words(depths)} reach{'' if len(own) > 1 else 'es'} "
        yield f"{'; '.join([f'{text}{spans[0]} instead of {spans[1]}', *kinds])}."
    if helped:
        yield _beside_best(comparison, found)
    others = [own for own in _by_change(tried) if not any(effect.val_ppl.below for effect in own)]
    if others:
        named = [f"{cell(own[0].ablation.words)} {at_depths(_depths(own))}" for own in others]
        yield f"No gain is shown by {listed(named, 'or')}."


def ablations_section(comparison: Comparison, supplements: Supplements) -> str:
    """Every changed depth beside the study's own, and what that says of claim 6."""
    found = effects(comparison, supplements.ablations, supplements.overfitting)
    parts = []
    if found:
        header = ["change", "layers", "val PPL", "the study’s", "difference", "adjusted p", "test PPL"]
        header += ["val loss − the study’s", "train loss − the study’s", "gap − the study’s"]
        header += ["best epoch", "the study’s", "plateau in epochs", "the study’s"]
        parts.append(
            "Runs of some depths with a switch changed and all else as in the study, against the study’s own runs of "
            "the same depth: Welch’s 95 % intervals, p-values by Holm’s method over the table. Losses at the best "
            "epoch, in nats; training loss on a fixed sample without dropout, gap is validation minus training loss."
        )
        parts.append(table(header, [_row(comparison, effect) for effect in found], texts=["change"]))
        parts.append(" ".join([*map(_of_change, _by_change(found)), _beside_best(comparison, found)]))
        parts.append(_on_claim_six(comparison, found))
    parts += [_provenance(comparison, ablation) for ablation in supplements.ablations]
    return "\n\n".join(parts)


def _row(comparison: Comparison, effect: Effect) -> list[str]:
    depth, own = effect.depth, _result(comparison, effect)
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
        f"{mean_interval(own.over_seeds('best_epoch')).mean:.1f}",
        f"{mean_interval(depth.over_seeds('plateau_epochs')).mean:.1f}",
        f"{mean_interval([float(epochs) for epochs in plateau_epochs(own)]).mean:.1f}",
    ]


def _of_change(found: Sequence[Effect]) -> str:
    """One change's effects, in words."""
    outcomes: list[tuple[str, Callable[[Effect], bool]]] = [
        ("better", lambda effect: effect.val_ppl.below),
        ("worse", lambda effect: effect.val_ppl.above),
        ("no difference shown", lambda effect: not (effect.val_ppl.below or effect.val_ppl.above)),
    ]
    depths = {what: _depths([effect for effect in found if holds(effect)]) for what, holds in outcomes}
    return f"{_title(found)}: {', '.join(f'{what} {at_depths(own)}' for what, own in depths.items() if own)}."


def _beside_best(comparison: Comparison, found: Sequence[Effect]) -> str:
    """Whether any changed depth is better than the study's best, whatever its depth."""
    best = f"the study’s {plural(comparison.best.num_layers, 'layer')}"
    pairs = list(zip(found, against_best(comparison, found), strict=True))
    better = [f"{_name(effect)} ({number(pair.difference, signed=True)})" for effect, pair in pairs if pair.below]
    if better:
        return f"Better than {best}: {'; '.join(better)}."
    effect, lowest = min(pairs, key=lambda pair: pair[1].difference.mean)
    test = f"{number(lowest.difference, signed=True)}, Holm-corrected p {p_value(lowest.adjusted_p)}"
    return f"No run with a change is shown to be better than {best}; the closest: {_name(effect)} ({test})."


def _on_claim_six(comparison: Comparison, found: Sequence[Effect]) -> str:
    """Depth by depth, whether what a change wins had been lost to fitting too little or to overfitting."""
    asked = set(worse_and_deeper(comparison))
    helped = [effect for effect in found if effect.val_ppl.below and effect.depth.num_layers in asked]
    if not asked & {effect.depth.num_layers for effect in found}:
        return "None of these depths is shown to be worse than the best: this says nothing on claim 6."
    if not helped:
        return "At the deep depths that are worse no change is shown to help: this says nothing for or against claim 6."
    return " ".join(
        [
            "**On claim 6**: these changes take no capacity away. Where one lowers the perplexity of a depth that is "
            "deeper than the best and worse, validation loss falls by as much as training loss and gap together; which "
            "of them falls, and by more than the other, is tested as for the claim itself.",
            *map(_won, _by_change(helped)),
        ]
    )


def _won(helped: Sequence[Effect]) -> str:
    """One change at the depths where it helps."""
    return f"{_title(helped)}: {'; '.join(f'{at_depths(_depths(own))} {kind}' for kind, own in _kinds(helped))}."


def _kinds(helped: Sequence[Effect]) -> list[tuple[str, list[Effect]]]:
    """Where what is won had been lost, and the effects of which that holds."""
    kinds: dict[str, list[Effect]] = {}
    for effect in helped:
        if effect.parts is None:
            kind = "training loss without dropout was not measured"
        elif effect.parts.is_fit:
            kind = FIT
        elif effect.parts.is_gap:
            kind = GAP
        else:
            kind = "it is undecided whether more training loss or more gap is won"
        kinds.setdefault(kind, []).append(effect)
    return list(kinds.items())


def _provenance(comparison: Comparison, ablation: Ablation) -> str:
    reason = mismatch(comparison, ablation)
    if reason:
        return f"Left out, not of this study: {cell(ablation.name)} ({cell(reason)})."
    commit = "commit unknown" if ablation.git_commit is None else f"commit {ablation.git_commit[:12]}"
    state = " with changes" if ablation.git_dirty else ""
    return f"{cell(ablation.name)}: `{cell(ablation.command)}`, {cell(ablation.device)}, {commit}{state}."


def _by_change(found: Sequence[Effect]) -> list[list[Effect]]:
    changes = dict.fromkeys(effect.ablation.words for effect in found)
    return [[effect for effect in found if effect.ablation.words == words] for words in changes]


def _result(comparison: Comparison, effect: Effect) -> DepthResult:
    """The study's own of the same depth."""
    return next(result for result in comparison.results if result.num_layers == effect.depth.num_layers)


def _depths(found: Sequence[Effect]) -> list[int]:
    return [effect.depth.num_layers for effect in found]


def _name(effect: Effect) -> str:
    return f"{plural(effect.depth.num_layers, 'layer')} with {cell(effect.ablation.words)}"


def _title(found: Sequence[Effect]) -> str:
    words = found[0].ablation.words
    return cell(words[0].upper() + words[1:])


def _span(values: Sequence[float]) -> str:
    """`19.71 to 19.79`, or the one value."""
    return " to ".join(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))
