"""The report's first paragraphs: how many layers, how sure, at what cost, what of the notebook holds, ablations."""

from collections.abc import Iterable, Sequence

from newllm.analysis.ablation_words import ablations_in_short
from newllm.analysis.comparisons import against, not_distinguishable_from_best
from newllm.analysis.cost import (
    Effort,
    mean_effort,
    petaflop_per_epoch,
    seeds_side_by_side,
    target,
    trainings,
    ways,
)
from newllm.analysis.judging import Outcome
from newllm.analysis.markdown import at_most, cell, depths_in_words, listed, number, p_value, plural, ranged
from newllm.analysis.results import DepthResult
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import Verdict
from newllm.measurement.intervals import mean_interval


def opening(comparison: Comparison, supplements: Supplements, verdicts: Sequence[Verdict]) -> str:
    """The answer, how the study differs from the specification, if it does, the notebook's claims, and ablations.

    `verdicts` are empty where the claims are of something else.
    """
    answer = [
        _answer(comparison),
        *_certainty(comparison),
        _cost(comparison, supplements),
        _target(comparison, supplements),
        *_condition(comparison),
    ]
    claims = [_notebook(comparison, verdicts)] if verdicts else []
    changes = " ".join(ablations_in_short(comparison, supplements))
    return "\n\n".join([" ".join(answer), *_note(comparison), *claims, *([changes] if changes else [])])


def _answer(comparison: Comparison) -> str:
    best, cheapest = comparison.best, _cheapest(comparison)
    of_seeds = "one seed" if comparison.num_seeds == 1 else f"mean of {comparison.num_seeds} seeds, 95 % interval"
    of_seeds += f"; test {_ppl(best, 'test_ppl')}"
    depths = ranged([result.num_layers for result in comparison.results])
    if len(comparison.results) == 1:
        return f"With {_layers(best)}, the only depth here, validation perplexity is **{_ppl(best)}** ({of_seeds})."
    if comparison.num_seeds == 1:
        return (
            f"One seed a depth gives no interval: any difference may be chance. Of depths {depths}, {_layers(best)} "
            f"{_verb(best, 'have', 'has')} the lowest validation perplexity, **{_ppl(best)}** ({of_seeds})."
        )
    text = (
        f"**{_layers(best)}** {_verb(best, 'give', 'gives')} the lowest validation perplexity of depths {depths}: "
        f"**{_ppl(best)}** ({of_seeds})."
    )
    family, close = against(comparison, best), set(not_distinguishable_from_best(comparison)) - {best.num_layers}
    if not close:
        return text
    others = [f"{_layers(one)} ({_ppl(one)})" for one in comparison.results if one.num_layers in close]
    p = p_value(min(family[depth].adjusted_p or 0.0 for depth in close)).replace("=", "≥")
    return (
        f"{text} These seeds cannot tell {_verb(best, 'them', 'it')} from {listed(others)} (Holm-corrected p {p}); of "
        f"these, {_layers(cheapest)} {_verb(cheapest, 'are', 'is')} the {'cheaper' if len(close) == 1 else 'cheapest'}."
    )


def _certainty(comparison: Comparison) -> Iterable[str]:
    best, baseline, studied = (one.num_layers for one in (comparison.best, comparison.baseline, comparison.studied))
    worse = {depth: pair for depth, pair in against(comparison, comparison.best).items() if pair.above}
    if not worse:
        return
    closest = min(worse, key=lambda depth: worse[depth].difference.mean)
    names = {depth: plural(depth, "layer") for depth in dict.fromkeys((closest, baseline, studied)) if depth in worse}
    if baseline in names:
        names[baseline] = f"the baseline of {baseline}"
    names[closest] = f"the closest, {names[closest]},"
    parts = [f"{name} by {number(worse[depth].difference)}" for depth, name in names.items()]
    than = "" if len(worse) == len(comparison.results) - 1 else f" than {best}"
    p = at_most(pair.adjusted_p for pair in worse.values())
    yield f"Every other depth is worse{than} (Holm-corrected p {p}): {', '.join(parts)}."


def _cost(comparison: Comparison, supplements: Supplements) -> str:
    def amounts(result: DepthResult) -> str:
        per_epoch = petaflop_per_epoch(result, supplements.training_data)
        return listed(_amounts(comparison, mean_effort(trainings(result)), per_epoch) or ["an unknown amount"])

    own, baseline = _cheapest(comparison), comparison.baseline
    beside = f" ({_layers(baseline)}: {amounts(baseline)})" if baseline is not own else ""
    if len(comparison.devices) == 1:
        alone = max(map(seeds_side_by_side, comparison.results)) == 1
        words = f"a seed of {_layers(own)} takes" if alone else f"the share of a seed of {_layers(own)} is"
        return f"{_where(comparison)}, {words} {amounts(own)} without start-up{beside}."
    text = f"A seed of {_layers(own)} takes {amounts(own)}{beside}"
    return f"{text}; seconds are not compared, since the depths were trained on different devices."


def _where(comparison: Comparison) -> str:
    device = f"on {cell(comparison.devices[0])}"
    together = sorted({seeds_side_by_side(result) for result in comparison.results})
    if comparison.num_seeds == 1:
        return f"Trained {device}"
    if together == [1]:
        return f"With one seed after another {device}"
    seeds = " to ".join(map(str, dict.fromkeys((together[0], together[-1]))))
    return f"With {seeds} seeds trained side by side {device}"


