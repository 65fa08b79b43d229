"""What the report says of ablations: what the changes do, at which depths, and what of it bears on claim 6."""

from collections.abc import Iterable, Sequence

from newllm.analysis.ablation import Effect, against_best, effects
from newllm.analysis.comparisons import compare_samples
from newllm.analysis.markdown import at_depths, at_most, cell, depths_in_words, listed, number, p_value, plural
from newllm.analysis.overfitting import Diagnostics, losses_by_seed, not_measured, worse_and_deeper
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import difference_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import Estimate, mean_interval

FIT_ALONE = (
    "training loss falls by more than validation loss while the gap widens: what is won is fit, not less overfitting"
)
FIT = "training loss falls by more than the gap: most of what is won is fit"
GAP_ALONE = (
    "the gap narrows by more than validation loss falls while training loss rises: what is won is less overfitting, "
    "not fit"
)
GAP = "the gap narrows by more than training loss falls: most of what is won is less overfitting"


def ablations_in_short(comparison: Comparison, supplements: Supplements) -> Iterable[str]:
    """What the changes do, why, and what of it is better than the study's best; nothing where nothing was tested."""
    found = with_tests(effects(comparison, supplements.ablations, supplements.overfitting))
    if not found:
        return
    asked = worse_and_deeper(comparison)
    yield "**Ablations**, all else as in the study."
    for own in by_change(found):
        yield f"With {cell(own[0].ablation.words)}, {_outcome(comparison, own)}."
        helped = [effect for effect in own if effect.val_ppl.below and effect.depth.num_layers in asked]
        for kind, effects_of_kind in _kinds(helped):
            if kind in (FIT_ALONE, FIT, GAP_ALONE, GAP):
                yield f"A{at_depths(_depths(effects_of_kind))[1:]} {kind}."
    yield beside_best(comparison, found)


def _outcome(comparison: Comparison, own: Sequence[Effect]) -> str:
    """What one change does at which depths, in one clause or two."""
    better, worse, rest = _outcomes(own).values()
    clauses = []
    if better:
        last = better[-1]
        moved = [
            f"{mean_interval(one.over_seeds('val_ppl')).mean:.2f}" for one in (last.depth, own_result(comparison, last))
        ]
        means = [mean_interval(effect.depth.over_seeds("val_ppl")).mean for effect in better]
        how = f" (validation perplexity {moved[0]} instead of {moved[1]})"
        if len(better) > 1:
            span = " to ".join(dict.fromkeys(f"{mean:.2f}" for mean in (min(means), max(means))))
            how = f", at validation perplexities of {span} ({plural(last.depth.num_layers, 'layer')}: "
            how += f"{moved[0]} instead of {moved[1]})"
        clauses.append(f"{_are(better)} better{how}")
    if worse:
        differences = [number(effect.val_ppl.difference) for effect in worse]
        clauses.append(f"{_are(worse)} worse by {listed(differences)}")
    if rest:
        differences = [number(effect.val_ppl.difference, signed=True) for effect in rest]
        clauses.append(f"no difference is shown {at_depths(_depths(rest))} ({listed(differences)})")
    return ", and ".join([*([", ".join(clauses[:-1])] if len(clauses) > 1 else []), clauses[-1]])


def of_change(own: Sequence[Effect]) -> str:
    """One change's effects, in words, and how the changed depths compare with each other."""
    parts = [f"{what} {at_depths(_depths(these))}" for what, these in _outcomes(own).items() if these]
    return " ".join([f"{_title(own)}: {', '.join(parts)}.", *_among(own)])


def _outcomes(own: Sequence[Effect]) -> dict[str, list[Effect]]:
    """The effects whose perplexity is shown to be better, to be worse, and the others; any may be none."""
    outcomes: dict[str, list[Effect]] = {"better": [], "worse": [], "no difference shown": []}
    for effect in own:
        what = "better" if effect.val_ppl.below else "worse" if effect.val_ppl.above else "no difference shown"
        outcomes[what].append(effect)
    return outcomes


def _among(own: Sequence[Effect]) -> Iterable[str]:
    """Which of one change's depths is lowest, and which are shown to be worse than it: a family of tests."""
    if len(own) < 2:
        return
    lowest = min(own, key=lambda effect: mean_interval(effect.depth.over_seeds("val_ppl")).mean)
    others = [effect for effect in own if effect is not lowest]
    values = lowest.depth.over_seeds("val_ppl")
    pairs = compare_samples([(effect.depth.over_seeds("val_ppl"), values) for effect in others])
    worse = [f"{effect.depth.num_layers} by {number(pair.difference)}"
             for effect, pair in zip(others, pairs, strict=True) if pair.above]  # fmt: skip
    close = [effect.depth.num_layers for effect, pair in zip(others, pairs, strict=True) if not pair.above]
    parts = [f"shown to be worse than it, by Holm’s method over these alone: {listed(worse)}"] if worse else []
    parts += [f"not distinguishable from it: {listed(close)}"] if close else []
    yield f"Among these depths {lowest.depth.num_layers} has the lowest perplexity; {'; '.join(parts)}."


