"""Damages what the project reads, at random and many times: a UserError or a right result must come of it.

    python -m tests.faults.fuzz [--cases 24000] [--seed 0] [--only params corpora report binary]

Four parts: params.yaml; corpora, through download, build_vocabulary and tokenize, against a slow oracle that is written
here; the metrics and curves that the report reads; windows and weights. Ends with status 1 at anything else, with the
smallest example that hypothesis finds.
"""

import argparse
import copy
import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import hypothesis
import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from newllm.analysis.figures import draw_all
from newllm.analysis.report import render
from newllm.analysis.study import learning_curves, perplexity_by_depth, results_table
from newllm.analysis.summary import summary
from newllm.config import DataConfig, load_config
from newllm.corpus.corpus import fetch_corpus
from newllm.data.text import SPLITS, read_split
from newllm.data.vocabulary import build_tokenizer, load_tokenizer, save_tokenizer
from newllm.data.windows import load_windows, write_windows
from newllm.errors import UserError
from newllm.files import check_sha256, write_checksum, write_json
from newllm.model.definition import ModelShape, initial_parameters
from newllm.training import weights
from newllm.training.records import RowResult, Training
from tests.analysis.metrics_files import write_all, write_supplements
from tests.analysis.part2_files import write_recipe
from tests.analysis.studies import plan, reload

RECIPES = (("residual-1", 1, 20.2), ("residual-4", 4, 19.9), ("residual-6", 6, 20.0))
Draw = Callable[[st.SearchStrategy[Any]], Any]
ROOT = Path(__file__).resolve().parents[2]


# --- 1. params.yaml


PLAIN_SCALARS = r"""
~ null yes off true 0 -0 1 -1 007 0o17 0x1F 0b1 0b 1_000 1:30 1e3 1.5 1e-400 1e400 -1e999 .nan .inf -.INF 65536
2001-01-01 2001-99-99 'quoted' "\ud800" "\0" 'unclosed é = *a << [ ] { [] {} [[]] # |
folder wikitext-2-raw-v1 bf16 fp32 synthetic
"""
RAW_SCALARS = [
    *PLAIN_SCALARS.split(),
    *("", "1" * 400, "1" * 5000, "0x" + "F" * 5000, "[" * 3000, "0001-01-01 00:00:00+23:59", "&a [*a]", "&a {a: *a}"),
    *(
        "!!bool x",
        "!!int ''",
        "!!float '-'",
        "!!timestamp x",
        "!!binary x",
        "!!str 1",
        "!!null x",
        "!!set x",
        "!!map x",
    ),
    *("!!omap x", "!!pairs [x]", "!!python/object:os.system x", "!x y", "? x", "a: b: c", "{a: 1, a: 2}", "{<<: 1}"),
    *("[1, 2]", "[[1, 0.5]]", "[[1.5, 1]]", "[[1, 1], [1, 1]]", "{a: 1}", "{[a]: 1}"),
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
RAW_VALUES = st.sampled_from(RAW_SCALARS) | JSON_VALUES.map(json.dumps) | st.text(max_size=8)


def params_case(draw: Draw, place: Path) -> str:
    """A changed params.yaml gives a Config that is read back as it is written, or a UserError."""
    path = place / "params.yaml"
    text = (ROOT / "params.yaml").read_bytes()
    if draw(st.integers(0, 3)) == 0:
        text = changed_bytes(draw, text)
    else:
        values = yaml.safe_load(text)
        raw: dict[str, str] = {}
        for _ in range(draw(st.integers(1, 2))):
            change_params(draw, values, raw)
        dumped = yaml.safe_dump(values, sort_keys=False)
        for name, value in raw.items():
            dumped = dumped.replace(name, value)
        text = dumped.encode(errors="surrogatepass")
    path.write_bytes(text)
    config = load_config(path)
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)), encoding="utf-8")
    assert load_config(path) == config, "does not come back as it was written"
    return "accepted"


