"""The report's first paragraph: how many layers, how sure, at what cost, and what of the notebook holds."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from newllm.analysis.comparisons import against, not_distinguishable_from_best
from newllm.analysis.cost import mean_effort, petaflop_per_epoch, target, trainings, ways
from newllm.analysis.judging import Outcome
from newllm.analysis.markdown import cell, listed, number, percent, plural
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import SIGNIFICANCE, Estimate, mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import Verdict


def opening(comparison: Comparison, supplements: Supplements, verdicts: Sequence[Verdict]) -> str:
    """One paragraph; `verdicts` are empty where the notebook's claims are of something else."""
    others = dict.fromkeys((comparison.baseline.num_layers, comparison.studied.num_layers))
    sentences = [
        _answer(comparison),
        _certainty(comparison),
        *(_other(comparison, depth) for depth in others if depth != comparison.best.num_layers),
        _cost(comparison, supplements),
        *([_notebook(verdicts)] if verdicts else []),
        f"{_devices(comparison.results)}, precision {cell(comparison.studied.runs.precision)}, "
        f"{plural(comparison.num_seeds, 'seed')} a depth, {_epochs(comparison.results)}.",
    ]
    return " ".join(sentences)


def _answer(comparison: Comparison) -> str:
    best = comparison.best
    if len(comparison.results) == 1:
        return f"With {_layers(best)}, the only depth here, New-LLM reaches {_figures(best)}."
    roles = [
        role for role, result in (("the baseline", comparison.baseline), ("under study", comparison.studied))
        if result is best
    ]  # fmt: skip
    aside = f" ({listed(roles)})" if roles else ""
    depths = _range([result.num_layers for result in comparison.results])
    return f"**{_layers(best)}**{aside}: of the depths {depths} it has the lowest mean of {_figures(best)}."


def _range(depths: Sequence[int]) -> str:
    whole = len(depths) > 2 and list(depths) == list(range(depths[0], depths[-1] + 1))
    return f"{depths[0]} to {depths[-1]}" if whole else listed(depths)


def _figures(result: DepthResult) -> str:
    val, test = (number(mean_interval(result.over_seeds(name))) for name in ("val_ppl", "test_ppl"))
    return (
        f"best validation perplexity, **{val}** (test {test}, validation accuracy "
        f"{percent(result.over_seeds('val_accuracy'))})"
    )


def _certainty(comparison: Comparison) -> str:
    if comparison.num_seeds == 1:
        return "One seed gives no interval: any difference may be chance."
    best = comparison.best.num_layers
    close = [depth for depth in not_distinguishable_from_best(comparison) if depth != best]
    family = against(comparison, comparison.best)
    if not family:
        return "There is nothing to compare it with."
    if not close:
        nearest = min((pair.difference for pair in family.values()), key=lambda difference: difference.mean)
        return (
            f"Every other depth is shown to be worse (adjusted p < {SIGNIFICANCE:g}), the nearest by "
            f"{number(nearest, signed=True)}."
        )
    rest = "; the others are shown to be worse" if len(close) < len(family) else ""
    which = listed(close) if len(close) < len(family) else "any other depth"
    text = f"These seeds do not tell it from {which} (adjusted p at least {SIGNIFICANCE:g}){rest}."
    if min(close) < best:
        text += f" The shallowest that may be as good has {_layers_of(min(close))}."
    return text


def _other(comparison: Comparison, depth: int) -> str:
    result = next(result for result in comparison.results if result.num_layers == depth)
    roles = [
        role for role, one in (("the baseline", comparison.baseline), ("the depth under study", comparison.studied))
        if one is result
    ]  # fmt: skip
    values = [one.over_seeds("val_ppl") for one in (result, comparison.best)]
    pair = against(comparison, comparison.best)[depth]
    difference = pair.difference if len(values[0]) > 1 else Estimate(pair.difference.mean, None)
    verdict = "shown to be worse" if pair.above else "not to be told from it"
    verdict = "higher" if comparison.num_seeds == 1 else verdict
    return (
        f"With {_layers(result)}, {listed(roles)}, it is {number(mean_interval(values[0]))} "
        f"({number(difference, signed=True)} from the best, {verdict}; test "
        f"{number(mean_interval(result.over_seeds('test_ppl')))})."
    )


def _cost(comparison: Comparison, supplements: Supplements) -> str:
    best, baseline = comparison.best, comparison.baseline
    seconds = [fmean(effort.seconds for effort in trainings(result)) for result in (best, baseline)]
    text = f"Training takes {seconds[0]:,.0f} s a seed with {_layers(best)} ({best.metrics.num_params:,} parameters"
    per_epoch = petaflop_per_epoch(best, supplements.training_data)
    if per_epoch is not None:
        text += f", {per_epoch * mean_interval(best.over_seeds('epochs_run')).mean:.3g} PFLOP"
    text += ")"
    if best is not baseline:
        text += f", {seconds[1]:,.0f} s with {baseline.num_layers}"
    goal = target(comparison)
    found = ways(best, goal)
    way = mean_effort(found)
    if way is None:
        return f"{text}; no seed of it reaches a perplexity of {goal:.2f}."
    reached = sum(one is not None for one in found)
    who = "every seed" if reached == len(found) else f"{reached} of {len(found)} seeds"
    return f"{text}; a perplexity of {goal:.2f} is reached by {who}, after {way.seconds:,.0f} s on average."


def _notebook(verdicts: Sequence[Verdict]) -> str:
    def claims(outcome: Outcome) -> list[str]:
        return [f"“{verdict.claim}”" for verdict in verdicts if verdict.outcome is outcome]

    parts = [
        (Outcome.SUPPORTED, "The notebook was right that"),
        (Outcome.REFUTED, "It was wrong that"),
        (Outcome.UNDECIDED, "Undecided:"),
    ]
    found = [(words, claims(outcome)) for outcome, words in parts]
    right, wrong = found[0][1], found[1][1]
    sentences = [f"{words} {'; '.join(texts)}." for words, texts in found if texts]
    if not right and wrong:
        sentences[0] = sentences[0].replace("It was", "The notebook was")
    elif not right:
        sentences[0] = "Of the notebook’s claims none is decided: " + "; ".join(found[2][1]) + "."
    return " ".join(sentences)


def _layers(result: DepthResult) -> str:
    return _layers_of(result.num_layers)


def _layers_of(num_layers: int) -> str:
    return plural(num_layers, "layer")


def _devices(results: Iterable[DepthResult]) -> str:
    return "Trained on " + " and ".join(sorted({cell(result.runs.device) for result in results}))


def _epochs(results: Iterable[DepthResult]) -> str:
    runs = [run for result in results for run in result.runs.seeds]
    fewest, most = min(run.epochs_run for run in runs), max(run.epochs_run for run in runs)
    stopped = sum(run.stopped_early for run in runs)
    text = plural(most, "epoch") if fewest == most else f"{fewest} to {most} epochs"
    return f"{text} ({stopped} of {len(runs)} runs stopped early)" if stopped else text