def beside_best(comparison: Comparison, found: Sequence[Effect]) -> str:
    """Whether any changed depth is better than the study's best, whatever its depth."""
    best = f"the study’s {plural(comparison.best.num_layers, 'layer')}"
    pairs = list(zip(found, against_best(comparison, found), strict=True))

    def on_test(effect: Effect) -> Estimate:
        return difference_interval(effect.depth.over_seeds("test_ppl"), comparison.best.over_seeds("test_ppl"))

    better = [(effect, pair) for effect, pair in pairs if pair.below]
    if better:
        p = at_most(pair.adjusted_p for _, pair in better)
        texts = [
            f"{_name(effect)} ({number(pair.difference, signed=True)}, on the test split "
            f"{number(on_test(effect), signed=True)})"
            for effect, pair in better
        ]
        return f"Better than {best} (Holm-corrected p {p}): {listed(texts)}."
    closest, pair = min(pairs, key=lambda one: one[1].difference.mean)
    test = on_test(closest)
    if all(pair.above for _, pair in pairs):
        p = at_most(pair.adjusted_p for _, pair in pairs)
        return (
            f"Every changed depth is shown to be worse than {best} (Holm-corrected p {p}); the closest, "
            f"{_name(closest)}, by {number(pair.difference)} (on the test split by {number(test)})."
        )
    return (
        f"No changed depth is shown to be better than {best}; the closest is {_name(closest)} "
        f"({number(pair.difference, signed=True)}, Holm-corrected p {p_value(pair.adjusted_p)}; on the test split "
        f"{number(test, signed=True)})."
    )


def on_claim_six(comparison: Comparison, diagnostics: Sequence[Diagnostics], found: Sequence[Effect]) -> str:
    """Depth by depth, whether what a change wins is fit or less overfitting."""
    asked = set(worse_and_deeper(comparison))
    helped = [effect for effect in found if effect.val_ppl.below and effect.depth.num_layers in asked]
    if not asked & {effect.depth.num_layers for effect in found}:
        return "None of these depths is deeper than the study’s best and shown to be worse: nothing follows on claim 6."
    if not helped:
        return "At the deep depths that are worse no change is shown to help: this says nothing for or against claim 6."
    return " ".join(
        [
            "**On claim 6**, at the depths that are deeper than the study’s best and shown to be worse, where a change "
            "helps. These switches leave the number of parameters as it is, so that none makes the model smaller. The "
            "fall of validation loss is the sum of the falls of training loss and gap. Fit is won if training loss is "
            "shown to fall, and by more than the gap; less overfitting if the gap is shown to narrow, and by more than "
            "training loss falls. What a depth had lacked is told by its excess in the study, under Fit and "
            "overfitting.",
            *(text for own in by_change(helped) for text in (_won(own), *_left(comparison, diagnostics, own))),
        ]
    )


def _won(helped: Sequence[Effect]) -> str:
    """One change at the depths where it helps."""
    return f"{_title(helped)}: {'; '.join(f'{at_depths(_depths(own))} {kind}' for kind, own in _kinds(helped))}."


def _kinds(helped: Sequence[Effect]) -> list[tuple[str, list[Effect]]]:
    """What is won, and the effects of which that holds."""
    kinds: dict[str, list[Effect]] = {}
    for effect in helped:
        parts = effect.parts
        if parts is None:
            kind = "training loss without dropout was not measured"
        elif parts.is_fit:
            kind = FIT_ALONE if parts.gap.above else FIT
        elif parts.is_gap:
            kind = GAP_ALONE if parts.train_loss.above else GAP
        else:
            kind = "it is undecided whether more training loss or more gap is won"
        kinds.setdefault(kind, []).append(effect)
    return list(kinds.items())


def _left(comparison: Comparison, diagnostics: Sequence[Diagnostics], helped: Sequence[Effect]) -> Iterable[str]:
    """What the deepest depth that was measured has in excess of the best depth, without the change and with it."""
    measured = [effect for effect in helped if effect.parts is not None]
    if not measured or not_measured([comparison.best.num_layers], diagnostics):
        return
    effect, best = measured[-1], comparison.best
    own = own_result(comparison, effect)
    reference = losses_by_seed(best, diagnostics)
    changed = [(seed.train_loss_without_dropout or 0.0, seed.val_loss) for seed in effect.depth.seeds]

    def excess(losses: Sequence[tuple[float, float]]) -> list[str]:
        parts = [
            difference_interval([train for train, _ in losses], [train for train, _ in reference]),
            difference_interval([val - train for train, val in losses], [val - train for train, val in reference]),
            difference_interval([val for _, val in losses], [val for _, val in reference]),
        ]
        return [number(part, signed=True, decimals=3) for part in parts]

    before = excess(losses_by_seed(own, diagnostics))
    yield (
        f"Beyond the study’s {plural(best.num_layers, 'layer')}, its {plural(own.num_layers, 'layer')} have "
        f"{before[0]} nats of training loss, {before[1]} of gap and {before[2]} of validation loss; with "
        f"{cell(effect.ablation.words)} {listed(excess(changed))}."
    )


def with_tests(found: Sequence[Effect]) -> Sequence[Effect]:
    """The effects, if there are enough seeds for tests: one test too few leaves the whole family without."""
    return [effect for effect in found if effect.val_ppl.adjusted_p is not None]


def by_change(found: Sequence[Effect]) -> list[list[Effect]]:
    """The effects of every change together, in the order given."""
    changes = dict.fromkeys(effect.ablation.words for effect in found)
    return [[effect for effect in found if effect.ablation.words == words] for words in changes]


def own_result(comparison: Comparison, effect: Effect) -> DepthResult:
    """The study's own of the same depth."""
    return next(result for result in comparison.results if result.num_layers == effect.depth.num_layers)


def _depths(found: Sequence[Effect]) -> list[int]:
    return [effect.depth.num_layers for effect in found]


def _are(found: Sequence[Effect]) -> str:
    return f"{depths_in_words(_depths(found))} {'is' if len(found) == 1 else 'are'}"


def _name(effect: Effect) -> str:
    return f"{plural(effect.depth.num_layers, 'layer')} with {cell(effect.ablation.words)}"


def _title(found: Sequence[Effect]) -> str:
    words = found[0].ablation.words
    return cell(words[0].upper() + words[1:])
