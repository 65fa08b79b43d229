"""What a depth costs: seconds, energy and operations of a training, and of the way to a target perplexity.

Seconds count by the seed's median epoch: the first also compiles and captures graphs, and the depth that happens to be
trained first pays for the others. Joules count by the mean of the epochs of about that length: the counter of a GPU
moves in steps that can be a third of what an epoch takes, so that the median would be one of few values.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from newllm.analysis.published import TARGETS
from newllm.analysis.records import Group
from newllm.analysis.study import Study

ORDINARY = 1.25
"""An epoch that takes longer than so many times the median also compiled or captured."""
LARGEST_SIZE = 65_536
"""As in the schema of params.yaml; a record that says more is not believed."""


class Effort(NamedTuple):
    """Means over those seeds that reach a target, `reached` of them; None of all where none does."""

    reached: int
    epochs: float | None = None
    seconds: float | None = None  # without start-up
    joules: float | None = None  # None where the device did not tell
    petaflop: float | None = None  # 10^15 operations


def effort(group: Group, study: Study, target: float | None = None) -> Effort:
    """Of the whole training, or up to the first epoch whose validation perplexity is at most the target."""
    found = []
    for rows in group.curves():
        reached = rows["epoch"].tail(1) if target is None else rows.loc[rows["val_ppl"] <= target, "epoch"]
        if len(reached):
            epochs, seconds = int(reached.iloc[0]), float(rows["seconds"].median())
            ordinary = rows.loc[rows["seconds"] <= ORDINARY * seconds, "joules"].astype(float)
            found.append((epochs, epochs * seconds, epochs * ordinary.mean()))
    if not found:
        return Effort(0)
    mean_epochs, mean_seconds, mean_joules = map(fmean, zip(*found, strict=True))
    joules = None if math.isnan(mean_joules) else mean_joules
    per_epoch = petaflop_per_epoch(group, study)
    petaflop = None if per_epoch is None else per_epoch * mean_epochs
    return Effort(len(found), mean_epochs, mean_seconds, joules, petaflop)


def soonest(groups: Iterable[Group], study: Study, target: float) -> tuple[Group, Effort] | None:
    """Which model reaches a target in the fewest seconds, of those of which most seeds do; None where none does."""
    ways = [(group, way) for group in groups if (way := effort(group, study, target)).reached]
    return min(ways, key=lambda one: (-one[1].reached / len(one[0].seeds), one[1].seconds), default=None)


def main_target(study: Study) -> float:
    """The validation perplexity to be reached.

    20.5 on the study's text; on any other the mean best perplexity of the worst depth, so that all can reach it.
    """
    return TARGETS[0] if study.comparable else max(group.mean("val_ppl") for group in study.depths.values())


def startup_seconds(group: Group) -> float:
    """What a seed's training took beyond its epochs at the median, mean over seeds; not below 0."""
    seconds = [rows["seconds"] for rows in group.curves()]
    return fmean(max(0.0, float(one.sum() - len(one) * one.median())) for one in seconds)


def total_seconds(groups: Iterable[Group]) -> float:
    """What these trainings took one after the other, start-ups included; the stages' other work is not."""
    return sum(float(group.curve["seconds"].sum()) for group in groups if len(group.curve))


def minutes(study: Study) -> dict[str, float]:
    """Part of the study, in words → minutes of training; nothing of parts that were not trained."""
    searches = [search.seconds for search in study.tuning.values()]
    seconds = {
        "the notebook’s recipe": total_seconds(study.depths.values()),
        "the grown contexts": total_seconds(study.grown),
        "the trials of the searches": sum(trials for trials, _ in searches),
        "their finalists": sum(finalists for _, finalists in searches),
        "the tuned depths": total_seconds(study.tuned.values()),
        "those of equal parameters": total_seconds(study.equal.values()),
        "the changed recipes": total_seconds(study.changed),
        "the LSTM": total_seconds(study.lstm.values()) + sum(sum(one.seconds) for one in study.lstm_searches.values()),
    }
    return {part: one / 60 for part, one in seconds.items() if one}


def seeds_side_by_side(groups: Iterable[Group]) -> int:
    """The most seeds that were trained at once: they have equal shares of the time of an epoch, to the last digit."""
    first = [group.curve.loc[group.curve["epoch"] == 1, "seconds"] for group in groups]
    return max(int(seconds.value_counts().max()) for seconds in first)


def petaflop_per_epoch(group: Group, study: Study) -> float | None:
    """Floating-point operations of one seed's training in an epoch, in units of 10^15; None where sizes are unknown.

    6 for each weight that a position meets in a product (2 forward, 4 backward), at every position of every window:
    nominal, since the trainer skips some of the padding. The embedding's half of New-LLM's first layer is a table
    computed once a step, and counts nothing; nor does validation.
    """
    weights = _weights(group, study)
    return None if weights is None else 6 * weights[1] * study.data.train.windows * (study.window - 1) / 1e15


def embedding_share(group: Group, study: Study) -> float | None:
    """Of the operations of the definition as written, those of the embedding's half of the first layer; a fraction."""
    weights = _weights(group, study)
    return None if weights is None else weights[0] / sum(weights)


def _weights(group: Group, study: Study) -> tuple[int, int] | None:
    """The weights that a position meets in products: those that read New-LLM's embedding, and the others."""
    sizes = [group.parameters.get(f"model.{name}") for name in ("embedding_dim", "context_dim", "hidden_size")]
    if not all(isinstance(size, int) and 0 < size <= LARGEST_SIZE for size in sizes):
        return None
    embedding, context, hidden = map(int, sizes)  # type: ignore[arg-type]
    words = study.data.vocabulary_size
    if group.kind == "lstm":
        return 0, 4 * hidden * (embedding + hidden) + words * hidden
    outputs = words + 3 * context  # logits, update and the two gates
    return embedding * hidden, context * hidden + (group.num_layers - 1) * hidden**2 + outputs * hidden


def within_operations(groups: Mapping[int, Group], study: Study) -> tuple[float, dict[int, Group]]:
    """The most operations that every seed of every group was trained, in PFLOP, and what each group was by then.

    Of a seed's figures only the lowest validation perplexity by then stays. No groups where sizes are unknown, or where
    the first epoch of one takes more.
    """
    per_epoch = {key: petaflop_per_epoch(group, study) or 0.0 for key, group in groups.items()}
    budget = min((per_epoch[key] * int(group.seeds["epochs_run"].min()) for key, group in groups.items()), default=0.0)
    last = {key: int(budget / one + 1e-9) if one else 0 for key, one in per_epoch.items()}
    if not all(last.values()):
        return budget, {}
    lowest = {key: {"seed": group.seeds["seed"], "val_ppl": group.lowest(last[key])} for key, group in groups.items()}
    return budget, {key: replace(group, seeds=pd.DataFrame(lowest[key])) for key, group in groups.items()}
