"""Counting, order, encoding, and what is written and read back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.data.text import read_split
from newllm.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Vocabulary, build_vocabulary
from newllm.errors import UserError

# Words and separators at which definitions of a word or of lower case differ.
WORDS = [
    "a",
    "b",
    "The",
    "the",
    "ΑΣ",
    "Σ",
    "İ",
    "ß",
    "Straße",
    "DŽ",
    "<unk>",
    "<UNK>",
    "<pad>",
    "<bos>",
    "<EOS>",
    "<unk>a",
]
SPACES = [" ", "  ", "\t", "\r", "\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000"]
OTHERS = ["\u200b", "\ufeff", "\x00", "e\u0301", "é", "日本", "\U0001f600"]
PIECES = st.sampled_from([*WORDS, *SPACES, *OTHERS])
ROWS = st.lists(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=12), max_size=12)


def test_special_tokens_have_their_ids() -> None:
    vocabulary = build_vocabulary(["a b"], 6)
    assert vocabulary.tokens == ["<pad>", "<unk>", "<bos>", "<eos>", "a", "b"]
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)


def test_most_frequent_first_and_ties_alphabetical() -> None:
    rows = ["zeta zeta zeta Mid mid MID", "é e É E", "b a", "d c"]
    for order in (rows, rows[::-1], rows[2:] + rows[:2]):
        assert build_vocabulary(order, 11).tokens[4:] == ["mid", "zeta", "e", "é", "a", "b", "c"]
    assert build_vocabulary(rows, 11).counts == [0, 1, 0, 0, 3, 3, 2, 2, 1, 1, 1]


def test_special_tokens_in_the_text_are_never_words() -> None:
    rows = ["<unk> <UNK> <pad> <pad> <bos> <Bos> <eos> <eos> <unk> a a b"]
    vocabulary = build_vocabulary(rows, 5)
    assert vocabulary.tokens == [*SPECIAL_TOKENS, "a"]
    assert vocabulary.counts == [0, 10, 0, 0, 2]
    with pytest.raises(UserError, match="has 2"):
        build_vocabulary(rows, 7)


def test_too_few_words_names_the_parameter() -> None:
    with pytest.raises(UserError) as error:
        build_vocabulary(["one two three"], 10)
    message = str(error.value)
    assert message.startswith("parameter data.vocabulary_size: 10 ids need 6 different words")
    assert "the training split has 3" in message
    assert "at most 7" in message
    assert len(build_vocabulary(["one two three"], 7)) == 7


def test_encoding() -> None:
    vocabulary = build_vocabulary(["the the cat"], 6)
    rows = ["The CAT the dog", "", "   ", "<unk> <Unk> <pad> <bos> <eos>", "the\u3000cat\x1cthe"]
    assert list(vocabulary.encode(rows)) == [[4, 5, 4, 1], [], [], [1, 1, 1, 1, 1], [4, 5, 4]]
    assert list(vocabulary.encode([])) == []


@given(rows=ROWS)
def test_encoding_agrees_with_counting(rows: list[str]) -> None:
    """Every counted word has its own id: encoding the counted text finds each exactly as often as counted."""
    words = [word for row in rows for word in row.lower().split()]
    known = sorted(set(words) - set(SPECIAL_TOKENS))
    if not known:
        return
    vocabulary = build_vocabulary(rows, len(known) + 4)
    encoded = list(vocabulary.encode(rows))
    assert [len(ids) for ids in encoded] == [len(row.lower().split()) for row in rows]
    ids = [id_ for row_ids in encoded for id_ in row_ids]
    assert ids == [vocabulary.tokens.index(word) if word in known else UNK for word in words]
    assert [ids.count(id_) for id_ in range(len(vocabulary))] == vocabulary.counts


def test_encoding_takes_rows_longer_than_a_batch() -> None:
    vocabulary = build_vocabulary(["a b"], 6)
    rows = ["a b " * 50_000, "b", "a " * 3, ""]
    assert [len(ids) for ids in vocabulary.encode(rows)] == [100_000, 1, 3, 0]


def test_saved_and_loaded(tmp_path: Path) -> None:
    vocabulary = build_vocabulary(["čaj ČAJ 茶 the \u200b"], 8)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == vocabulary
    assert "čaj" in (tmp_path / "vocabulary.json").read_text(encoding="utf-8")


GOOD: dict[str, Any] = {"tokens": [*SPECIAL_TOKENS, "a", "b"], "counts": [0, 1, 0, 0, 2, 1]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ([], "expected an object"),
        ({}, "expected the lists tokens and counts"),
        ({**GOOD, "tokens": None}, "expected the lists tokens and counts"),
        ({**GOOD, "more": 1}, "found the keys tokens, counts, more"),
        ({**GOOD, "counts": [1]}, "found 6 tokens and 1 counts"),
        ({**GOOD, "tokens": ["<unk>", "<pad>", "<bos>", "<eos>", "a", "b"]}, "found the first tokens ['<unk>'"),
        ({"tokens": ["<pad>"], "counts": [0]}, "found the first tokens ['<pad>']"),
        ({**GOOD, "tokens": [*SPECIAL_TOKENS, "a", "a"]}, "found the token 'a' twice"),
        ({**GOOD, "tokens": [*SPECIAL_TOKENS, "a", "<unk>"]}, "found the token '<unk>' twice"),
        ({**GOOD, "tokens": [*SPECIAL_TOKENS, "a", "b c"]}, "found the token 'b c'"),
        ({**GOOD, "tokens": [*SPECIAL_TOKENS, "a", ""]}, "found the token ''"),
        ({**GOOD, "tokens": [*SPECIAL_TOKENS, "a", 5]}, "found the token 5"),
        ({**GOOD, "counts": [0, 1, 0, 0, 2, -1]}, "found a count"),
        ({**GOOD, "counts": [0, 1, 0, 0, 2, 1.5]}, "found a count"),
    ],
)
def test_damaged_file(tmp_path: Path, value: Any, expected: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    with pytest.raises(UserError) as error:
        Vocabulary.load(path)
    message = str(error.value)
    assert expected in message
    assert message.startswith(str(path))
    assert "dvc repro build_vocabulary" in message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary\.json: no such file; run `dvc repro build_vocabulary`"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.wikitext2
def test_wikitext2_vocabulary(wikitext2: Path) -> None:
    vocabulary = build_vocabulary(read_split(wikitext2, "train"), 1_000)
    assert len(vocabulary) == 1_000
    assert vocabulary.tokens[4:10] == ["the", ",", ".", "of", "and", "in"]
    assert vocabulary.tokens[-4:] == ["room", "self", "teams", "bridge"]
    assert vocabulary.counts[-1] == 208
    assert sum(vocabulary.counts) == 2_051_910
