"""The demo: its copy of the project, a repository of its own on any machine, and what its models learn."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dvc.utils.serialize import load_yaml

from demo import run
from demo.baselines import baseline_perplexities, pairs, perplexity, probabilities
from demo.run import commit, copy_project, environment, files, lessons
from newllm.config import load_config
from newllm.corpus.corpus import fetch_corpus
from newllm.data.text import read_split
from newllm.data.vocabulary import build_tokenizer
from newllm.data.windows import load_windows, write_windows
from newllm.model.definition import ModelShape
from newllm.runtime.git import git
from newllm.training.rows import study_rows
from newllm.training.trainer import train
from tests.strangers import Stranger

ROOT = Path(__file__).parent.parent
SETTINGS = load_yaml(ROOT / "demo/settings.yaml")
CHANGES = {"data": {"source": "synthetic", "synthetic": {"train_words": 3000}}, "train": {"seeds": [0, 1]}}


@pytest.mark.git
def test_a_copy_from_a_hook_is_a_repository_of_its_own(stranger: Stranger, tmp_path: Path) -> None:
    copy_project(tmp_path, CHANGES)
    (tmp_path / "more.py").write_text("more\n")
    commit(tmp_path, "More")
    assert git(tmp_path, "log", "--format=%s", environment=environment()).split("\n") == ["More", "Copy of the project"]
    tracked = set(git(tmp_path, "ls-files", environment=environment()).split("\n"))
    assert git(tmp_path, "status", "--porcelain", environment=environment()) == ""
    assert {"more.py", "dvc.yaml", "demo/run.py", ".dvc/config", "src/newllm/config.py"} <= tracked
    assert not [name for name in tracked if name.startswith((".venv", "build/"))]
    results = [name for name in tracked if name.startswith(("metrics/", "plots/"))]
    assert {name.rpartition("/")[2] for name in results} == {".gitkeep"}
    assert "dvc.lock" not in tracked
    stranger.assert_untouched()


def test_parameters_are_changed_and_their_comments_kept(tmp_path: Path) -> None:
    copy_project(tmp_path, CHANGES)
    expected = load_yaml(ROOT / "params.yaml")
    expected["data"] |= {"source": "synthetic", "synthetic": {"seed": 0, "train_words": 3000}}
    expected["train"]["seeds"] = [0, 1]
    assert load_yaml(tmp_path / "params.yaml") == expected
    comments = [
        [line.partition("#")[2] for line in (folder / "params.yaml").read_text(encoding="utf-8").splitlines()]
        for folder in (ROOT, tmp_path)
    ]
    assert [*filter(None, comments[0])] == [*filter(None, comments[1])]


def test_the_pipeline_is_changed_for_all_stages_that_share_a_list(tmp_path: Path) -> None:
    copy_project(tmp_path, CHANGES, SETTINGS["dvc.yaml"])
    expected = load_yaml(ROOT / "dvc.yaml")
    expected["vars"] = [{"sweep": "1 3 6"}, {"best": 1}]
    for name in ("train", "evaluate", "diagnose"):
        expected["stages"][name]["foreach"] = [1, 3, 6, "${model.num_layers}"]
    expected["stages"]["expand"]["matrix"]["depth"] = [1]
    expected["artifacts"] = {name: expected["artifacts"][name] for name in ("new-llm", "depth-1", "depth-3", "depth-6")}
    assert load_yaml(tmp_path / "dvc.yaml") == expected


def test_without_git_the_copy_is_a_dvc_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "python", "dvc"):
        program = shutil.which(name)
        assert program
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nexec '{program}' \"$@\"\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    copy_project(tmp_path / "copy", CHANGES)
    assert not (tmp_path / "copy" / ".git").exists()
    command = ["dvc", "repro", "--dry", "check_parameters"]
    done = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage 'check_parameters'" in done.stdout


@pytest.mark.git
@pytest.mark.skipif(not shutil.which("make"), reason="needs make, which is not on the PATH")
def test_make_in_the_copy_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "environment/bin").mkdir(parents=True)
    (tmp_path / "environment/installed").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    copy = tmp_path / "copy"
    copy_project(copy, CHANGES)
    command = ["make", "setup", "PYTHON=false"]
    assert subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 2
    run.share_environment(copy)
    subprocess.run(command, cwd=copy, capture_output=True, check=True)
    assert git(copy, "status", "--porcelain", environment=environment()) == ""


def test_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no .gitignore names, without links to folders, whatever .git is; and it can be written to."""
    for name in (".git", "kept.py", "kept/deeper/file", "data/text", "kept/deeper/old/file", "elsewhere/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / ".gitignore").write_text("/data/\n.venv/\n/elsewhere/\n")
    (tmp_path / "kept/deeper/.gitignore").write_text("old/\n")
    (tmp_path / ".venv").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert sorted(files()) == [".gitignore", "kept.py", "kept/deeper/.gitignore", "kept/deeper/file"]


def test_a_copy_of_what_is_read_only_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tmp_path / "original"
    for name in ("params.yaml", ".dvc/config"):
        (original / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, original / name)
    paths = sorted(original.rglob("*"), reverse=True)
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(run, "ROOT", original)
    copy_project(tmp_path / "copy", {})
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)
        assert (tmp_path / "copy" / path.relative_to(original)).stat().st_mode & 0o200


