"""Windows against a slow obvious implementation, the files that hold them, and the memory that it takes."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newllm.data.text import SPLITS, read_split
from newllm.data.vocabulary import build_tokenizer, encode
from newllm.data.windows import cut_row, load_windows, write_split, write_windows
from newllm.errors import UserError

ROOT = Path(__file__).parents[2]

WORDS = st.sampled_from(["a", "A", "b", "c", "c", "d", "Ünï", "日本", "<unk>", "<UNK>", "<pad>", "<bos>", "<eos>"])
SPACES = st.sampled_from([" ", " ", " ", "  ", "\t", "\xa0", "\u2003", "\u3000", "\u2028", "\x85", "\x1c", "\r"])
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\n\n", " \n"])
TEXTS = st.builds(
    lambda rows, last: "".join("".join(word + space for word, space in row) + end for row, end in rows) + last,
    st.lists(st.tuples(st.lists(st.tuples(WORDS, SPACES), max_size=25), ENDS), max_size=8),
    st.sampled_from(["", "a b c d e f", " "]),
)


def obvious_windows(text: str, tokens: list[str], min_words: int, window: int, stride: int) -> list[list[int]]:
    """study.md word for word, one token at a time."""
    windows = []
    for row in text.split("\n"):
        words = row.strip().lower().split()
        if len(words) < min_words:
            continue
        ids = [tokens.index("<bos>")]
        for word in words:
            special = word in ("<pad>", "<bos>", "<eos>", "<unk>")
            ids.append(tokens.index(word) if word in tokens and not special else tokens.index("<unk>"))
        ids.append(tokens.index("<eos>"))
        if len(ids) <= window:
            while len(ids) < window:
                ids.append(tokens.index("<pad>"))
            windows.append(ids)
            continue
        start = 0
        while start + window <= len(ids):
            windows.append([ids[start + offset] for offset in range(window)])
            start += stride
    return windows


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=TEXTS, min_words=st.integers(1, 7), window=st.integers(2, 12), shorter=st.integers(0, 11))
@example(text="a b c d e f\n", min_words=5, window=8, shorter=4)  # exactly a window
@example(text="a b c d e f g\n", min_words=5, window=8, shorter=4)  # a tail of one token is dropped
def test_windows_are_those_of_the_obvious_implementation(
    make_config: Any, tmp_path: Path, text: str, min_words: int, window: int, shorter: int
) -> None:
    stride = max(1, window - shorter)
    tokens = ["<pad>", "<unk>", "<bos>", "<eos>", "a", "c", "b", "d日"]
    tokenizer = build_tokenizer(["c c a a a b d日"], len(tokens))
    expected = obvious_windows(text, tokens, min_words, window, stride)
    (tmp_path / "train.txt").write_bytes(text.encode())
    config = make_config(min_words=min_words, window=window, stride=stride)

    counts = write_split(tmp_path / "train.npy", encode(tokenizer, read_split(tmp_path, "train")), config)

    found = np.load(tmp_path / "train.npy", allow_pickle=False)
    assert found.dtype == np.uint16
    assert found.shape == (len(expected), window)
    assert found.tolist() == expected
    words = [word for row in text.split("\n") for word in row.lower().split()]
    assert counts.windows == len(expected)
    assert counts.tokens == sum(id_ != 0 for ids in expected for id_ in ids)
    assert counts.rows == len(text.split("\n")) - (text.endswith("\n") or not text)
    assert counts.words == len(words)
    assert counts.unk_words == sum(word not in tokens[4:] for word in words)


def test_cut_row_by_hand() -> None:
    assert cut_row([], 4, 2).tolist() == [[2, 3, 0, 0]]
    assert cut_row([7, 8], 4, 2).tolist() == [[2, 7, 8, 3]]
    assert cut_row([7, 8, 9], 4, 2).tolist() == [[2, 7, 8, 9]]
    assert cut_row([7, 8, 9, 10], 4, 2).tolist() == [[2, 7, 8, 9], [8, 9, 10, 3]]
    assert cut_row([65_535] * 2, 4, 4).tolist() == [[2, 65_535, 65_535, 3]]


def test_many_windows_are_written_in_order(make_config: Any, tmp_path: Path) -> None:
    rows = [[4 + number % 60_000] * 300 for number in range(3_000)]
    counts = write_split(tmp_path / "many.npy", iter(rows), make_config())
    expected = np.concatenate([cut_row(ids, 64, 32) for ids in rows])
    assert counts.windows == len(expected) == 3_000 * 8
    assert counts.tokens == expected.size
    np.testing.assert_array_equal(load_windows(tmp_path / "many.npy"), expected)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"{split}.txt").write_text("a b c d e\n\na b\n")
    return folder


def test_metrics(make_config: Any, raw: Path, tmp_path: Path) -> None:
    counts = write_windows(raw, build_tokenizer(["a b c"], 6), make_config(), tmp_path / "windows")
    assert list(counts) == list(SPLITS)
    assert counts["train"].as_metrics() == {
        "rows": 3,
        "words": 7,
        "unk_share_pct": 42.8571,  # c, d and e
        "windows": 1,
        "tokens": 7,
    }
    assert load_windows(tmp_path / "windows" / "test.npy").shape == (1, 64)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"a b c d\n\n",
            r"test\.txt: gives no windows, none of its 2 rows has the 5 words of parameter data\.min_words",
        ),
        (b"", r"test\.txt: gives no windows"),
        (b"a\n\xff\n", r"test\.txt, row 2: not valid UTF-8"),
        (None, r"test\.txt: no such file; run `dvc repro download`"),
    ],
)
def test_a_bad_split_leaves_all_earlier_windows(
    make_config: Any, raw: Path, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    tokenizer = build_tokenizer(["a b c"], 6)
    write_windows(raw, tokenizer, make_config(), tmp_path / "windows")
    before = {path.name: path.read_bytes() for path in (tmp_path / "windows").iterdir()}
    (raw / "train.txt").write_text("c c c c c c\n")
    if content is None:
        (raw / "test.txt").unlink()
    else:
        (raw / "test.txt").write_bytes(content)
    with pytest.raises(UserError, match=expected):
        write_windows(raw, tokenizer, make_config(), tmp_path / "windows")
    assert {path.name: path.read_bytes() for path in (tmp_path / "windows").iterdir()} == before


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.ones(3))
    return file.getvalue()


GOOD = npy(np.ones((3, 4), np.uint16))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"", "not a readable NumPy file"),
        (b"text", "not a readable NumPy file"),
        (GOOD[:-1], "not a readable NumPy file"),
        (GOOD[:50], "not a readable NumPy file"),
        (GOOD.replace(b"'shape'", b"'shake'"), "not a readable NumPy file"),
        (GOOD.replace(b"(3, 4)", b"(3, 4 "), "not a readable NumPy file"),
        (npy(np.array([None, {}], dtype=object)), "not a readable NumPy file"),
        (npz()[:-30], "not a readable NumPy file"),
        (npz(), "found an archive"),
        (npy(np.ones((3, 4), np.int64)), "found int64 of shape [3, 4], expected uint16"),
        (npy(np.ones(3, np.uint16)), "found uint16 of shape [3], expected uint16 of shape [windows, tokens]"),
        (npy(np.ones((0, 64), np.uint16)), "expected at least one window"),
        (GOOD + b"\0", "found uint16 of shape [3, 4], but the file is longer"),
    ],
)
def test_damaged_windows(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "train.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_windows(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "dvc repro tokenize" in message


# Memory ---------------------------------------------------------------------------------------------------------------

MEASURE = r"""
import re, sys
from pathlib import Path
from newllm.config import DataConfig, SyntheticConfig
from newllm.corpus.corpus import fetch_corpus
from newllm.data.text import read_split
from newllm.data.vocabulary import build_tokenizer, load_tokenizer, save_tokenizer
from newllm.data.windows import write_windows
folder = Path(sys.argv[2])
config = DataConfig(
    source="synthetic", config="wikitext-2-v1", repository="-", revision="0" * 40,
    folder=None, vocabulary_size=1000, min_words=5, window=64, stride=32,
    synthetic=SyntheticConfig(seed=0, train_words=int(sys.argv[1])),
)
step = sys.argv[3]
if step == "fetch":
    fetch_corpus(config, {}, folder / "raw")
