"""Losses of rows against the definition's, read whole, and the figures that they come to by hand."""

import math

import pytest
import torch

from newllm.data.vocabulary import BOS, EOS, UNK
from newllm.model.definition import ModelShape, logits
from newllm.usage import perplexity
from newllm.usage.perplexity import Score, row_scores
from newllm.usage.recurrence import Recurrence
from tests.usage.conftest import random_parameters

ROWS = [[5, UNK, 7], [], [9], [4, 4, UNK, UNK, 10, 11, 12, 13], [6, 7], [UNK]]


def test_figures_by_hand() -> None:
    score = Score(1, 2, 1, 3.0, 0.5, 0.25) + Score(1, 4, 1, 5.0, 0.5, 0.25)
    assert score == Score(2, 6, 2, 8.0, 1.0, 0.5)
    expected = {
        "words": 6,
        "unk_share_pct": 100 / 3,
        "loss": 1.0,
        "ppl": math.e,
        "loss_without_unk": 7 / 6,
        "ppl_without_unk": math.exp(7 / 6),
        "word_ppl": math.exp(7.5 / 6),
    }
    assert score.figures() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rows_at_once", [1, 2, 256])
def test_scores_are_the_definitions(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "ROWS_AT_ONCE", rows_at_once)
    parameters = random_parameters(ModelShape(16, 5, 6, 8, 3), (4,))
    found = dict(row_scores(Recurrence(parameters), ROWS))
    assert list(found) == [1, 3, 4, 5, 6]
    for number, score in found.items():
        ids = ROWS[number - 1]
        text = [BOS, *ids, EOS]
        probabilities = logits(parameters, torch.tensor([[text[:-1]]]))[0, 0].double().softmax(-1)
        losses = [-math.log(probabilities[place, target]) for place, target in enumerate(text[1:])]
        assert (score.rows, score.words, score.unk_words) == (1, len(ids), ids.count(UNK))
        assert score.nats == pytest.approx(sum(losses), rel=1e-6)
        unknown = sum(loss for loss, target in zip(losses, text[1:], strict=True) if target == UNK)
        assert score.unk_nats == pytest.approx(unknown, rel=1e-6)
        assert score.end_nats == pytest.approx(losses[-1], rel=1e-6)