def change_params(draw: Draw, values: Any, raw: dict[str, str]) -> None:
    """Changes one place; `raw` maps stand-ins, put into `values`, to the YAML that takes their place."""
    stand_in = f"STAND_IN_{len(raw)}_"
    parent, key = somewhere(draw, values, deep=True)
    what = draw(st.sampled_from(["value"] * 6 + ["number"] * 2 + ["delete", "add", "rename", "key"]))
    if what == "number":
        parent[key] = draw(st.integers(-1, 70_000) | st.floats(0, 2))
    elif what == "delete" or not isinstance(parent, dict):
        del parent[key]
    elif what == "add":
        parent[draw(st.sampled_from(["seed", "num_layers", "epochs", "x"]))] = draw(st.integers(0, 9))
    elif what == "rename":
        parent[f"{key}x"] = parent.pop(key)
    else:
        raw[stand_in] = draw(RAW_VALUES)
        if what == "key":
            parent[stand_in] = parent.pop(key)
        else:
            parent[key] = stand_in


# --- 2. corpora


SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
ODD_WORDS = "a A b c the The , . @-@ = é É e\u0301 ΣΑΣ Σ İ ß ẞ ǅ 🙂 中 \u200b \ufeff \0 \x7f \ue000 <PAD> <Unk> ##a Ġa"
WORDS = st.sampled_from([*ODD_WORDS.split(" "), *SPECIAL, "\U0010ffff", "a" * 200]) | st.text(
    st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\n"), min_size=1, max_size=6
)
SPACES = st.sampled_from([" "] * 8 + ["  ", *"\t\r\v\f\x1c\x1f\x85\xa0\u2028\u3000"])
NO_UTF8 = (b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80")


@st.composite
def rows(draw: Draw) -> str:
    """One row: blank, a heading, a word, some words, or some words again and again."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(["", " ", "\t", "\u3000 "]))
    if kind == 1:
        return f" = {draw(WORDS)} = "
    row: str = draw(SPACES).join(draw(st.lists(WORDS, min_size=1, max_size=1 if kind == 2 else 8)))
    return draw(SPACES).join([row] * draw(st.integers(2, 40))) if kind > 7 else row


@st.composite
def texts(draw: Draw) -> bytes:
    """A split's file."""
    end = draw(st.sampled_from(["\n", "\n", "\n", "\r\n"]))
    content = end.join(draw(st.lists(rows(), min_size=draw(st.sampled_from([0, 3, 3, 3])), max_size=8)))
    data = (content + end * draw(st.integers(0, 1))).encode()
    if draw(st.integers(0, 59)) == 59:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(NO_UTF8)) + data[at:]
    return data


@cache
def study_data() -> DataConfig:
    return load_config(ROOT / "params.yaml").data


def corpora_case(draw: Draw, place: Path) -> str:
    """Random splits and sizes."""
    window = draw(st.integers(2, 70))
    sizes = {
        "vocabulary_size": draw(st.integers(5, 12) | st.integers(5, 60)),
        "min_words": draw(st.integers(1, 3) | st.integers(1, 9)),
        "window": window,
        "stride": draw(st.integers(1, window)),
    }
    return corpus_outcome(place, {split: draw(texts()) for split in SPLITS}, sizes)


