"""The report's sections on tests, verdicts and overfitting, in Markdown."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from newllm.analysis.comparisons import (
    Difference,
    against,
    compare_pairs,
    not_distinguishable_from_best,
)
from newllm.analysis.markdown import at_most, depths_in_words, listed, number, p_value, plural, table
from newllm.analysis.overfitting import (
    PLATEAU_PPL,
    Diagnostics,
    excesses,
    gaps,
    not_measured,
    plateau_epochs,
    worse_and_deeper,
)
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import SIGNIFICANCE
from newllm.analysis.summary import Comparison
from newllm.analysis.verdicts import TERMS, Verdict
from newllm.measurement.intervals import mean_interval


def comparisons_section(comparison: Comparison) -> str:
    """Each depth against the baseline and against the best, and which the best is not to be told from."""
    if len(comparison.results) == 1:
        return "One depth: nothing to compare."
    if comparison.num_seeds == 1:
        return "One seed a depth gives no test."
    baseline, best = comparison.baseline.num_layers, comparison.best.num_layers
    families = [against(comparison, comparison.baseline), against(comparison, comparison.best)]
    rows = [
        [str(result.num_layers), *(text for family in families for text in tested(family.get(result.num_layers)))]
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
            f"Depths that cannot be distinguished from the best ({best}), itself included: **{listed(close)}** "
            f"(adjusted p at least {SIGNIFICANCE:g}). That does not show that they are equal."
        )
    return f"{table(header, rows)}\n\n{found} {_on_the_test_split(comparison)}"


def _on_the_test_split(comparison: Comparison) -> str:
    """The best depth against the others by figures that did not choose it."""
    best = comparison.best.num_layers
    values = {result.num_layers: result.over_seeds("test_ppl") for result in comparison.results}
    pairs = compare_pairs(values, [(depth, best) for depth in values if depth != best])
    closest = min(pairs, key=lambda pair: pair.difference.mean)
    worse = [pair for pair in pairs if pair.above]
    text = "On the test split, which chose nothing, "
    if len(worse) == len(pairs):
        text += f"every other depth is shown to be worse (adjusted p {at_most(pair.adjusted_p for pair in pairs)})"
    elif worse:
        text += f"only {depths_in_words([pair.num_layers for pair in worse])} {_is(worse)} shown to be worse"
    else:
        text += "no other depth is shown to be worse"
    return f"{text}; the closest is {closest.num_layers}, by {number(closest.difference)}."


def _is(found: Sequence[object]) -> str:
    return "is" if len(found) == 1 else "are"


def verdicts_section(verdicts: Sequence[Verdict]) -> str:
    """Every claim with its verdict and what decides it; then the rules and other numbers, by the claims' numbers."""
    rows = [[str(v.number), v.claim, f"**{v.outcome}**", v.finding.deciding] for v in verdicts]
    rules = "\n".join(f"{v.number}. {v.rule}{_others(v.finding.rest)}" for v in verdicts)
    header = ["", "claim", "verdict", "what decides it, or leaves it open"]
    return "\n\n".join([table(header, rows, align=":---"), "The rules, and the other numbers:", rules, TERMS])


def _others(rest: str) -> str:
    return f" *Also: {rest}.*" if rest else ""