def test_what_git_says_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no developer tools' >&2\nexit 1\n")
    program.chmod(0o755)
    variables = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    copy = tmp_path / "checkout"
    for name in (
        *("demo/run.py", "demo/baselines.py", "demo/settings.yaml"),
        *("params.yaml", "dvc.yaml", ".dvc/config"),
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("src", "stages"):
        (copy / name).symlink_to(ROOT / name, target_is_directory=True)
    # a python of this environment that finds its packages, but no git of its own beside it
    command = [sys.executable, "demo/run.py"]
    done = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: git init in ")
    assert done.stderr.endswith(": no developer tools\n")


def test_baselines_by_hand(tmp_path: Path) -> None:
    """Of four words: 1 is followed by 2 twice and by 3 once, 2 by 1 once; after 3 nothing was seen."""
    before, target = pairs(np.array([[1, 2, 0, 0], [1, 3, 0, 0], [1, 2, 1, 0]], dtype=np.uint16))
    assert list(zip(before.tolist(), target.tolist(), strict=True)) == [(1, 2), (1, 3), (1, 2), (2, 1)]
    unigram, bigram = probabilities(before, target, 4)
    assert unigram == pytest.approx([1 / 8, 2 / 8, 3 / 8, 2 / 8])
    assert bigram[1] == pytest.approx([2 / 8 / 5, 4 / 8 / 5, (2 + 6 / 8) / 5, (1 + 4 / 8) / 5])
    assert bigram[2] == pytest.approx([1 / 8 / 2, (1 + 2 / 8) / 2, 3 / 8 / 2, 2 / 8 / 2])
    assert bigram[3] == pytest.approx(unigram)
    assert perplexity(np.array([1 / 2, 1 / 8])) == pytest.approx(4)
    np.save(tmp_path / "train.npy", np.array([[1, 2, 0], [1, 3, 0], [1, 2, 1]], dtype=np.uint16))
    np.save(tmp_path / "validation.npy", np.array([[1, 2, 0], [3, 1, 0]], dtype=np.uint16))
    found = baseline_perplexities(tmp_path, 4)
    assert found == pytest.approx((math.sqrt(8 / 3 * 8 / 2), math.sqrt(5 / (2 + 6 / 8) * 8 / 2)))


def test_the_models_learn_more_than_pairs_of_words(tmp_path: Path) -> None:
    """One seed of the shallowest and of the deepest models, trained as the demo trains them."""
    torch.set_num_threads(1)
    copy_project(tmp_path, SETTINGS["params.yaml"], SETTINGS["dvc.yaml"])
    config = load_config(tmp_path / "params.yaml")
    fetch_corpus(config.data, {}, tmp_path / "raw")
    tokenizer = build_tokenizer(read_split(tmp_path / "raw", "train"), config.data.vocabulary_size)
    write_windows(tmp_path / "raw", tokenizer, config.data, tmp_path / "windows")
    unigram, bigram = baseline_perplexities(tmp_path / "windows", config.data.vocabulary_size)
    assert bigram < unigram / 2, "the language has more to learn than how frequent its words are"
    splits = [load_windows(tmp_path / "windows" / f"{split}.npy") for split in ("train", "validation")]
    windows = [torch.from_numpy(split.astype("int32")) for split in splits]
    model, found = config.model, {}
    for num_layers in (1, 6):
        sizes = (config.data.vocabulary_size, model.embedding_dim, model.context_dim, model.hidden_size, num_layers)
        training = train(
            ModelShape(*sizes), study_rows(model, config.train)[:1], config.train, (windows[0], windows[1])
        )
        found[num_layers] = math.exp(training.results[0].val_loss)
    assert found[1] < bigram / 2
    assert found[6] < bigram
    assert found[6] - found[1] > 2, "more than their intervals together, which are some 0.2 and 1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The results of two depths, as the stages leave them."""
    for name in ("layers", "diagnostics"):
        (tmp_path / "metrics" / name).mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("data: {vocabulary_size: 4}")
    (tmp_path / "data/windows").mkdir(parents=True)
    for split in ("train", "validation"):
        np.save(tmp_path / f"data/windows/{split}.npy", np.array([[2, 3], [2, 1]], dtype=np.uint16))
    for num_layers, val_ppl in ((2, 3.0), (10, 4.0)):
        details = {
            "num_layers": num_layers,
            "num_seeds": 3,
            "val_ppl": val_ppl,
            "test_ppl": 5.25,
            "val_accuracy": 0.625,
        }
        details |= {"val_ppl_ci95": 0.5 - num_layers / 100, "test_ppl_ci95": 0.75}
        (tmp_path / f"metrics/layers/{num_layers}.json").write_text(json.dumps({"details": [details]}))
        texts = [
            {"prompt": f"{num_layers} was", "greedy": "", "sampled": text} for text in ("a a a a", "blue and green")
        ]
        samples = {"diagnostics": [{"samples": {"texts": texts}}]}
        (tmp_path / f"metrics/diagnostics/{num_layers}.json").write_text(json.dumps(samples))
    return tmp_path


def test_lessons_are_the_figures_of_the_results(results: Path) -> None:
    lines = [re.split(r" {2,}", line.strip()) for line in lessons(results).splitlines()]
    assert ["2 was | blue and green"] in lines
    assert ["2 layers", "3.00 ± 0.48", "5.25 ± 0.75", "62.5 %"] in lines
    assert ["10 layers", "4.00 ± 0.40", "5.25 ± 0.75", "62.5 %"] in lines
    assert lines.index(["2 layers", *lines[-3][1:]]) < lines.index(["10 layers", *lines[-2][1:]]), (
        "by depth, not by name"
    )
    unigram, bigram = baseline_perplexities(results / "data/windows", 4)
    assert {line[1] for line in lines if len(line) == 2} == {f"{unigram:.2f}", f"{bigram:.2f}"}
    assert lines[-1][0].endswith(": 10.")


def test_depths_whose_intervals_meet_are_not_apart(results: Path) -> None:
    path = results / "metrics/layers/10.json"
    details = json.loads(path.read_text())["details"][0]
    path.write_text(json.dumps({"details": [details | {"val_ppl_ci95": 0.6}]}))
    assert lessons(results).endswith(": none.")
    del details["val_ppl_ci95"], details["test_ppl_ci95"]  # of one seed
    path.write_text(json.dumps({"details": [details]}))
    assert lessons(results).endswith(": none.")
