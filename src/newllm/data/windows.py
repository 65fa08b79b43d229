"""Token windows: rows of ids cut to equal length, streamed to NumPy files and read back."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tokenizers import Tokenizer

from newllm.config import DataConfig
from newllm.data.text import SPLITS, read_split
from newllm.data.vocabulary import BOS, EOS, PAD, UNK, encode
from newllm.errors import UserError
from newllm.files import atomic_path

Windows = NDArray[np.uint16]
DTYPE = np.dtype("<u2")

_BATCH_TOKENS = 1 << 18


@dataclass
class WindowCounts:
    """What a split's windows were made from: rows and words of the whole split, skipped rows among them.

    `tokens` counts what is in the windows and is not padding; where windows overlap, a token counts in each.
    """

    rows: int = 0
    words: int = 0
    unk_words: int = 0
    windows: int = 0
    tokens: int = 0

    def as_metrics(self) -> dict[str, int | float]:
        """The figures for metrics/data.json; `unk_share_pct` is the percentage of the words that are `<unk>`."""
        return {
            "rows": self.rows,
            "words": self.words,
            "unk_share_pct": round(100 * self.unk_words / self.words, 4),
            "windows": self.windows,
            "tokens": self.tokens,
        }


def write_windows(raw: Path, tokenizer: Tokenizer, config: DataConfig, folder: Path) -> dict[str, WindowCounts]:
    """Encodes the splits in `raw` and writes `folder`/{train,validation,test}.npy: all three or, on any error, none.

    Raises:
        UserError: a split is missing, is not UTF-8, or gives no window.
    """
    with ExitStack() as outputs:
        beside = {split: outputs.enter_context(atomic_path(folder / f"{split}.npy")) for split in SPLITS}
        counts = {
            split: write_split(beside[split], encode(tokenizer, read_split(raw, split)), config) for split in SPLITS
        }
        for split in SPLITS:
            if not counts[split].windows:
                raise UserError(
                    f"{raw / split}.txt: gives no windows, none of its {counts[split].rows} rows has the "
                    f"{config.min_words} words of parameter data.min_words; lower it, or use a larger corpus"
                )
    return counts


def write_split(path: Path, encoded_rows: Iterable[list[int]], config: DataConfig) -> WindowCounts:
    """Writes the windows of all rows of at least `config.min_words` words as a .npy file: uint16, `[N, window]`.

    `encoded_rows` are the ids of each row's words, read once; memory does not grow with their number. The header is
    written first for no windows and at the end for as many as came. N may be 0, and then the file is no good.
    """
    counts = WindowCounts()
    waiting: list[Windows] = []
    num_waiting = 0
    with path.open("wb") as file:
        start = _write_header(file, 0, config.window)
        for ids in encoded_rows:
            counts.rows += 1
            counts.words += len(ids)
            counts.unk_words += ids.count(UNK)
            if len(ids) < config.min_words:
                continue
            waiting.append(cut_row(ids, config.window, config.stride))
            num_waiting += waiting[-1].size
            if num_waiting >= _BATCH_TOKENS:
                _write_batch(file, waiting, counts)
                waiting, num_waiting = [], 0
        _write_batch(file, waiting, counts)
        file.seek(0)
        if _write_header(file, counts.windows, config.window) != start:
            raise RuntimeError("the .npy header changed its length; NumPy used to leave room for the first axis")
    return counts


def cut_row(ids: list[int], window: int, stride: int) -> Windows:
    """One row's windows, `[N, window]`: `<bos>` ids `<eos>`, padded if short, else cut with the tail dropped.

    A row of up to `window` tokens gives one window; from a longer one a window starts at every multiple of `stride`
    at which it can still be filled, so N is at least 1.
    """
    if len(ids) + 2 <= window:
        return np.array([[BOS, *ids, EOS] + [PAD] * (window - len(ids) - 2)], dtype=DTYPE)
    return sliding_window_view(np.array([BOS, *ids, EOS], dtype=DTYPE), window)[::stride]


def load_windows(path: Path) -> Windows:
    """Reads a file of `write_windows`: uint16, `[N, window]`, N at least 1.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    remedy = "run `dvc repro tokenize` to write it again"
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            rest = file.read(1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError:
        raise
    except Exception as error:  # NumPy raises a dozen kinds, those of its parsers included, for damaged files
        raise UserError(f"{path}: not a readable NumPy file ({error}); {remedy}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: found an archive, expected one array; {remedy}")
    found = f"found {array.dtype} of shape {list(array.shape)}"
    if array.dtype != DTYPE or array.ndim != 2:
        raise UserError(f"{path}: {found}, expected uint16 of shape [windows, tokens]; {remedy}")
    if rest:
        raise UserError(f"{path}: {found}, but the file is longer; {remedy}")
    if not array.size:
        raise UserError(f"{path}: {found}, expected at least one window; {remedy}")
    return array


def _write_batch(file: BinaryIO, waiting: list[Windows], counts: WindowCounts) -> None:
    if waiting:
        batch = np.concatenate(waiting)
        file.write(batch.tobytes())
        counts.windows += len(batch)
        counts.tokens += int(np.count_nonzero(batch != PAD))


def _write_header(file: BinaryIO, num_windows: int, window: int) -> int:
    """Writes the .npy header (format 1.0) and returns where the data begin, in bytes."""
    shape = (num_windows, window)
    np.lib.format.write_array_header_1_0(file, {"descr": DTYPE.str, "fortran_order": False, "shape": shape})
    return file.tell()
