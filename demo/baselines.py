"""What a language model without a network reaches on the same windows: counts of single words and of pairs of words.

A model that does no better than the first has learnt how frequent the words are and nothing else; one that does no
better than the second knows the last word and nothing before it.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from newllm.data.vocabulary import PAD
from newllm.data.windows import load_windows

Ids = NDArray[np.int64]


def baseline_perplexities(windows: Path, vocabulary_size: int) -> tuple[float, float]:
    """Perplexities of a unigram and of a bigram model, fitted on the training and scored on the validation windows.

    The targets are those of the models: every token of a window but its first, without padding.

    Raises:
        UserError: a file is missing or holds no windows.
    """
    train, validation = (pairs(load_windows(windows / f"{split}.npy")) for split in ("train", "validation"))
    unigram, bigram = probabilities(*train, vocabulary_size)
    before, target = validation
    return perplexity(unigram[target]), perplexity(bigram[before, target])


def pairs(windows: NDArray[np.uint16]) -> tuple[Ids, Ids]:
    """Of windows [N, T + 1], each target that is not padding and the token before it, [K] both."""
    before, target = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
    return before[target != PAD], target[target != PAD]


def probabilities(before: Ids, target: Ids, vocabulary_size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of a word w [V], with one added to every count, and of w after h [V, V], by Witten and Bell's smoothing.

    p(w | h) = (n(h, w) + d(h) p(w)) / (n(h) + d(h)), where d(h) is the number of different words seen after h: the more
    there are, the more is left for those not seen. After a word that was never seen it is p(w). (Witten and Bell, "The
    zero-frequency problem", 1991; in this form in Chen and Goodman, 1998.)
    """
    counts = np.zeros((vocabulary_size, vocabulary_size))
    np.add.at(counts, (before, target), 1)
    unigram = (counts.sum(axis=0) + 1) / (counts.sum() + vocabulary_size)
    different = np.maximum((counts > 0).sum(axis=1, keepdims=True), 1)
    return unigram, (counts + different * unigram) / (counts.sum(axis=1, keepdims=True) + different)


def perplexity(probability: NDArray[np.float64]) -> float:
    """Of targets with these probabilities [K]."""
    return math.exp(-float(np.log(probability).mean()))