def long_lines(place: Path, size: int) -> Counter[str]:
    """Three corpora with one line of so many bytes: of words, of one word, and of spaces between two words."""
    short = b"a b c <unk> d\ne\n"
    sizes = {"vocabulary_size": 8, "min_words": 2, "window": 64, "stride": 32}
    lines = {"words": b"a b c d e f g h " * (size // 16), "word": b"a" * size + b" b c d e", "spaces": b"a b c d"}
    lines["spaces"] += b" " * size + b"e"
    found: Counter[str] = Counter()
    for line in lines.values():
        found[corpus_outcome(place, {"train": short + line, "validation": line, "test": line + b"\n"}, sizes)] += 1
    return found


def corpus_outcome(place: Path, files: dict[str, bytes], sizes: dict[str, int]) -> str:
    """What the three data stages make of the files, after a comparison with what the study prescribes."""
    expected = prescribed(files, **sizes)
    source = place / "source"
    source.mkdir(exist_ok=True)
    for split, content in files.items():
        (source / f"{split}.txt").write_bytes(content)
    config = study_data().model_copy(update={**sizes, "source": "folder", "folder": str(source)})
    raw, tokenizer_path, folder = place / "raw", place / "tokenizer.json", place / "windows"
    for path in (*raw.glob("*"), *folder.glob("*")):
        path.unlink()
    try:
        summaries = fetch_corpus(config, {}, raw)
        save_tokenizer(build_tokenizer(read_split(raw, "train"), config.vocabulary_size), tokenizer_path)
        tokenizer = load_tokenizer(tokenizer_path)
        counts = write_windows(raw, tokenizer, config, folder)
        metrics = {split: found.as_metrics() for split, found in counts.items()}
    except UserError as error:
        assert isinstance(expected, str), f"refused without a reason: {error}"
        assert expected in str(error), f"refused, but not because of {expected}: {error}"
        assert not [*folder.glob("*")], "files are left"
        return f"refused: {expected}"
    assert not isinstance(expected, str), f"accepted in spite of {expected}"
    assert tokenizer.get_vocab() == {token: id_ for id_, token in enumerate(expected.tokens)}
    for summarised in summaries:
        split = summarised.split
        assert (raw / f"{split}.txt").read_bytes() == expected.canonical[split]
        assert summarised.rows == expected.canonical[split].count(b"\n")
        assert load_windows(folder / f"{split}.npy").tolist() == expected.windows[split]
        assert metrics[split] == expected.metrics[split]
    return "accepted, right"


@dataclass
class Prescribed:
    """What the study's rules make of a corpus."""

    canonical: dict[str, bytes]
    tokens: list[str]
    windows: dict[str, list[list[int]]]
    metrics: dict[str, dict[str, Any]]


def prescribed(
    files: dict[str, bytes], vocabulary_size: int, min_words: int, window: int, stride: int
) -> Prescribed | str:
    """The oracle: character by character and window by window; a part of the error's text where there must be one."""
    canonical, split_words = {}, {}
    for split in SPLITS:
        lines = files[split].split(b"\n")
        try:
            decoded = [line.decode() for line in (lines[:-1] if lines[-1] == b"" else lines)]
        except UnicodeDecodeError:
            return "not valid UTF-8"
        if decoded and decoded[0][:1] == "\ufeff":  # a byte order mark
            decoded[0] = decoded[0][1:]
        stripped = [without_space_around(line) for line in decoded]
        if not any(stripped):
            return "empty"
        canonical[split] = "".join(row + "\n" for row in stripped).encode()
        split_words[split] = [words_of(row) for row in stripped]
    counts: dict[str, int] = {}
    for word in (word for row in split_words["train"] for word in row):
        counts[word] = counts.get(word, 0) + 1
    left = {word: count for word, count in counts.items() if word not in SPECIAL}
    kept: list[str] = []
    while len(kept) < vocabulary_size - 4:
        if not left:
            return "data.vocabulary_size"
        kept.append(min(word for word, count in left.items() if count == max(left.values())))
        del left[kept[-1]]
    ids = {"<unk>": 1} | {word: 4 + place for place, word in enumerate(kept)}
    windows, metrics = {}, {}
    for split, row_words in split_words.items():
        encoded = [[ids.get(word, 1) for word in row] for row in row_words]
        windows[split] = [cut for row in encoded if len(row) >= min_words for cut in windows_of(row, window, stride)]
        if not windows[split]:
            return "gives no windows"
        flat = [token for row in encoded for token in row]
        metrics[split] = {
            "rows": len(encoded),
            "words": len(flat),
            "unk_share_pct": round(100 * flat.count(1) / len(flat), 4),
            "windows": len(windows[split]),
            "tokens": sum(token != 0 for cut in windows[split] for token in cut),
        }
    return Prescribed(canonical, [*SPECIAL, *kept], windows, metrics)


def without_space_around(text: str) -> str:
    first, last = 0, len(text)
    while first < last and text[first].isspace():
        first += 1
    while last > first and text[last - 1].isspace():
        last -= 1
    return text[first:last]


def words_of(row: str) -> list[str]:
    found, word = [], []
    for character in row + " ":
        if not character.isspace():
            word.append(character.lower())
        elif word:
            found.append("".join(word))
            word = []
    return found


def windows_of(row: list[int], window: int, stride: int) -> Iterator[list[int]]:
    tokens = [2, *row, 3]
    if len(tokens) <= window:
        yield tokens + [0] * (window - len(tokens))
        return
    start = 0
    while start + window <= len(tokens):
        yield tokens[start : start + window]
        start += stride


# --- 3. what the report reads


NO_NUMBER = re.compile(r"(?<![a-z])(nan|inf|infinity)(?![a-z])", re.IGNORECASE)
ODD_CELLS = "nan inf -inf 1e999 -1 0 1 2 20.5 1e99 1e100 1e101 1e-320 x 1_0 0x1 1,5 \" ' \0 é true"
CELLS = st.sampled_from([*ODD_CELLS.split(" "), "", " 1 ", "\n", "1" * 5000])
EDGES = [
    0,
    1,
    2,
    4,
    5,
    6,
    -1,
    2**32,
    10**15,
    10**16,
    10**400,
    -0.0,
    0.5,
    1e-320,
    1e99,
    1e100,
    1.1e100,
    1e308,
    231.0,
    709.0,
]
METRICS = (
    st.sampled_from([None, True, False, *EDGES, math.nan, math.inf, -math.inf])
    | st.sampled_from(["", "x", "1", "a|b", "`*_\\", "é\n# y", "\ud800", "\0", [], [1], {}, {"a": 1}, [[]], "x" * 3000])
    | st.integers()
    | st.floats()
)


@cache
def studies(place: Path) -> list[dict[str, bytes]]:
    """Consistent files by name: the made-up study, and small ones of extreme figures."""
    made = []
    for number, values in enumerate(([], [2.0, 1e99], [20.0], [1e50, 1.01e50], [2.5, 700.0, 3.0])):
        root = place / f"study{number}"
        options: dict[str, Any] = {"seeds": 3 if number else 5, "epochs": 3}
        if values:
            options["perplexity_of"] = lambda depth, seed, v=tuple(values): v[(depth + seed) % len(v)]
        write_all(root, (1, 4, 6), **options)
        if number not in (1, 3):
            write_supplements(root)
        for name, depth, mean in RECIPES:
            write_recipe(root, name, depth, mean, residual=True)
        made.append({str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    return made


def report_case(draw: Draw, place: Path) -> str:
    """One or two of the files changed."""
    files = dict(studies(place)[draw(st.integers(0, 4))])
    for name in draw(
        st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 2])), unique=True)
    ):
        files[name] = changed_file(draw, name, files[name])
        if files[name] == b"":
            del files[name]
    root = place / "root"
    for path in root.rglob("*"):
        if path.is_file() and str(path.relative_to(root)) not in files:
            path.unlink()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    return report_outcome(root, pictures=draw(st.integers(0, 99)) == 99)


