"""The report's section on ablations, in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from newllm.analysis.ablation import Ablation, Effect, effects, mismatch
from newllm.analysis.ablation_words import beside_best, by_change, of_change, on_claim_six, own_result, with_tests
from newllm.analysis.findings import tested
from newllm.analysis.markdown import cell, depths_in_words, listed, number, table
from newllm.analysis.overfitting import plateau_epochs
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import mean_interval


def ablations_section(comparison: Comparison, supplements: Supplements) -> str:
    """Every changed depth beside the study's own, and what that says of claim 6."""
    found = effects(comparison, supplements.ablations, supplements.overfitting)
    parts = []
    if found:
        parts += [*_perplexities(comparison, found), *_losses(found), *_epochs(comparison, supplements, found)]
        parts.append(on_claim_six(comparison, supplements.overfitting, found))
    parts += [_provenance(comparison, ablation) for ablation in supplements.ablations]
    return "\n\n".join(parts)


def _perplexities(comparison: Comparison, found: Sequence[Effect]) -> Iterable[str]:
    yield (
        "Runs of some depths with a switch changed and all else as in the study, beside the study’s own runs of the "
        "same depth. Differences are those of a changed run minus the study’s, with Welch’s 95 % interval of one "
        "comparison; p-values are corrected by Holm’s method within a column, so that an interval may leave out 0 "
        "where no difference is shown."
    )
    header = ["change", "layers", "val PPL", "the study’s", "difference", "adjusted p", "test PPL", "the study’s"]
    rows = []
    for effect in found:
        own = own_result(comparison, effect)
        both = [number(mean_interval(one.over_seeds(name))) for name in ("val_ppl", "test_ppl")
                for one in (effect.depth, own)]  # fmt: skip
        rows.append([*_key(effect), *both[:2], *tested(effect.val_ppl), *both[2:]])
    yield table(header, rows, texts=["change"])
    if not with_tests(found):
        yield "One seed gives no test: any difference may be chance."
        return
    yield " ".join([*map(of_change, by_change(found)), beside_best(comparison, found)])


def _losses(found: Sequence[Effect]) -> Iterable[str]:
    yield (
        "Losses at the best epoch in nats, minus those of the study’s same depth; training loss on a fixed "
        "sample without dropout, gap is validation minus training loss:"
    )
    header = ["change", "layers", "val loss", "train loss", "adjusted p", "gap", "adjusted p"]
    rows = []
    for effect in found:
        parts = effect.parts and (effect.parts.train_loss, effect.parts.gap, effect.parts.balance)
        cells = [text for part in parts for text in tested(part, decimals=3)] if parts else ["not measured"] * 6
        rows.append([*_key(effect), number(effect.val_loss, signed=True, decimals=3), *cells])
    yield table([*header, "train loss − gap", "adjusted p"], rows, texts=["change"])


def _epochs(comparison: Comparison, supplements: Supplements, found: Sequence[Effect]) -> Iterable[str]:
    yield (
        "How they train: means over seeds of best epoch and epochs run; how many seeds stopped early; the plateau at "
        "the start, in epochs; the norm of the gradient of a hidden layer’s fresh weights, mean over seeds, of the "
        "layer where it is largest. The study’s figures are in brackets:"
    )
    norms = {entry.num_layers: entry.initial_norms for entry in supplements.overfitting}
    rows = []
    for effect in found:
        depth, own = effect.depth, own_result(comparison, effect)
        seeds = len(depth.seeds)
        stopped = sum(run.stopped_early for run in depth.seeds), sum(run.stopped_early for run in own.runs.seeds)
        plateaus = fmean(depth.over_seeds("plateau_epochs")), fmean(plateau_epochs(own))
        gradients = [f"{max(values):.2g}" if values else "not measured"
                     for values in (depth.initial_norms, norms.get(depth.num_layers))]  # fmt: skip
        epochs = [" / ".join(f"{fmean(one.over_seeds(name)):.1f}" for name in ("best_epoch", "epochs_run"))
                  for one in (depth, own)]  # fmt: skip
        rows.append(
            [
                *_key(effect),
                f"{epochs[0]} ({epochs[1]})",
                f"{stopped[0]} of {seeds} ({stopped[1]} of {len(own.runs.seeds)})",
                f"{plateaus[0]:.1f} ({plateaus[1]:.1f})",
                f"{gradients[0]} ({gradients[1]})",
            ]
        )
    header = ["change", "layers", "best epoch / epochs run", "stopped early", "plateau", "gradient at the start"]
    yield table(header, rows, texts=["change"])


def _provenance(comparison: Comparison, ablation: Ablation) -> str:
    reason = mismatch(comparison, ablation)
    if reason:
        return f"Left out, not of this study: {cell(ablation.name)} ({cell(reason)})."
    commits = listed([cell(commit[:12]) for commit in ablation.git_commits] or ["unknown"])
    state = " with changes" if ablation.git_dirty else ""
    text = f"{cell(ablation.name)}: `{cell(ablation.command)}`, {cell(ablation.device)}, commit {commits}{state}."
    others = {depth.num_layers for depth in ablation.depths} - {result.num_layers for result in comparison.results}
    return text + (f" Left out, since the study has no such runs: {depths_in_words(sorted(others))}." if others else "")


def _key(effect: Effect) -> list[str]:
    """The first cells of a table's row."""
    return [cell(effect.ablation.words), str(effect.depth.num_layers)]
