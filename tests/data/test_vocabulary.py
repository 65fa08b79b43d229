"""What a word is, counting, order, encoding, and what is written and read back."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from newllm.data.text import read_split
from newllm.data.vocabulary import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    build_tokenizer,
    encode,
    load_tokenizer,
    save_tokenizer,
)
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
# A character that Python's Unicode does not know yet may have a lower case in the library's.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
ROWS = st.lists(st.lists(PIECES, max_size=12).map("".join) | st.text(CHARACTERS, max_size=12), max_size=12)


def words_of(row: str) -> list[str]:
    """The definition in Python: lower case character by character, and `<unk>` for what reads like a special token."""
    words = "".join(character.lower() for character in row).split()
    return ["<unk>" if word in SPECIAL_TOKENS else word for word in words]


def tokens_of(tokenizer: Tokenizer) -> list[str | None]:
    """In the order of their ids."""
    return [tokenizer.id_to_token(id_) for id_ in range(tokenizer.get_vocab_size())]


def test_special_tokens_have_their_ids() -> None:
    assert tokens_of(build_tokenizer(["a b"], 6)) == ["<pad>", "<unk>", "<bos>", "<eos>", "a", "b"]
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)


def test_most_frequent_first_and_ties_alphabetical() -> None:
    rows = ["zeta zeta zeta Mid mid MID", "é e É E", "\U00010000 a \uffe6", "d c"]
    expected = ["mid", "zeta", "e", "é", "a", "c", "d", "\uffe6", "\U00010000"]
    for order in (rows, rows[::-1], rows[2:] + rows[:2]):
        assert tokens_of(build_tokenizer(order, 13))[4:] == expected
        assert tokens_of(build_tokenizer(order, 10))[4:] == expected[:6]


def test_special_tokens_in_the_text_are_never_words() -> None:
    rows = ["<unk> <UNK> <pad> <pad> <bos> <Bos> <eos> <eos> <unk> a a b"]
    assert tokens_of(build_tokenizer(rows, 5)) == [*SPECIAL_TOKENS, "a"]
    assert tokens_of(build_tokenizer(rows, 6)) == [*SPECIAL_TOKENS, "a", "b"]
    with pytest.raises(UserError, match="has 2"):
        build_tokenizer(rows, 7)


def test_special_tokens_are_replaced_as_whole_words_only() -> None:
    words = ["<pad>a", "a<pad>", "<pad><bos>", "<<eos>>", "<bos>\u200b", "\x00<pad>", "<unk>a"]
    tokenizer = build_tokenizer([" ".join(words)], 4 + len(words))
    assert set(tokens_of(tokenizer)) == {*SPECIAL_TOKENS, *words}
    assert list(encode(tokenizer, ["<pad>\x1f<BOS>\u2028<eos>"])) == [[UNK, UNK, UNK]]


def test_lower_case_of_a_character_does_not_depend_on_others() -> None:
    assert tokens_of(build_tokenizer(["ΑΣ ασ İ Straße"], 7))[4:] == ["ασ", "i\u0307", "straße"]


def test_words_are_separated_where_python_separates_them() -> None:
    """All characters of Unicode, some thousand at a time."""
    pre_tokenizer = build_tokenizer(["a"], 5).pre_tokenizer
    assert pre_tokenizer is not None
    for start in range(0, sys.maxunicode, 1 << 12):
        text = "".join(chr(code) for code in range(start, start + (1 << 12)) if not 0xD800 <= code < 0xE000)
        assert [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] == text.split()


def test_too_few_words_names_the_parameter() -> None:
    with pytest.raises(UserError) as error:
        build_tokenizer(["one two three"], 10)
    message = str(error.value)
    assert message.startswith("parameter data.vocabulary_size: 10 ids need 6 different words")
    assert "the training split has 3" in message
    assert "at most 7" in message
    assert build_tokenizer(["one two three"], 7).get_vocab_size() == 7


def test_rows_are_read_in_the_main_thread_and_their_errors_come_through() -> None:
    """Where Python handles signals."""

    def rows() -> Iterator[str]:
        assert threading.current_thread() is threading.main_thread()
        yield "a"
        raise UserError("row 2: not valid UTF-8")

    with pytest.raises(UserError, match="row 2: not valid UTF-8"):
        build_tokenizer(rows(), 5)


def test_encoding() -> None:
    tokenizer = build_tokenizer(["the the cat"], 6)
    rows = ["The CAT the dog", "", "   ", "<unk> <Unk> <pad> <bos> <eos>", "the\u3000cat\x1cthe", "a " * 100_000]
    assert list(encode(tokenizer, rows)) == [[4, 5, 4, 1], [], [], [1, 1, 1, 1, 1], [4, 5, 4], [1] * 100_000]
    assert list(encode(tokenizer, [])) == []


@given(rows=ROWS)
@example(rows=["<unk> <unk> <UNK> <pad> a"])
@example(rows=["\x1c<BOS>\x85<unk>a ΑΣ", "<eos>\u3000"])
def test_ids_are_those_of_the_words(rows: list[str]) -> None:
    """Each counted word has its own id, most frequent first; the library finds them by what is in the file alone."""
    words = [words_of(row) for row in rows]
    counts = Counter(word for row in words for word in row if word != "<unk>")
    if not counts:
        return
    tokenizer = build_tokenizer(rows, 4 + len(counts))
    expected = [*SPECIAL_TOKENS, *sorted(counts, key=lambda word: (-counts[word], word))]
    assert tokens_of(tokenizer) == expected
    encoded = list(encode(tokenizer, rows))
    assert encoded == [[expected.index(word) for word in row] for row in words]
    alone = Tokenizer.from_str(tokenizer.to_str())
    assert [alone.encode(row, add_special_tokens=False).ids for row in rows] == encoded
    assert [alone.encode(row).ids for row in rows] == [[BOS, *ids] for ids in encoded]


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = build_tokenizer(["čaj ČAJ 茶 the \u200b"], 8)
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).to_str() == tokenizer.to_str()
    assert Tokenizer.from_file(str(path)).encode("ČAJ <pad> 茶").tokens == ["<bos>", "čaj", "<unk>", "茶"]
    assert "čaj" in path.read_text(encoding="utf-8")


Change = Callable[[dict[str, Any]], object]


def vocabulary(*words: str, **ids: int) -> Change:
    """Puts the special tokens, words and further tokens with ids of their own into a file's contents."""
    tokens = {token: id_ for id_, token in enumerate([*SPECIAL_TOKENS, *words])} | ids
    return lambda value: value["model"].update(vocab=tokens)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda value: value.clear(), "not a tokenizer"),
        (lambda value: value.pop("model"), "not a tokenizer"),
        (lambda value: value.update(tokens=[], counts=[]), "not a tokenizer"),
        (lambda value: value["model"]["vocab"].update(a=-1), "not a tokenizer"),
        (lambda value: value["model"]["vocab"].update(a="4"), "not a tokenizer"),
        (lambda value: value["pre_tokenizer"]["pattern"].update(Regex="["), "not a tokenizer"),
        (
            lambda value: value["model"]["vocab"].update({"<pad>": 1, "<unk>": 0}),
            "special tokens {'<pad>': 1, '<unk>': 0",
        ),
        (lambda value: value["model"]["vocab"].pop("<eos>"), "'<eos>': None}, expected the ids 0 to 3"),
        (vocabulary("a", b=4), "found 6 tokens whose ids are not 0 to 5, each once"),
        (vocabulary("a", b=6), "found 6 tokens whose ids are not 0 to 5, each once"),
        (vocabulary("a", "b c"), "found the token 'b c', expected one word in lower case without white space"),
        (vocabulary("a", "B"), "found the token 'B', expected"),
        (vocabulary("a", ""), "found the token '', expected"),
        (lambda value: value["model"].update({"unk_token": "a"}), "found another definition of a word"),
        (lambda value: value.update(normalizer=None), "found another definition of a word"),
        (lambda value: value.update(pre_tokenizer={"type": "WhitespaceSplit"}), "found another definition of a word"),
        (lambda value: value.update(post_processor=None), "found another definition of a word"),
    ],
)
def test_damaged_file(tmp_path: Path, change: Change, expected: str) -> None:
    value = json.loads(build_tokenizer(["a a b"], 6).to_str())
    change(value)
    assert expected in refused(tmp_path, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[]", "expected an object"), (None, "no such file")],
)
def test_no_json_object(tmp_path: Path, content: bytes | None, expected: str) -> None:
    assert expected in refused(tmp_path, content)


def refused(folder: Path, content: bytes | None) -> str:
    """What is said about a file of these contents."""
    path = folder / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("run `dvc repro build_vocabulary` to write it again")
    return message


@pytest.mark.wikitext2
def test_wikitext2_vocabulary(wikitext2: Path) -> None:
    tokenizer = build_tokenizer(read_split(wikitext2, "train"), 1_000)
    tokens = tokens_of(tokenizer)
    assert len(tokens) == 1_000
    assert tokens[4:10] == ["the", ",", ".", "of", "and", "in"]
    assert tokens[-4:] == ["room", "self", "teams", "bridge"]
    ids = Counter(id_ for row in encode(tokenizer, read_split(wikitext2, "train")) for id_ in row)
    assert ids[999] == 208
    assert ids.total() == 2_051_910
