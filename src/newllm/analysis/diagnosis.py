"""Reads and checks what the diagnose stage wrote about the depths."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from newllm.analysis.overfitting import Diagnostics
from newllm.analysis.records import (
    LOSS_TOLERANCE,
    Amount,
    Count,
    Loss,
    Perplexity,
    Record,
    Seed,
    Text,
    problem,
    validate,
    write_again,
)
from newllm.analysis.results import DepthResult
from newllm.files import read_json

Norms = dict[Text, Amount]


class GradientNorms(Record):
    """Norms of the gradient by weight, of fresh weights and of the best ones."""

    initial: Norms
    best: Norms


class SeedDiagnosis(Record):
    """One seed; losses in nats, by position None where no target is.

    The gain is what `context_stride` more tokens of context are worth, by position in the later of two windows.
    """

    seed: Seed
    train_loss_without_dropout: Loss
    val_loss: Loss
    gap: Annotated[float, Field(ge=-230, le=230)]
    val_loss_without_unk: Loss
    val_ppl_without_unk: Perplexity
    val_loss_by_position: list[Loss | None]
    val_loss_by_position_full_windows: list[Loss | None]
    context_gain_by_position: list[Annotated[float, Field(ge=-230, le=230)]]
    gradient_norms: GradientNorms


class Continuation(Record):
    """What one seed's model writes after a prompt."""

    prompt: str
    greedy: str
    sampled: str


class Samples(Record):
    """Continuations by the model of one seed."""

    seed: Seed
    texts: list[Continuation]


class Diagnosis(Record):
    """metrics/diagnostics/<depth>.json: what was looked into at one depth; targets by position are numbers of them.

    `context_pairs` are the pairs of windows that overlap, `context_stride` tokens apart.
    """

    num_layers: Count
    device: Text
    precision: Text
    train_windows: Count
    val_windows: Count
    gradient_windows: Count
    targets_by_position: list[int]
    targets_by_position_full_windows: list[int]
    context_stride: Count
    context_pairs: Annotated[int, Field(ge=0, le=10**15)]
    seeds: Annotated[list[SeedDiagnosis], Field(min_length=1)]
    samples: Samples

    @model_validator(mode="after")
    def _complete(self) -> Self:
        layers = {f"hidden.{layer}.weight" for layer in range(1, self.num_layers + 1)}
        gains = len(self.targets_by_position) - self.context_stride if self.context_pairs else 0
        for seed in self.seeds:
            if len(seed.context_gain_by_position) != gains:
                raise ValueError(f"seed {seed.seed}: context_gain_by_position has not the {gains} positions of overlap")
            for name in ("", "_full_windows"):
                targets = getattr(self, f"targets_by_position{name}")
                losses = getattr(seed, f"val_loss_by_position{name}")
                if [loss is not None for loss in losses] != [count > 0 for count in targets]:
                    raise ValueError(
                        f"seed {seed.seed}: val_loss_by_position{name} has values elsewhere than where targets are"
                    )
            for norms in (seed.gradient_norms.initial, seed.gradient_norms.best):
                if missing := sorted(layers - norms.keys()):
                    raise ValueError(f"seed {seed.seed}: gradient_norms lack {missing[0]}")
        return self

    @property
    def overfitting(self) -> Diagnostics:
        """What the claim about overfitting rests on."""
        train_losses = tuple(seed.train_loss_without_dropout for seed in self.seeds)
        return Diagnostics(self.num_layers, train_losses, self.layer_norms("best"), self.layer_norms("initial"))

    def layer_norms(self, weights: str) -> tuple[float, ...]:
        """By hidden layer the norm of its weights' gradient, mean over seeds; `weights` is initial or best."""
        sums = []
        for layer in range(1, self.num_layers + 1):
            norms = [getattr(seed.gradient_norms, weights)[f"hidden.{layer}.weight"] for seed in self.seeds]
            sums.append(math.fsum(norms) / len(norms))
        return tuple(sums)


class _File(Record):
    diagnostics: Annotated[list[Diagnosis], Field(min_length=1, max_length=1)]


def load_diagnoses(results: Sequence[DepthResult], folder: Path) -> list[Diagnosis]:
    """Those of the depths that were diagnosed, seeds in the order of the results.

    Args:
        results: the depths and what they reached.
        folder: metrics/diagnostics.

    Raises:
        UserError: a file is malformed, or is not of these results.
    """
    paths = [(result, folder / f"{result.num_layers}.json") for result in results]
    return [_load(result, path) for result, path in paths if path.exists()]


def _load(result: DepthResult, path: Path) -> Diagnosis:
    stage = f"diagnose@{result.num_layers}"
    remedy = write_again(stage)
    diagnosis = validate(_File, read_json(path, stage), path, remedy).diagnostics[0]
    if diagnosis.num_layers != result.num_layers:
        raise problem(path, f"found num_layers {diagnosis.num_layers}, expected {result.num_layers}", remedy)
    by_seed = {seed.seed: seed for seed in diagnosis.seeds}
    expected = [run.seed for run in result.runs.seeds]
    if sorted(seed.seed for seed in diagnosis.seeds) != sorted(expected):
        raise problem(path, f"found the seeds {sorted(by_seed)}, but metrics/runs has {sorted(expected)}", remedy)
    for run in result.runs.seeds:
        found = by_seed[run.seed].val_loss
        if abs(found - run.val_loss) > LOSS_TOLERANCE:
            values = f"found a validation loss of {found:.4f}, but metrics/runs has {run.val_loss:.4f}"
            raise problem(path, f"seed {run.seed}: {values}", remedy)
    return diagnosis.model_copy(update={"seeds": [by_seed[seed] for seed in expected]})
