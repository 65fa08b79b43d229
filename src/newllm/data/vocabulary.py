"""The vocabulary: four special tokens and the most frequent words of the training split."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import CharDelimiterSplit

from newllm.data.text import words
from newllm.errors import UserError
from newllm.files import read_json, write_json

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(len(SPECIAL_TOKENS))

_BATCH_WORDS = 1 << 16


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, the special tokens first, with their occurrences among the counted words.

    What is counted for `<unk>` are the words that have no id of their own; the other special tokens count 0.
    """

    tokens: list[str]
    counts: list[int]

    def __len__(self) -> int:
        return len(self.tokens)

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON: {"tokens": [...], "counts": [...]}."""
        write_json(path, {"tokens": self.tokens, "counts": self.counts})

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing, is not JSON, or does not hold a vocabulary.
        """
        value = read_json(path, "build_vocabulary")
        problem = _problem(value)
        if problem:
            raise UserError(f"{path}: {problem}; run `dvc repro build_vocabulary` to write it again")
        return cls(value["tokens"], value["counts"])

    def encode(self, rows: Iterable[str]) -> Iterator[list[int]]:
        """The ids of each row's words, in as many lists as there are rows; a batch of rows at a time.

        `<unk>` in any case is the id 1; the other special tokens written in the text are words without an id.
        """
        ids = {token: id_ for id_, token in enumerate(self.tokens) if id_ not in {PAD, BOS, EOS}}
        tokenizer = Tokenizer(WordLevel(ids, unk_token=SPECIAL_TOKENS[UNK]))
        # Rust's idea of white space is not Python's, so the tokenizer gets words that are already apart.
        tokenizer.pre_tokenizer = CharDelimiterSplit(" ")
        for batch in _batches(rows):
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids


def build_vocabulary(rows: Iterable[str], size: int) -> Vocabulary:
    """Counts the words of `rows` and keeps the most frequent, ties in alphabetical (code point) order.

    Args:
        rows: the training split; read once, a row at a time.
        size: number of ids, the four special tokens included (parameter data.vocabulary_size).

    Raises:
        UserError: the rows hold fewer different words than are needed.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(words(row))
    total = counts.total()
    for token in SPECIAL_TOKENS:
        del counts[token]
    needed = size - len(SPECIAL_TOKENS)
    if len(counts) < needed:
        raise UserError(
            f"parameter data.vocabulary_size: {size} ids need {needed} different words beside the "
            f"{len(SPECIAL_TOKENS)} special tokens, but the training split has {len(counts)}; "
            f"set it to at most {len(counts) + len(SPECIAL_TOKENS)}, or use a larger corpus"
        )
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:needed]
    special_counts = [0] * len(SPECIAL_TOKENS)
    special_counts[UNK] = total - sum(count for _, count in kept)
    return Vocabulary([*SPECIAL_TOKENS, *(word for word, _ in kept)], [*special_counts, *(count for _, count in kept)])


def _batches(rows: Iterable[str]) -> Iterator[list[str]]:
    """Rows as words joined by single spaces, grouped to bounded numbers of words and of rows."""
    batch: list[str] = []
    num_words = 0
    for row in rows:
        row_words = words(row)
        batch.append(" ".join(row_words))
        num_words += len(row_words) + 1
        if num_words >= _BATCH_WORDS:
            yield batch
            batch, num_words = [], 0
    yield batch


def _problem(value: dict[str, Any]) -> str | None:
    """What is wrong with the contents of a vocabulary file; None if nothing is."""
    tokens, counts = value.get("tokens"), value.get("counts")
    if not isinstance(tokens, list) or not isinstance(counts, list) or len(value) != 2:
        return f"found the keys {', '.join(value) or 'none'}, expected the lists tokens and counts"
    if len(tokens) != len(counts):
        return f"found {len(tokens)} tokens and {len(counts)} counts, expected as many"
    if tokens[: len(SPECIAL_TOKENS)] != list(SPECIAL_TOKENS):
        return f"found the first tokens {tokens[: len(SPECIAL_TOKENS)]}, expected {list(SPECIAL_TOKENS)}"
    for token in tokens:
        if not isinstance(token, str) or token.split() != [token]:
            return f"found the token {token!r}, expected a word without white space"
    if len(set(tokens)) != len(tokens):
        return f"found the token {Counter(tokens).most_common(1)[0][0]!r} twice, expected each once"
    if any(type(count) is not int or count < 0 for count in counts):
        return "found a count that is not a number of occurrences"
    return None