def _amounts(comparison: Comparison, effort: Effort | None, per_epoch: float | None) -> list[str]:
    """Seconds and energy, where they can be compared between depths, and operations."""
    if effort is None:
        return []
    amounts = []
    if len(comparison.devices) == 1:
        amounts = [f"{_rounded(effort.seconds)} s"]
        amounts += [] if effort.joules is None else [f"{_rounded(effort.joules / 1000)} kJ"]
    return amounts + ([] if per_epoch is None else [f"{_rounded(per_epoch * effort.epochs)} PFLOP"])


def _target(comparison: Comparison, supplements: Supplements) -> str:
    goal = target(comparison)
    what = "the notebook’s best complete run" if comparison.matches_published_data else "the mean of the worst depth"
    found = {result.num_layers: ways(result, goal) for result in comparison.results}
    means = {depth: effort for depth, seeds in found.items() if (effort := mean_effort(seeds))}
    if not means:
        return f"No seed reaches perplexity {goal:.2f}, {what}."
    per_epoch = {r.num_layers: petaflop_per_epoch(r, supplements.training_data) for r in comparison.results}

    def rank(depth: int) -> tuple[int, float]:
        """Most seeds first, then by the cost that can be compared."""
        if len(comparison.devices) == 1:
            return found[depth].count(None), means[depth].seconds
        return found[depth].count(None), means[depth].epochs * (per_epoch[depth] or 1.0)

    def way(depth: int) -> str:
        late = sum(one is not None for one in found[depth])
        some = "" if late == len(found[depth]) else f" ({late} of {len(found[depth])} seeds)"
        epochs = f"{means[depth].epochs:.0f} epochs"
        costs = _amounts(comparison, means[depth], per_epoch[depth])[:1]
        return f"{plural(depth, 'layer')}{some} after {listed([epochs, *costs])}"

    own, easiest = _cheapest(comparison).num_layers, min(means, key=rank)
    parts = [f"is reached by {way(own)}"] if own in means and own != easiest else []
    parts.append(f"{'' if parts else 'is reached '}{'most cheaply ' if len(found) > 1 else ''}by {way(easiest)}")
    never = [depth for depth in found if depth not in means]
    if never:
        parts.append(f"not within {plural(comparison.most_epochs, 'epoch')} by {ranged(never)}")
    return f"Perplexity {goal:.2f}, {what}, {_sequence(parts)}."


def _condition(comparison: Comparison) -> Iterable[str]:
    """What the order of the depths holds for, if some might have gone on."""
    going_on = [result.num_layers for result in comparison.unfinished]
    if going_on and len(comparison.results) > 1:
        yield (
            f"All of it is of one learning rate and {plural(comparison.most_epochs, 'epoch')}, in which most seeds of "
            f"{depths_in_words(going_on)} did not stop early."
        )


def _note(comparison: Comparison) -> Iterable[str]:
    deviations = [*comparison.data_deviations, *comparison.training_deviations]
    if not deviations:
        return
    note = f"> **This is not the full study.** It differs from the specification: {cell('; '.join(deviations))}."
    if comparison.data_deviations:
        note += (
            " The text or the prediction task is not that of the notebook, so its published points are left out: "
            "perplexities of different tasks cannot be compared."
        )
    else:
        note += " Its figures are not those that the published points would be tested with."
    yield note


def _notebook(comparison: Comparison, verdicts: Sequence[Verdict]) -> str:
    """What holds and what does not; in another setting than the study's only what would."""
    reduced = bool(comparison.training_deviations)
    right, wrong, open_ = (
        _claims([verdict for verdict in verdicts if verdict.outcome is outcome], word)
        for outcome, word in ((Outcome.SUPPORTED, "that"), (Outcome.REFUTED, "that"), (Outcome.UNDECIDED, "whether"))
    )
    sentences = []
    who = "In this setting the notebook would be" if reduced else "The notebook was"
    if right:
        sentences.append(f"{who} right {right}.")
        who = "It would be" if reduced else "It was"
    if wrong:
        sentences.append(f"{who} wrong {wrong}.")
    if open_:
        sentences.append(f"Undecided: {open_}." if sentences else f"None of the notebook’s claims is decided: {open_}.")
    return " ".join(sentences)


def _claims(verdicts: Sequence[Verdict], word: str) -> str:
    """Claims with why in brackets, those of the same reason together."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        reasons.setdefault(verdict.finding.short, []).append(f"{word} {verdict.claim}")
    return _sequence([f"{listed(claims)} ({reason})" for reason, claims in reasons.items()])


def _cheapest(comparison: Comparison) -> DepthResult:
    """The shallowest of the depths that may be best; with one seed, which shows nothing, the best."""
    if comparison.num_seeds == 1:
        return comparison.best
    shallowest = not_distinguishable_from_best(comparison)[0]
    return next(result for result in comparison.results if result.num_layers == shallowest)


def _sequence(parts: Sequence[str]) -> str:
    """As `listed`, with a comma before the last of clauses; empty for none."""
    return ", and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _ppl(result: DepthResult, name: str = "val_ppl") -> str:
    return number(mean_interval(result.over_seeds(name)))


def _layers(result: DepthResult) -> str:
    return plural(result.num_layers, "layer")


def _verb(result: DepthResult, several: str, one: str) -> str:
    return one if result.num_layers == 1 else several
