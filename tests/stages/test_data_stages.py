"""The three data stages as DVC runs them: `python -m stages.<name>` in a folder with the project's code."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
STAGES = ("download", "build_vocabulary", "tokenize")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the code and parameters, set to a small synthetic corpus."""
    for name in ("stages", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change(tmp_path, {"source": "synthetic", "train_words": "20000", "vocabulary_size": "300"})
    return tmp_path


def change(project: Path, values: Mapping[str, str]) -> None:
    lines = (project / "params.yaml").read_text().splitlines()
    for name, value in values.items():
        # the first is that of the section data, which stands first
        number = next(
            n for n, line in enumerate(lines) if line.strip().startswith(f"{name}:") and line.startswith("  ")
        )
        lines[number] = lines[number].split(":")[0] + f": {value}"
    (project / "params.yaml").write_text("\n".join(lines) + "\n")


def stage(
    project: Path,
    name: str,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("WIKITEXT2_DIR", "PYTHONPATH")}
    command = [sys.executable, "-m", f"stages.{name}"]
    return subprocess.run(
        command,
        cwd=project,
        env={**inherited, **(environment or {})},
        preexec_fn=before,  # sets a limit of the child
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def run_all(project: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    outputs = []
    for name in STAGES:
        ended = stage(project, name, environment)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        outputs.append(ended.stdout)
    return outputs


def contents(project: Path) -> dict[str, bytes]:
    folders = (project / "data", project / "metrics")
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def fails(project: Path, name: str, **arguments: object) -> str:
    """The one message of a stage that must fail, after checking that it changed no output."""
    before = contents(project)
    ended = stage(project, name, **arguments)  # type: ignore[arg-type]
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
    assert contents(project) == before
    return ended.stderr


def test_from_nothing_to_windows(project: Path) -> None:
    download, vocabulary, tokenize = run_all(project)
    assert [line.split(":")[0] for line in download.splitlines()] == ["train", "validation", "test"]
    assert "the generator, seed 0" in download
    assert vocabulary.startswith("300 ids; first words: the ")
    assert [line.split(":")[0] for line in tokenize.splitlines()] == ["train", "validation", "test"]
    assert Tokenizer.from_file(str(project / "data" / "tokenizer.json")).get_vocab_size() == 300
    (metrics,) = json.loads((project / "metrics" / "data.json").read_text())["data"]
    assert list(metrics) == ["vocabulary_size", "train", "validation", "test"]
    assert metrics["vocabulary_size"] == 300
    for split in ("train", "validation", "test"):
        windows = np.load(project / "data" / "windows" / f"{split}.npy")
        assert list(metrics[split]) == ["rows", "words", "unk_share_pct", "windows", "tokens"]
        assert windows.shape == (metrics[split]["windows"], 64)
        assert np.count_nonzero(windows) == metrics[split]["tokens"]
        assert windows.max() < 300


def test_a_second_run_writes_the_same_bytes(project: Path) -> None:
    run_all(project)
    first = contents(project)
    run_all(project)
    assert contents(project) == first


def test_a_stage_before_its_inputs_names_what_to_run(project: Path) -> None:
    for name, missing, remedy in (
        ("build_vocabulary", "data/raw/train.txt", "dvc repro download"),
        ("tokenize", "data/tokenizer.json", "dvc repro build_vocabulary"),
    ):
        message = fails(project, name)
        assert f"{missing}: no such file" in message
        assert remedy in message


def test_bad_inputs_leave_earlier_outputs(project: Path) -> None:
    run_all(project)
    change(project, {"vocabulary_size": "9000"})
    assert "parameter data.vocabulary_size: 9000 ids need 8996" in fails(project, "build_vocabulary")
    change(project, {"vocabulary_size": "300", "min_words": "100000"})
    assert "data.min_words" in fails(project, "tokenize")
    change(project, {"min_words": "5", "source": "folder", "folder": "nowhere"})
    assert "nowhere: no such folder; parameter data.folder" in fails(project, "download")
    change(project, {"source": "wikitext"})
    environment = {"WIKITEXT2_DIR": str(project / "data" / "raw")}
    assert "expected 36,718 as in wikitext-2-v1" in fails(project, "download", environment=environment)
    (project / "data" / "tokenizer.json").write_text('{"tokens": []}')
    assert "data/tokenizer.json: not a tokenizer" in fails(project, "tokenize")
    (project / "params.yaml").write_text("data: 5\n")
    assert "params.yaml" in fails(project, "download")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("build_vocabulary", "raw/train.txt"),
        ("tokenize", "raw/train.txt"),
        ("tokenize", "raw/validation.txt"),
        ("tokenize", "raw/test.txt"),
        ("tokenize", "tokenizer.json"),
    ],
)
def test_a_flipped_bit_is_noticed(project: Path, name: str, path: str) -> None:
    run_all(project)
    file = project / "data" / path
    content = file.read_bytes()
    # in a word, where only the checksum can tell
    at = content.index(b'"the": ') + 1 if file.suffix == ".json" else len(content) // 2
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert f"error: data/{path}: found the SHA-256" in fails(project, name)


def test_checksums_are_those_of_sha256sum(project: Path) -> None:
    run_all(project)
    for file in ("raw/test.txt", "tokenizer.json", "windows/train.npy"):
        beside = project / "data" / f"{file}.sha256"
        expected = hashlib.sha256((project / "data" / file).read_bytes()).hexdigest()
        assert beside.read_text() == f"{expected}  {Path(file).name}\n"
        beside.unlink()
    assert "data/tokenizer.json.sha256: no such file; run `dvc repro build_vocabulary`" in fails(project, "tokenize")


def test_what_a_stage_says_does_not_change_how_it_ends(project: Path) -> None:
    """Its words may have letters that its output has not, or nowhere to go."""
    corpus = project / "corpus"
    corpus.mkdir()
    for split in ("train", "validation", "test"):
        (corpus / f"{split}.txt").write_text("二 三 四 五 六 七\n" * 100, encoding="utf-8")
    change(project, {"source": "folder", "folder": str(corpus), "vocabulary_size": "5", "min_words": "1"})
    stage(project, "download")
    said = stage(project, "build_vocabulary").stdout
    written = contents(project)
    (project / "data" / "tokenizer.json").unlink()
    ended = stage(project, "build_vocabulary", {"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stdout) == (0, said.encode("ascii", "backslashreplace").decode())
    assert contents(project) == written
    (project / "data" / "tokenizer.json").unlink()
    assert stage(project, "build_vocabulary", before=lambda: os.closerange(0, 3)).returncode == 0
    assert contents(project) == written


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk_leaves_earlier_outputs(project: Path, name: str) -> None:
    """A limit on the size of a file fails a write as a full disk does."""
    run_all(project)
    change(project, {"seed": "1"})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    message = fails(project, name, before=limit)
    assert "disk" in message


def test_the_code_beside_the_stages_is_used(project: Path) -> None:
    """An experiment runs in a copy of the project, whatever is installed."""
    (project / "src" / "newllm" / "corpus" / "corpus.py").write_text("raise SystemExit('the copy')\n")
    assert stage(project, "download").stderr == "the copy\n"


@pytest.mark.wikitext2
def test_wikitext2_in_fifteen_seconds(project: Path) -> None:
    change(project, {"source": "wikitext", "vocabulary_size": "1000"})
    began = time.monotonic()
    download, vocabulary, tokenize = run_all(project, {"WIKITEXT2_DIR": os.environ["WIKITEXT2_DIR"]})
    assert time.monotonic() - began < 15
    assert download.count("(verified)") == 3
    assert vocabulary == "1,000 ids; first words: the , . of and in; last: room self teams bridge\n"
    assert [line.split()[1] for line in tokenize.splitlines()] == ["51,026", "5,272", "5,920"]
    assert [line.split(", ")[-1] for line in tokenize.splitlines()] == [
        "30.59 % <unk>",
        "30.60 % <unk>",
        "30.90 % <unk>",
    ]