def diagnostics_section(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> str:
    """Per depth, what tells overfitting from underfitting, as far as it was measured."""
    header = ["layers", "val loss", "train loss without dropout", "gap", "best epoch / epochs run", "stopped early"]
    rows = [_diagnostics_row(result, diagnostics) for result in comparison.results]
    text = (
        "Losses in nats, at the best epoch; training loss on a fixed sample; gap is validation minus training loss; "
        "epochs are means over seeds."
    )
    if comparison.matches_published_data:
        header.append("plateau in epochs")
        rows = [[*row, _plateau(result)] for row, result in zip(rows, comparison.results, strict=True)]
        text += (
            f" The plateau, mean and range, lasts until validation perplexity first falls below {PLATEAU_PPL:g}; a "
            "seed that never gets there counts with all its epochs. Of these only losses and gap decide claim 6."
        )
    parts = [text, table(header, rows), *_trend(comparison, diagnostics), *_excess_table(comparison, diagnostics)]
    return "\n\n".join([*parts, *_gradient_table(diagnostics)])


def _trend(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> list[str]:
    """From the shallowest diagnosed depth to the best, and from there to the deepest, a sentence each."""
    train_losses = {entry.num_layers: entry.train_losses for entry in diagnostics}
    ends = {min(train_losses, default=0), max(train_losses, default=0)}
    turns = sorted(ends | ({comparison.best.num_layers} & train_losses.keys()))
    sentences = [_change(comparison, diagnostics, train_losses, *pair) for pair in pairwise(turns)]
    return [" ".join(sentences)] if sentences else []


def _change(
    comparison: Comparison,
    diagnostics: Sequence[Diagnostics],
    train_losses: Mapping[int, Sequence[float]],
    first: int,
    last: int,
) -> str:
    """What becomes of gap and training loss from one depth to a deeper one."""
    results = {result.num_layers: result for result in comparison.results}
    gap_values = {depth: gaps(results[depth], diagnostics) for depth in (first, last)}
    gap, train_loss = (compare_pairs(values, [(last, first)])[0] for values in (gap_values, train_losses))
    conclusions = [
        *(["overfit more"] if gap.above else ["overfit less"] if gap.below else []),
        *(["fit less"] if train_loss.above else ["fit better"] if train_loss.below else []),
    ]
    gap_ends, loss_ends = (
        [f"{fmean(values[d]):.3f}".replace("-", "−") for d in (first, last)] for values in (gap_values, train_losses)
    )
    wider = "grows" if gap.above else "shrinks" if gap.below else "is not shown to change,"
    higher = "rises" if train_loss.above else "falls" if train_loss.below else "is not shown to change,"
    return (
        f"From {first} to {plural(last, 'layer')} the gap {wider} from {gap_ends[0]} to {gap_ends[1]} while training "
        f"loss {higher} from {loss_ends[0]} to {loss_ends[1]}"
        f"{': the deeper models ' + ' and '.join(conclusions) if conclusions else ''}."
    )


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
        "dropout, in float32, mean over seeds:"
    )
    return [title, table(["layers", "fresh weights", "best epoch"], rows, align=":---")]


def _excess_table(comparison: Comparison, diagnostics: Sequence[Diagnostics]) -> list[str]:
    deeper, best = worse_and_deeper(comparison), comparison.best.num_layers
    if not deeper or not_measured([best, *deeper], diagnostics):
        return []
    header = ["layers", "val loss", "train loss", "adjusted p", "gap", "adjusted p", "train loss − gap", "adjusted p"]
    rows = []
    for excess in excesses(comparison, diagnostics):
        parts = [text for part in (excess.train_loss, excess.gap, excess.balance) for text in tested(part, decimals=3)]
        rows.append([str(excess.num_layers), number(excess.val_loss, signed=True, decimals=3), *parts])
    title = f"What the deeper and worse depths have in excess of depth {best}, training loss plus gap, in nats:"
    return [title, table(header, rows)]


def tested(pair: Difference | None, decimals: int = 2) -> tuple[str, str]:
    """Difference and adjusted p-value as cells of a table; dashes for None."""
    if pair is None:
        return "–", "–"
    return number(pair.difference, signed=True, decimals=decimals), p_value(pair.adjusted_p).removeprefix("= ")


def _diagnostics_row(result: DepthResult, diagnostics: Sequence[Diagnostics]) -> list[str]:
    measured = [entry for entry in diagnostics if entry.num_layers == result.num_layers]
    train_loss = gap = "not measured"
    best_epoch, epochs_run = (fmean(result.over_seeds(name)) for name in ("best_epoch", "epochs_run"))
    if not not_measured([result.num_layers], diagnostics):
        train_loss = number(mean_interval(measured[0].train_losses), decimals=3)
        gap = number(mean_interval(gaps(result, diagnostics)), decimals=3)
    return [
        str(result.num_layers),
        number(mean_interval(result.over_seeds("val_loss")), decimals=3),
        train_loss,
        gap,
        f"{best_epoch:.1f} / {f'{epochs_run:.1f}'.removesuffix('.0')}",
        f"{sum(run.stopped_early for run in result.runs.seeds)} of {len(result.runs.seeds)}",
    ]


def _plateau(result: DepthResult) -> str:
    lengths = plateau_epochs(result)
    return f"{fmean(lengths):.1f} ({min(lengths)}–{max(lengths)})"