def report_outcome(root: Path, pictures: bool) -> str:
    """What the report stage does, but for the pictures in most cases."""
    found = reload(root, (1, 4, 6), plan(recipes=[name for name, *_ in RECIPES]))
    drawn = draw_all(found)
    out = root.parent / "written"
    out.mkdir(exist_ok=True)
    for name, written in zip(
        ("report", "appendix", "readme"), render(found, drawn, ["report", "appendix", "readme"], "."), strict=True
    ):
        assert not (number := NO_NUMBER.search(written)), written[number.start() - 200 : number.end() + 50]
        (out / f"{name}.md").write_text(written, encoding="utf-8")
    write_json(out / "summary.json", summary(found))
    for name, table in (
        ("results", results_table(found)),
        ("learning_curves", learning_curves(found.depths.values())),
        ("perplexity_by_depth", perplexity_by_depth(found.depths.values())),
    ):
        table.to_csv(out / f"{name}.csv", index=False)
    for path in out.iterdir():
        assert not NO_NUMBER.search(path.read_text()), path.read_text()
    if pictures:
        for figure in drawn:
            figure.png()
    return "a report"


def changed_file(draw: Draw, name: str, content: bytes) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        return changed_bytes(draw, content)
    if name.endswith(".csv"):
        return changed_table(draw, content)
    value = json.loads(content)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        parent, key = somewhere(draw, value, deep=draw(st.integers(0, 4)) > 0)
        change_json_value(draw, parent, key)
    return json.dumps(value).encode()


