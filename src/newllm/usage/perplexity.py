"""The perplexity of any text, row by row.

A row is `<bos>`, its words, `<eos>`. The context is carried through the whole row, however long. Every word and `<eos>`
is a target, once; a row without a word is left out. The study counts otherwise: in windows of 64 tokens that begin with
an empty context and overlap, without rows of fewer than five words.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice

import torch
from torch.nn.functional import cross_entropy

from newllm.data.vocabulary import BOS, EOS, UNK
from newllm.usage.recurrence import Recurrence

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Score:
    """Sums over rows: their words, `<unk>` among them, and losses in nats: of all targets, of `<unk>`, of `<eos>`."""

    rows: int = 0
    words: int = 0
    unk_words: int = 0
    nats: float = 0.0
    unk_nats: float = 0.0
    end_nats: float = 0.0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, float]:
        """What people compare; at least one row is needed.

        `loss` in nats and `ppl`, its exponential, are means over words and `<eos>`, as in the study; without `<unk>`
        over the other targets, where the model may predict `<unk>` like anything else; `word_ppl` is over words alone,
        as the lm-evaluation-harness counts.
        """
        targets = self.words + self.rows
        loss = self.nats / targets
        known = (self.nats - self.unk_nats) / (targets - self.unk_words)
        return {
            "words": self.words,
            "unk_share_pct": 100 * self.unk_words / self.words,
            "loss": loss,
            "ppl": math.exp(loss),
            "loss_without_unk": known,
            "ppl_without_unk": math.exp(known),
            "word_ppl": math.exp((self.nats - self.end_nats) / self.words),
        }


def row_scores(model: Recurrence, rows: Iterable[list[int]]) -> Iterator[tuple[int, Score]]:
    """Scores rows of ids, in their order and as they come.

    Yields:
        The number of each row that has a word, counted from 1, and its score.
    """
    numbered = ((number, ids) for number, ids in enumerate(rows, start=1) if ids)
    while batch := list(islice(numbered, ROWS_AT_ONCE)):
        scores = _scores(model, [ids for _, ids in batch])
        yield from zip((number for number, _ in batch), scores, strict=True)


def _scores(model: Recurrence, rows: Sequence[list[int]]) -> list[Score]:
    """Of rows that are read beside one another, the longest first; one that has ended is left out of the steps."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    texts = [[BOS, *rows[index], EOS] for index in order]
    nats = torch.zeros(3, len(texts), dtype=torch.float64)  # of all targets, of <unk>, of <eos>
    context = model.start(len(texts))
    for position in range(1, len(texts[0])):
        going = sum(len(text) > position for text in texts)
        read, targets = (torch.tensor([text[at] for text in texts[:going]]) for at in (position - 1, position))
        logits, context = model.step(context[:going], read)
        losses = cross_entropy(logits, targets, reduction="none").double()
        nats[:, :going] += torch.stack([losses, losses * (targets == UNK), losses * (targets == EOS)])
    found = dict(zip(order, nats.T.tolist(), strict=True))
    return [Score(1, len(ids), ids.count(UNK), *found[index]) for index, ids in enumerate(rows)]