elif step == "count":
    save_tokenizer(build_tokenizer(read_split(folder / "raw", "train"), 1000), folder / "tokenizer.json")
else:
    write_windows(folder / "raw", load_tokenizer(folder / "tokenizer.json"), config, folder / "windows")
# Not getrusage, whose peak includes that of the process that started this one.
print(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peaks_mib(train_words: int, folder: Path) -> dict[str, float]:
    """The largest resident size of each step, in a process of its own."""
    peaks = {}
    for step in ("fetch", "count", "encode"):
        command = [sys.executable, "-c", MEASURE, str(train_words), str(folder), step]
        environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks[step] = int(ended.stdout) / 1024
    return peaks


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    small, large = peaks_mib(100_000, tmp_path / "small"), peaks_mib(2_000_000, tmp_path / "large")
    size_mib = (tmp_path / "large" / "raw" / "train.txt").stat().st_size / 2**20
    assert size_mib > 9
    for step, peak in large.items():
        # Some growth is the vocabulary's, whose rare words come late; the text alone would take size_mib.
        assert peak - small[step] < 0.8 * size_mib, (step, small, large)


@pytest.mark.wikitext2
def test_wikitext2_windows(make_config: Any, wikitext2: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(read_split(wikitext2, "train"), 1_000)
    counts = write_windows(wikitext2, tokenizer, make_config(), tmp_path)
    assert [counts[split].windows for split in SPLITS] == [51_026, 5_272, 5_920]
    assert [counts[split].words for split in SPLITS] == [2_051_910, 213_886, 241_211]
    assert [round(counts[split].as_metrics()["unk_share_pct"], 2) for split in SPLITS] == [30.59, 30.60, 30.90]
    assert load_windows(tmp_path / "train.npy").shape == (51_026, 64)
    assert load_windows(tmp_path / "train.npy").max() == 999
