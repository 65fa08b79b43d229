"""The report's sections on tests, verdicts and overfitting, in Markdown."""

from collections.abc import Sequence

from newllm.analysis.comparisons import PairComparison, against, not_distinguishable_from_best
from newllm.analysis.markdown import listed, number, p_value, plural, table
from newllm.analysis.overfitting import (
    PLATEAU_PPL,
    Diagnostics,
    best_at_the_end,
    excesses,
    gaps,
    not_measured,
    plateau_epochs,
    worse_and_deeper,
)
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import SIGNIFICANCE, mean_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.verdicts import TERMS, Verdict


def comparisons_section(comparison: Comparison) -> str:
    """Each depth against the baseline and against the best, and which the best is not to be told from."""
    if len(comparison.results) == 1:
        return "One depth: nothing to compare."
    if comparison.num_seeds == 1:
        return "One seed a depth gives no test."
    baseline, best = comparison.baseline.num_layers, comparison.best.num_layers
    families = [against(comparison, comparison.baseline), against(comparison, comparison.best)]
    rows = [
        [str(result.num_layers), *(text for family in families for text in _test(family.get(result.num_layers)))]
        for result in comparison.results
    ]
    header = [
        "layers",
        f"val PPL − that of {baseline} (baseline)",
        "adjusted p",
        f"− that of {best} (best)",
        "adjusted p",
    ]
    close = not_distinguishable_from_best(comparison)
    if close == [best]:
        found = f"Every other depth is shown to be worse than the best, {best} (adjusted p < {SIGNIFICANCE:g})."
    else:
        found = (
            f"Not distinguishable from the best depth, {best}, which belongs to them (adjusted p at least "
            f"{SIGNIFICANCE:g}): **{listed(close)}**. That does not show that they are equal."
        )
    return f"{table(header, rows)}\n\n{found}"


def verdicts_section(verdicts: Sequence[Verdict]) -> str:
    """Every claim with its verdict and the numbers that it rests on, and the rules by the claims' numbers."""
    rows = [[str(v.number), v.claim, f"**{v.outcome}**", v.numbers] for v in verdicts]
    rules = "\n".join(f"{v.number}. {v.rule}" for v in verdicts)
    return "\n\n".join([table(["", "claim", "verdict", "numbers"], rows, align=":---"), "The rules:", rules, TERMS])


def diagnostics_section(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> str:
    """Per depth, what tells overfitting from underfitting, as far as it was measured."""
    header = [
        "layers",
        "val loss",
        "train loss without dropout",
        "gap",
        "best epoch is the last",
        "plateau in epochs",
    ]
    rows = [_diagnostics_row(result, diagnostics) for result in comparison.results]
    text = (
        "Losses in nats, at the best epoch; training loss on a fixed sample; gap is validation minus training loss. "
        f"The plateau lasts until validation perplexity first falls below {PLATEAU_PPL:g}; a seed that never gets "
        "there counts with all its epochs. Of these only losses and gap decide claim 6."
    )
    excess, gradients = _excess_table(comparison, diagnostics), _gradient_table(diagnostics)
    return "\n\n".join([text, table(header, rows), *excess, *gradients])


def _gradient_table(diagnostics: Sequence[Diagnostics]) -> list[str]:
    measured = [entry for entry in diagnostics if entry.gradient_norms and entry.initial_norms]
    if not measured:
        return []
    rows = [
        [str(entry.num_layers), *(" · ".join(f"{norm:.2g}" for norm in norms) for norms in
         (entry.initial_norms, entry.gradient_norms))]
        for entry in measured
    ]  # fmt: skip
    title = (
        "Norm of the gradient of each hidden layer’s weights, from the one that reads the embedding up; one batch, no "
        "dropout, mean over seeds:"
    )
    return [title, table(["layers", "fresh weights", "best epoch"], rows, align=":---")]


def _excess_table(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> list[str]:
    deeper, best = worse_and_deeper(comparison), comparison.best.num_layers
    if not deeper or not_measured([best, *deeper], diagnostics):
        return []
    header = ["layers", "val loss", "train loss", "adjusted p", "gap", "adjusted p", "train loss − gap", "adjusted p"]
    rows = []
    for excess in excesses(comparison, diagnostics):
        parts = [text for part in (excess.train_loss, excess.gap, excess.balance) for text in _test(part, decimals=3)]
        rows.append([str(excess.num_layers), number(excess.val_loss, signed=True, decimals=3), *parts])
    title = f"What the deeper and worse depths have in excess of depth {best}, training loss plus gap, in nats:"
    return [title, table(header, rows)]


def _test(pair: PairComparison | None, decimals: int = 2) -> tuple[str, str]:
    if pair is None:
        return "–", "–"
    return number(pair.difference, signed=True, decimals=decimals), p_value(pair.adjusted_p).removeprefix("= ")


def _diagnostics_row(result: DepthResult, diagnostics: Sequence[Diagnostics]) -> list[str]:
    measured = [entry for entry in diagnostics if entry.num_layers == result.num_layers]
    train_loss = gap = "not measured"
    if not not_measured([result.num_layers], diagnostics):
        train_loss = number(mean_interval(measured[0].train_losses), decimals=3)
        gap = number(mean_interval(gaps(result, diagnostics)), decimals=3)
    return [
        str(result.num_layers),
        number(mean_interval(result.over_seeds("val_loss")), decimals=3),
        train_loss,
        gap,
        f"{best_at_the_end(result)} of {plural(len(result.runs.seeds), 'seed')}",
        number(mean_interval([float(epochs) for epochs in plateau_epochs(result)])),
    ]
