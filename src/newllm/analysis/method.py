"""The report's sections on method and limits, in Markdown: what was done, and what the figures do not show."""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from newllm.analysis.ablation import mismatch
from newllm.analysis.cost import seeds_side_by_side
from newllm.analysis.markdown import cell, depths_in_words, listed, number, plural
from newllm.analysis.published import STUDY_DATA, STUDY_SWITCHES, STUDY_TRAINING
from newllm.analysis.results import DepthResult
from newllm.analysis.statistics import difference_interval
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.measurement.intervals import mean_interval

STATISTICS = """\
- Perplexity is exp(loss); loss and accuracy are summed over all non-padding targets of a split and divided by their \
number, without dropout.
- A seed’s figures are those of its best epoch, the one of lowest validation loss. The test split chooses nothing: \
neither the epoch nor the best depth.
- `mean ± h` is a mean over seeds with the 95 % interval of Student’s t distribution, h = t(0.975, n − 1) · s / √n \
with s the sample standard deviation. One more seed would fall, in 95 % of cases, within t(0.975, n − 1) · s · \
√(1 + 1/n) of the mean.
- Differences between depths have Welch’s 95 % interval for unequal variances, the seeds of two depths counting as \
independent. The intervals are of one comparison each, not corrected for the number of depths.
- Tests between depths are Welch’s, two-sided, of validation perplexity. Their p-values are corrected by Holm’s method \
within a column: all depths against the baseline are one family, all depths against the best another.
- A point of a learning curve is the mean of the perplexities of the seeds that trained in that epoch; where a line is \
dotted, some seeds had already stopped."""

SAMPLING = """\
- Intervals cover what initialisation, shuffling and dropout vary: not another text, another split of it, or other \
settings of the training.
- The best depth is chosen by the very figures that it is shown with: its lead is flattered, and the others look a \
little worse beside it than they are.
- Not distinguishable does not mean equal: few seeds see only large differences.
- The validation figure of a seed is the lowest of all its epochs, and so a little lower than one epoch’s would be."""

LATE = 30
"""So many epochs before the end tell whether a training was still gaining."""

HARDWARE = "Seconds and kJ are of the hardware named below; operations are computed, not counted."


def method_section(comparison: Comparison) -> str:
    """Data, model and training as recorded, then how figures are computed."""
    return "\n".join([*_setting(comparison), STATISTICS, f"- {_seconds(comparison)}"])


def limits_section(comparison: Comparison, supplements: Supplements) -> str:
    """What the figures do not cover, with the numbers that say how much."""
    texts = [_vocabulary(comparison, supplements), *_windows(comparison.parameters), *_schedule(comparison)]
    texts += [*_longer(comparison, supplements), *_start(comparison, supplements)]
    return "\n".join([*(f"- {text}" for text in texts), SAMPLING, f"- {HARDWARE}"])


def _setting(comparison: Comparison) -> Iterable[str]:
    parameters = comparison.parameters
    switches = {name: words for name, words in STUDY_SWITCHES.items() if parameters[name] != words[1]}

    def values(section: str) -> str:
        names = {name: text for name, (text, _) in (STUDY_DATA | STUDY_TRAINING | switches).items()}
        texts = [f"{text} {cell(str(parameters[name]))}" for name, text in names.items() if name.startswith(section)]
        return ", ".join(texts)

    runs = [run for result in comparison.results for run in result.runs.seeds]
    fewest, most = min(run.epochs_run for run in runs), max(run.epochs_run for run in runs)
    epochs = plural(most, "epoch") if fewest == most else f"{fewest} to {most} epochs"
    stopped = sum(run.stopped_early for run in runs)
    yield f"- Data: {values('data.')}."
    yield f"- Model: New-LLM, {values('model.')}."
    yield (
        "- Training: Adam without weight decay, the learning rate being the base rate times the square root of batch "
        f"size over base batch size; {values('train.')}. {plural(comparison.num_seeds, 'seed')} a depth ran {epochs}; "
        f"{stopped} of {len(runs)} runs stopped early."
    )


def _seconds(comparison: Comparison) -> str:
    together = max(seeds_side_by_side(result) for result in comparison.results)
    share = (
        "The seeds of a depth were trained one after another."
        if together == 1
        else f"Up to {plural(together, 'seed')} were trained side by side; each has an equal share of the wall time."
    )
    return f"Seconds a seed: its epochs times its median epoch, validation included. {share}"


