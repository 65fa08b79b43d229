"""The generator: the same everywhere, any size, in WikiText's layout, and with something to learn."""

import hashlib
import math
import re
import time
import tracemalloc
from collections import Counter, defaultdict
from itertools import islice, pairwise

import pytest

from newllm.config import SyntheticConfig
from newllm.corpus.synthetic import VERB_ENDINGS, synthetic_rows
from newllm.data.text import SPLITS


def rows_of(train_words: int, split: str = "train", seed: int = 0) -> list[str]:
    return list(synthetic_rows(SyntheticConfig(seed=seed, train_words=train_words), split))


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return rows_of(300_000)


@pytest.fixture(scope="module")
def corpus(rows: list[str]) -> list[str]:
    return [word for row in rows for word in row.lower().split()]


def entropy_bits(counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def conditional_entropy_bits(pairs: list[tuple[str, str]]) -> float:
    """The entropy of the second of each pair when the first is known."""
    following: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for known, unknown in pairs:
        following[known][unknown] += 1
    return sum(counts.total() * entropy_bits(counts) for counts in following.values()) / len(pairs)


def test_the_bytes_are_fixed() -> None:
    """A change of these sums makes every synthetic result incomparable with earlier ones."""
    sums = {split: hashlib.sha256("\n".join(rows_of(20_000, split)).encode()).hexdigest()[:16] for split in SPLITS}
    assert sums == {"train": "3b944ca3a726c5f3", "validation": "c41e9e32269bb4de", "test": "d148c971fcb660ac"}


def test_same_seed_same_text_and_other_seed_other_text(rows: list[str]) -> None:
    assert rows_of(300_000) == rows
    assert rows_of(300_000, seed=1) != rows


def test_a_larger_corpus_begins_with_the_smaller(rows: list[str]) -> None:
    smaller = rows_of(20_000)
    assert smaller[:-1] == rows[: len(smaller) - 1]


def test_splits_share_no_paragraph_and_no_stream(rows: list[str]) -> None:
    def paragraphs(of: list[str]) -> set[str]:
        return {row for row in of if len(row.split()) > 20}

    train, validation, test = (paragraphs(rows_of(300_000, split)) for split in SPLITS)
    other_seed = paragraphs(rows_of(300_000, seed=1))
    assert min(len(train), len(validation), len(test)) > 200
    assert not (train & validation or train & test or validation & test or train & other_seed)
    assert len(train) > 0.99 * sum(len(row.split()) > 20 for row in rows)  # nor does the stream repeat


@pytest.mark.parametrize("train_words", [1_000, 12_345, 300_000])
def test_size_is_what_was_asked_and_at_most_a_sentence_more(train_words: int) -> None:
    for split, size in zip(SPLITS, (train_words, train_words // 10, train_words // 10), strict=True):
        num_words = sum(len(row.split()) for row in rows_of(train_words, split))
        assert size <= num_words <= size + 60


def test_layout_is_that_of_wikitext(rows: list[str]) -> None:
    heading = re.compile(r"(= ){1,3}[A-Z][^=]*( =){1,3}")
    headings = [number for number, row in enumerate(rows) if row.startswith("=")]
    assert all(heading.fullmatch(rows[number]) for number in headings)
    assert all(rows[number].count("=") % 2 == 0 for number in headings)
    assert all(rows[number - 1] == "" and rows[number + 1] == "" for number in headings)
    assert {rows[number].count("=") for number in headings} == {2, 4, 6}
    paragraphs = [row for row in rows if row and not row.startswith("=")]
    assert 60 < sum(len(row.split()) for row in paragraphs) / len(paragraphs) < 140
    assert all(row == row.strip() and "  " not in row for row in rows)


def test_quotations_and_parentheses_are_closed(rows: list[str]) -> None:
    for row in rows:
        tokens = row.split()
        assert tokens.count("(") == tokens.count(")")
        assert tokens.count('"') % 2 == 0
        assert not row or row.startswith("=") or row.endswith((" .", '"'))


def test_enough_words_for_any_vocabulary(corpus: list[str]) -> None:
    assert len({word for row in rows_of(20_000) for word in row.lower().split()}) > 1_000
    assert len({word for row in rows_of(1_000) for word in row.lower().split()}) > 200
    assert len(set(corpus)) > 5_000


def test_unknown_words_are_about_five_percent(corpus: list[str]) -> None:
    assert 0.04 < corpus.count("<unk>") / len(corpus) < 0.06
    assert not {"<pad>", "<bos>", "<eos>"} & set(corpus)


def test_frequencies_are_like_zipfs(corpus: list[str]) -> None:
    frequencies = [count for _, count in Counter(corpus).most_common()]
    points = [(math.log(rank), math.log(frequencies[rank - 1])) for rank in (10, 30, 100, 300, 1_000, 3_000)]
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    assert -1.3 < slope < -0.8
    assert 0.03 < frequencies[0] / len(corpus) < 0.12


def test_the_word_before_helps(corpus: list[str]) -> None:
    """Held-out cross-entropy of a bigram model, interpolated with the unigram one, against the unigram's alone."""
    held_out = [word for row in rows_of(300_000, "validation") for word in row.lower().split()]
    unigrams, bigrams = Counter(corpus), Counter(pairwise(corpus))
    vocabulary = len(unigrams) + 1
    loss_unigram = loss_bigram = 0.0
    for before, word in pairwise(held_out):
        unigram = (unigrams[word] + 1) / (len(corpus) + vocabulary)
        bigram = bigrams[before, word] / unigrams[before] if before in unigrams else 0.0
        loss_unigram -= math.log(unigram)
        loss_bigram -= math.log(0.2 * unigram + 0.8 * bigram)
    assert loss_bigram < 0.85 * loss_unigram


def test_the_subject_words_back_decides_the_verb(rows: list[str]) -> None:
    """In "The X of the Y verb", the ending follows X and not Y, which stands next to it."""
    pattern = re.compile(rf"The (\S+) of \S+ (\S+) \S+({'|'.join(VERB_ENDINGS)}) ")
    found = [match.groups() for row in rows for match in pattern.finditer(row)]
    endings = Counter(ending for _, _, ending in found)
    unknown = entropy_bits(endings)
    near = conditional_entropy_bits([(noun, ending) for _, noun, ending in found])
    subject = conditional_entropy_bits([(noun, ending) for noun, _, ending in found])
    assert len(found) > 3_000
    assert unknown > 0.9
    assert subject == 0
    assert near > 0.5  # what remains below 1 is chance: many nouns are met a few times only


def test_a_pronoun_takes_the_verb_of_a_sentence_further_back(rows: list[str]) -> None:
    opening = re.compile(rf"The \S+ of \S+ \S+ \S+({'|'.join(VERB_ENDINGS)}) ")
    pronoun = re.compile(rf"\. It \S+({'|'.join(VERB_ENDINGS)}) .*?, and \S+({'|'.join(VERB_ENDINGS)}) ")
    checked = 0
    for row in rows:
        first = opening.match(row)
        for match in pronoun.finditer(row) if first else ():
            assert first is not None
            assert match[1] == match[2] == first[1]
            checked += 1
    assert checked > 500


def test_articles_have_topics(rows: list[str]) -> None:
    """Nouns of one half of an article are met in its other half far more often than in another article."""
    articles: list[list[str]] = []
    for row in rows:
        if re.fullmatch(r"= [^=]+ =", row):
            articles.append([])
        elif row and not row.startswith("="):
            articles[-1] += [word for word in row.lower().split() if word.endswith("o")]
    long = [article for article in articles if len(article) > 100]
    halves = [(set(article[: len(article) // 2]), article[len(article) // 2 :]) for article in long]

    def met(first: set[str], second: list[str]) -> float:
        return sum(noun in first for noun in second) / len(second)

    same = sum(met(first, second) for first, second in halves) / len(halves)
    other = sum(met(first, second) for (first, _), (_, second) in pairwise(halves)) / (len(halves) - 1)
    assert len(long) > 20
    assert same > 1.5 * other


def test_titles_return_in_the_article(rows: list[str]) -> None:
    title = ""
    named = 0
    lives = re.compile(r"(\S+ \S+) \( (\d{4}) – (\d{4}) \)")
    for row in rows:
        if heading := re.fullmatch(r"= ([^=]+) =", row):
            title = heading[1]
        for name, birth, death in lives.findall(row):
            assert name == title
            assert int(birth) < int(death)
            named += 1
    assert named > 500


def test_it_is_fast_and_flat() -> None:
    config = SyntheticConfig(seed=0, train_words=10**12)
    began = time.process_time()
    size = sum(len(row) + 1 for row in islice(synthetic_rows(config, "train"), 20_000))
    assert size / (time.process_time() - began) > 2e6  # bytes a second; some 20e6 on a quiet machine

    tracemalloc.start()
    peaks = []
    for num_rows in (500, 10_000):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in islice(synthetic_rows(config, "train"), num_rows):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6
