"""The tokenizer: what a word is, four special tokens, and the most frequent words of the training split.

All of it is in one file of Hugging Face tokenizers, data/tokenizer.json, which gives the study's ids without this code.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer

from newllm.errors import UserError
from newllm.files import atomic_path, read_json

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(len(SPECIAL_TOKENS))

# Where Python's str.split() splits, written out: what other tools take for white space differs.
_SPACE = r"\u0009-\u000D\u001C-\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000"
_WRITTEN_SPECIAL = rf"(?<![^{_SPACE}])<(?:pad|bos|eos)>(?![^{_SPACE}])"

# Several threads are no faster, and would read the rows where Ctrl-C and other signals do not reach Python.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def build_tokenizer(rows: Iterable[str], size: int) -> Tokenizer:
    """Counts the words of `rows` and keeps the most frequent, ties in alphabetical (code point) order.

    Args:
        rows: the training split; read once, a few at a time.
        size: number of ids, the four special tokens included (parameter data.vocabulary_size).

    Raises:
        UserError: the rows hold fewer different words than are needed.
    """
    needed = size - len(SPECIAL_TOKENS)
    counted = _tokenizer([])
    # `<unk>` is one of the words that are counted: the trainer, given the special tokens, would give it a second id.
    counted.train_from_iterator(rows, WordLevelTrainer(vocab_size=needed + 1, special_tokens=[], show_progress=False))
    ids = counted.get_vocab()
    words = [word for word in sorted(ids, key=ids.__getitem__) if word != SPECIAL_TOKENS[UNK]]
    if len(words) < needed:
        raise UserError(
            f"parameter data.vocabulary_size: {size} ids need {needed} different words beside the "
            f"{len(SPECIAL_TOKENS)} special tokens, but the training split has {len(words)}; "
            f"set it to at most {len(words) + len(SPECIAL_TOKENS)}, or use a larger corpus"
        )
    return _tokenizer([*SPECIAL_TOKENS, *words[:needed]])


def encode(tokenizer: Tokenizer, rows: Iterable[str]) -> Iterator[list[int]]:
    """The ids of each row's words, in as many lists as there are rows; a row at a time.

    A special token that stands in the text, in any case, is the word `<unk>` with the id 1.
    """
    for row in rows:
        (encoding,) = tokenizer.encode_batch_fast([row], add_special_tokens=False)  # faster than encode: no offsets
        yield encoding.ids


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes the tokenizer as JSON that `tokenizers.Tokenizer.from_file` reads, in one step."""
    with atomic_path(path) as beside:
        beside.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads what `save_tokenizer` wrote.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold a tokenizer of `build_tokenizer`.
    """
    read_json(path, "build_vocabulary")  # its errors say more than the library's
    remedy = "run `dvc repro build_vocabulary` to write it again"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path}: not a tokenizer ({error}); {remedy}") from None
    problem = _problem(tokenizer)
    if problem:
        raise UserError(f"{path}: {problem}; {remedy}")
    return tokenizer


def _tokenizer(tokens: list[str]) -> Tokenizer:
    """The one definition of a word, for counting and for encoding, with tokens in the order of their ids.

    Words are lower-cased, a character at a time, and separated by white space; one that reads `<pad>`, `<bos>` or
    `<eos>` is unknown. The library's "added tokens" would be found in the text, and even within words. Where special
    tokens are asked for, a row begins with `<bos>`; it has no `<eos>`, as a model is to go on.
    """
    tokenizer = Tokenizer(WordLevel({token: id_ for id_, token in enumerate(tokens)}, unk_token=SPECIAL_TOKENS[UNK]))
    tokenizer.normalizer = Normalizers([Lowercase(), Replace(Regex(_WRITTEN_SPECIAL), SPECIAL_TOKENS[UNK])])
    tokenizer.pre_tokenizer = Split(Regex(f"[{_SPACE}]+"), "removed")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{SPECIAL_TOKENS[BOS]} $A", special_tokens=[(SPECIAL_TOKENS[BOS], BOS)]
    )
    return tokenizer


def _problem(tokenizer: Tokenizer) -> str | None:
    """What is wrong with a tokenizer that was read from a file; None if nothing is."""
    ids = tokenizer.get_vocab()
    special = {token: ids.get(token) for token in SPECIAL_TOKENS}
    if list(special.values()) != [PAD, UNK, BOS, EOS]:
        return f"found the special tokens {special}, expected the ids 0 to 3"
    if sorted(ids.values()) != list(range(len(ids))):
        return f"found {len(ids)} tokens whose ids are not 0 to {len(ids) - 1}, each once"
    tokens = sorted(ids, key=ids.__getitem__)
    if tokenizer.to_str() != _tokenizer(tokens).to_str():
        return "found another definition of a word, expected that of newllm.data.vocabulary"
    words = tokens[len(SPECIAL_TOKENS) :]
    for word, encoded in zip(words, encode(tokenizer, words), strict=True):
        if encoded != [ids[word]]:
            return f"found the token {word!r}, expected one word in lower case without white space"
    return None