def _vocabulary(comparison: Comparison, supplements: Supplements) -> str:
    data = supplements.training_data
    size = f"{data.vocabulary_size:,}" if data else cell(str(comparison.parameters["data.vocabulary_size"]))
    unknown = ""
    if data and data.unk_share_pct is not None:
        unknown = f", and {data.unk_share_pct:.1f} % of the validation words are `<unk>`"
    others = (
        "published perplexities of WikiText-2, which are of its whole vocabulary"
        if comparison.matches_published_data
        else "perplexities of another text or vocabulary"
    )
    return f"Perplexity is over a vocabulary of {size} entries{unknown}: it cannot be compared with {others}."


def _windows(parameters: Any) -> Iterable[str]:
    window, stride, fewest = (parameters[f"data.{name}"] for name in ("window", "stride", "min_words"))
    if not all(isinstance(value, int) and value > 0 for value in (window, stride)):
        return
    times = -(-window // stride)
    overlap = f"overlap, so that a word may count {times} times" if times > 1 else "do not overlap"
    overlap = "overlap by half, so that a word may count twice" if 2 * stride == window else overlap
    yield (
        f"Windows of {window} tokens of a long row {overlap}; each begins with an empty context. Rows of fewer than "
        f"{cell(str(fewest))} words, and tails that do not fill a window, are left out."
    )


def _schedule(comparison: Comparison) -> Iterable[str]:
    """One setting for all depths, and which of them it ended while they were still improving."""
    going_on = comparison.unfinished
    text = "All depths share one learning rate and one schedule."
    if not going_on or len(comparison.results) == 1:
        yield f"{text} A depth that is worse here may be as good with its own."
        return
    best = [fmean(result.over_seeds("best_epoch")) for result in going_on]
    epochs = f"{min(best):.1f}" if min(best) == max(best) else f"{min(best):.1f} to {max(best):.1f}"
    gains = [_late_gain(result) for result in going_on]
    late = ""
    if None not in gains:
        losses = listed([f"{gain:.3f}" for gain in gains])
        late = f", and their lowest validation loss fell by {losses} nats in the last {LATE} epochs, in that order"
    yield (
        f"{text} At {depths_in_words([result.num_layers for result in going_on])} most seeds did not stop early (best "
        f"epoch {epochs} of {comparison.most_epochs} on average){late}: with more epochs, or a learning rate of each "
        "depth’s own, the order may differ."
    )


def _late_gain(result: DepthResult) -> float | None:
    """By how much the lowest validation loss fell in the last epochs, in nats; mean over the seeds that had them."""
    gains = []
    for run in result.runs.seeds:
        losses = [row.val_loss for row in result.curve if row.seed == run.seed]
        if len(losses) > LATE:
            gains.append(min(losses[:-LATE]) - min(losses))
    return fmean(gains) if gains else None


def _longer(comparison: Comparison, supplements: Supplements) -> Iterable[str]:
    """Whether a depth that is not the best comes up with it in a longer training."""
    best = comparison.best
    for one in supplements.grown:
        if one.pattern == "longer" and one.num_layers != best.num_layers and one.base in comparison.unfinished:
            values = one.over_seeds("val_ppl")
            difference = difference_interval(values, best.over_seeds("val_ppl"))
            fewest, most = (choose(seed.epochs_run for seed in one.seeds) for choose in (min, max))
            epochs = plural(most, "epoch") if fewest == most else f"{fewest} to {most} epochs"
            yield (
                f"Depth {one.num_layers} was trained longer, by {epochs} from its best weights on "
                f"(`longer`, see the grown contexts): it comes to {number(mean_interval(values))}, a difference "
                f"of {number(difference, signed=True)} from depth {best.num_layers} as it is."
            )


def _start(comparison: Comparison, supplements: Supplements) -> Iterable[str]:
    """What besides depth itself may keep deep models from fitting."""
    measured = [entry for entry in supplements.overfitting if entry.initial_norms]
    if len(measured) < 2:
        return
    ends = [(entry.num_layers, max(entry.initial_norms)) for entry in (measured[0], measured[-1])]
    norms = " and ".join(f"{norm:.2g} with {plural(depth, 'layer')}" for depth, norm in ends)
    half = comparison.studied.runs.precision
    tried = [one for one in supplements.ablations if mismatch(comparison, one) is None]
    rounding = f", and training computes in {half}, which keeps few digits of values so small" if half == "fp16" else ""
    yield (
        "All depths begin with weights of one standard deviation. The largest gradient of a hidden layer is then "
        f"{norms}{rounding}: that deep models fit less may come from such a start and not from depth as such"
        f"{'; see Ablations' if any('model.residual' in one.changes for one in tried) else ''}."
    )