def change_json_value(draw: Draw, parent: Any, key: Any) -> None:
    what = draw(st.sampled_from(["replace"] * 4 + ["nudge"] * 4 + ["delete", "rename", "double", "add"]))
    value = parent[key]
    if what == "nudge" and isinstance(value, float):
        parent[key] = value * draw(st.sampled_from([0.9999, 1.0001, 1.0002, 0.0, -1.0, 1.5, 1e-300, 1e60]))
    elif what == "delete":
        del parent[key]
    elif what == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(value))
    elif what in ("rename", "add") and isinstance(parent, dict):
        parent[draw(st.sampled_from(["x", "", "num_layers", "a|b", "\ud800"]))] = copy.deepcopy(value)
        if what == "rename":
            parent.pop(key)
    else:
        parent[key] = copy.deepcopy(draw(METRICS))  # a copy, as what is put in may be changed in turn


def changed_table(draw: Draw, content: bytes) -> bytes:
    lines = [line.split(",") for line in content.decode().splitlines()]
    row = draw(st.integers(0, len(lines) - 1))
    column = draw(st.integers(0, len(lines[0]) - 1))
    what = draw(st.sampled_from(["cell"] * 6 + ["delete", "double", "swap", "longer", "column"]))
    if what == "cell":
        close = st.sampled_from([0.5, 0.999, 1.001, 2.0]).map(lambda factor: nudged(lines[row][column], factor))
        lines[row][column] = draw(close | CELLS | st.floats().map(str) | st.integers().map(str))
    elif what == "delete":
        del lines[row]
    elif what == "double":
        lines.insert(draw(st.integers(0, len(lines))), lines[row])
    elif what == "swap":
        lines[row], lines[-1] = lines[-1], lines[row]
    elif what == "longer":
        lines[row].append("1")
    else:
        for line in lines[draw(st.integers(0, 1)) :]:
            line[column] = draw(CELLS)
    return "".join(",".join(line) + "\n" for line in lines).encode()


def nudged(cell: str, factor: float) -> str:
    return str(float(cell) * factor) if "." in cell else cell


# --- 4. windows and weights


SHAPE = ModelShape(11, 5, 4, 6, 2)


@cache
def binaries(place: Path) -> dict[str, bytes]:
    """A windows file and weights."""
    windows = (np.arange(40 * 64, dtype="<u2") * 7 % 1000).reshape(40, 64)
    np.save(place / "windows.npy", windows)
    write_checksum(place / "windows.npy")
    found = [RowResult(seed, 3, 4, False, 1.5, 1.6, 2.5, 100.0) for seed in (0, 7)]
    about: dict[str, Any] = {"git_commit": None, "git_dirty": None, "device": "CPU", "precision": "fp32"}
    about |= {"shape": SHAPE, "parameters": {"train": {"epochs": 4}}, "data_sha256": "0" * 64, "torch_version": "2"}
    record = weights.TrainingRecord(**about, seeds=found)
    weights.save(place / "2", Training(initial_parameters(SHAPE, [0, 7]), [], found), record)
    names = ["windows.npy", "2/weights.safetensors", "2/training.json"]
    return {name: (place / name).read_bytes() for name in names}


