"""The LSTM's best recipe: search, finalists and confirmation, with the rules of New-LLM's."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from newllm.config import Config, LstmSpaceConfig
from newllm.runtime.parts import PartsStore
from newllm.studies.lstm import LstmShape, loss_and_accuracy, train_lstm
from newllm.studies.search import (
    Checkpoints,
    Outcome,
    Recipe,
    Searched,
    choose,
    chosen,
    leaving,
    search_and_choose,
    seed_figures,
)
from newllm.studies.tuning import margins_of, outcomes_of, plan_with, row_of
from newllm.training.records import EpochRow, RowResult, Training
from newllm.training.rows import Row
from newllm.training.trainer import Rule


@dataclass(frozen=True)
class Found:
    """What the search came to, and the winner trained with fresh seeds."""

    search: Searched
    recipe: Recipe
    confirmed: Training

    def metrics(self) -> dict[str, Any]:
        """Recipe and search for a metrics file."""
        return {
            "recipe": dict(self.recipe),
            "space": {knob: list(values) for knob, values in self.search.space.items()},
            "trials": [asdict(trial) for trial in self.search.trials],
            "finalists": [asdict(one) for one in self.search.finalists],
            "chosen": chosen(self.search.space, self.search.finalists),
        }

    def seeds(self, test: Tensor, batch_size: int, dtype: torch.dtype) -> list[dict[str, Any]]:
        """The confirmed seeds' figures, with those of the windows `test` of the test split."""
        parameters = {name: value.to(test.device) for name, value in self.confirmed.parameters.items()}
        scores = zip(*(x.tolist() for x in loss_and_accuracy(parameters, test, batch_size, dtype)), strict=True)
        return [
            seed_figures(outcome) | {"test_loss": loss, "test_ppl": math.exp(loss), "test_accuracy": accuracy}
            for outcome, (loss, accuracy) in zip(outcomes_of(self.confirmed), scores, strict=True)
        ]


def find(shape: LstmShape, config: Config, windows: tuple[Tensor, Tensor], store: PartsStore) -> Found:
    """Searches, trains the finalists with further seeds and the winner with fresh ones.

    Args:
        shape: the LSTMs' sizes.
        config: all of params.yaml; sections `lstm`, `search` and `train` are used.
        windows: ids of the training and the validation split, on the device to train on.
        store: keeps the state; killed, the search goes on within its round.

    Raises:
        UserError: nothing trained to its end, or a fresh seed of the winner diverged.
    """
    own, common = config.lstm, config.search
    rounds = own.trials, own.first_round, own.round_size
    start = common.start.model_dump(include=set(LstmSpaceConfig.model_fields))
    plan = plan_with(own.space.model_dump(), start, rounds, common)

    def train(pairs: Sequence[tuple[int, Recipe]], rule: Rule | None = None) -> Training:
        stack = [_row(recipe, seed, config) for seed, recipe in pairs]
        return train_lstm(shape, stack, config.train, windows, own.places, store, rule)

    def part(name: str, pairs: Sequence[tuple[int, Recipe]], rule: Rule | None = None) -> list[Outcome]:
        return [_outcome(values) for values in store.part(name, lambda: _values(train(pairs, rule)))]

    def train_round(number: int, recipes: Sequence[Recipe], before: Sequence[Outcome]) -> list[Outcome]:
        rule = _rule([outcome.val_losses for outcome in before], margins_of(common))
        return part(f"round {number + 1}", [(plan.seed, recipe) for recipe in recipes], rule)

    def train_further(widenings: int, pairs: Sequence[tuple[Recipe, int]]) -> list[Outcome]:
        name = f"the finalists after {widenings} widenings" if widenings else "the finalists"
        return part(name, [(seed, recipe) for recipe, seed in pairs])

    found = search_and_choose(plan, train_round, train_further)
    winner = choose(found.finalists).recipe
    print(f"the winner, which fresh seeds confirm: {winner}", flush=True)
    confirmed = store.last("the confirmation", lambda: train([(seed, winner) for seed in common.confirm_seeds]))
    confirmed.check_converged()
    return Found(found, winner, confirmed)


def _row(recipe: Recipe, seed: int, config: Config) -> Row:
    """A row as New-LLM's with the knobs that an LSTM has; the others do not count."""
    return row_of({"residual": False, "initialisation": "normal", **recipe}, seed, config.train)


def _rule(known: Sequence[Sequence[float]], margins: Checkpoints) -> Rule:
    """The search's pruning; of rows that train one after the other it sees those before as those of earlier rounds."""

    def rule(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> list[int]:
        losses = {number: [epoch.val_loss for epoch in curve] for number, curve in curves.items()}
        return leaving(losses, going_on, known, margins)

    return rule


def _values(training: Training) -> list[Any]:
    return [[asdict(one.result), [asdict(epoch) for epoch in one.curve]] for one in outcomes_of(training)]


def _outcome(values: Any) -> Outcome:
    result, curve = values
    return Outcome(RowResult(**result), [EpochRow(**epoch) for epoch in curve])