def binary_case(draw: Draw, place: Path) -> str:
    """One of three files changed: whatever the change, it is refused."""
    files = binaries(place)
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    if name == "2/training.json" and draw(st.booleans()):
        value = json.loads(content)
        change_json_value(draw, *somewhere(draw, value, deep=True))
        changed = json.dumps(value).encode()
    else:
        changed = changed_bytes(draw, content, head=draw(st.sampled_from([len(content), 1200, 128])))
    for other, whole in files.items():
        (place / other).write_bytes(changed if other == name else whole)
    try:
        if name == "windows.npy":
            found = load_windows(place / name)
            assert found.tobytes() == changed[10 + int.from_bytes(changed[8:10], "little") :]
            check_sha256(place / name, "tokenize")
        else:
            weights.load(place / "2", 2)
    except UserError as error:
        reason = "by its checksum alone" if "found the SHA-256" in str(error) else "for what is in it"
        return f"{name}: refused {reason}"
    assert changed == content
    return f"{name}: not changed, and loaded"


# --- common


def somewhere(draw: Draw, value: Any, deep: bool) -> tuple[Any, Any]:
    """A container within `value` and a key of it; down to a leaf if `deep`."""
    while True:
        if not value:
            return [value], 0
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(keys))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or not (deep or draw(st.booleans())):
            return value, key
        value = inner


def changed_bytes(draw: Draw, content: bytes, head: int | None = None) -> bytes:
    """Bits flipped, bytes replaced, removed or put in, all within the first `head` bytes, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 5]))):
        at = draw(st.integers(0, max(min(len(changed), head or len(content)) - 1, 0)))
        what = draw(st.sampled_from(["flip"] * 4 + ["replace", "insert", "remove", "cut", "append"]))
        if what == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "replace":
            new = draw(st.binary(min_size=1, max_size=8))
            changed[at : at + len(new)] = new
        elif what == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif what == "remove":
            del changed[at : at + draw(st.integers(1, 16))]
        elif what == "cut":
            del changed[draw(st.integers(0, len(changed))) :]
        elif what == "append":
            changed += draw(st.binary(min_size=1, max_size=8))
    return bytes(changed)


PARTS = {"params": params_case, "corpora": corpora_case, "report": report_case, "binary": binary_case}
SHARES = {"params": 0.35, "corpora": 0.15, "report": 0.2, "binary": 0.3}


def fuzz(part: str, cases: int, seed: int, place: Path) -> Counter[str]:
    """Runs one part.

    Args:
        part: one of PARTS.
        cases: how many.
        seed: of the cases; the same ones come again.
        place: an empty folder.

    Returns:
        How many cases came to what.

    Raises:
        Exception: whatever is neither a UserError nor right, for the smallest case that shows it.
    """
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @hypothesis.given(st.data())
    def once(data: st.DataObject) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = PARTS[part](data.draw, place)
        except UserError as error:
            assert str(error)
            outcome = "UserError"
        counts[outcome] += 1

    once()
    return counts


def main() -> None:
    """Prints a line for each outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=24_000, help="of all parts together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    total = 0
    for part in options.only:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            counts = fuzz(part, round(options.cases * SHARES[part]), options.seed, Path(name))
            if part == "corpora":
                counts += Counter({f"10 MB line: {key}": n for key, n in long_lines(Path(name), 10_000_000).items()})
        total += counts.total()
        print(f"{part}: {counts.total():,} cases in {time.monotonic() - start:.0f} s", flush=True)
        for outcome, number in counts.most_common():
            print(f"    {number:7,}  {outcome}", flush=True)
    print(f"{total:,} cases, seed {options.seed}")


if __name__ == "__main__":
    main()
