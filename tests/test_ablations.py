"""Experiments are collected from the commits of a made-up repository."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.analysis.ablations import load_ablations
from newllm.runtime.git import git, isolated
from tests.analysis.metrics_files import PARAMETERS, change_json, final_perplexity, write_all, write_diagnostics

pytestmark = pytest.mark.git
ROOT = Path(__file__).parent.parent


def test_the_page_says_whether_they_were_run() -> None:
    text = (ROOT / "ablations/README.md").read_text(encoding="utf-8")
    assert ("They have not been run yet" in text) == (not load_ablations(ROOT / "ablations/results.json"))


class Repository:
    """A git repository with a study, in which experiments are committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q")
        shutil.copy(ROOT / "params.yaml", folder)
        write_all(folder, (4, 6, 8), parameters=PARAMETERS)
        self.study = self.commit()

    def git(self, *arguments: str) -> str:
        return git(self.folder, *arguments, environment=isolated(os.environ))

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", "made up")
        return self.git("rev-parse", "HEAD")

    def experiment(
        self,
        changes: Mapping[str, Any],
        depths: tuple[int, ...] = (4, 6, 8),
        gain: float = 0.2,
        diagnosed: tuple[int, ...] = (),
    ) -> str:
        """A commit beside the study's, as DVC makes one; the study is checked out again."""
        parameters, values = copy.deepcopy(PARAMETERS), yaml.safe_load((self.folder / "params.yaml").read_text())
        for name, value in changes.items():
            section, key = name.split(".")
            values[section][key] = value
            if section in parameters:
                parameters[section][key] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))
        write_all(
            self.folder, depths, parameters=parameters, perplexity_of=lambda d, seed: final_perplexity(d, seed) - gain
        )
        for depth in diagnosed:
            write_diagnostics(self.folder, depth, lambda _, seed: 2.0 + 0.1 * seed)
        commit = self.commit()
        self.git("reset", "--hard", "-q", self.study)
        return commit

    def collect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ablations.collect", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_collects(repository: Repository) -> None:
    commits = [repository.experiment({"model.residual": True}), repository.experiment({"train.warmup_epochs": 10})]
    repository.git("update-ref", "refs/exps/ab/cdef/warm-one", commits[1])
    done = repository.collect(f"residual={commits[0]}", "warmup=warm-one")
    assert done.returncode == 0, done.stderr
    assert "residual, depth 8: val PPL 21.4" in done.stdout
    residual, warmup = load_ablations(repository.folder / "ablations/results.json")
    assert (residual.git_commits, residual.git_dirty) == (["0123456789abcdef0123456789abcdef01234567"], False)
    assert (residual.changes, warmup.changes) == ({"model.residual": True}, {"train.warmup_epochs": 10})
    assert residual.command == (
        "dvc exp run --temp --name residual -S model.residual=true evaluate@4 evaluate@6 evaluate@8 "
        "diagnose@4 diagnose@6 diagnose@8"
    )
    assert warmup.parameters["train.warmup_epochs"] == 10
    assert [depth.num_layers for depth in warmup.depths] == [4, 6, 8]
    assert [seed.val_ppl for seed in residual.depths[1].seeds] == [final_perplexity(6, seed) - 0.2 for seed in range(5)]
    assert [seed.best_epoch for seed in residual.depths[1].seeds] == [3, 2, 3, 3, 3]
    assert [seed.plateau_epochs for seed in residual.depths[1].seeds] == [2, 1, 2, 2, 2]
    assert repository.git("status", "--porcelain") == "?? ablations/"


def test_training_losses_are_those_of_the_experiments_weights(repository: Repository) -> None:
    """The commit of an experiment also has what the study wrote, diagnostics of other weights."""
    for depth in (4, 6, 8):
        write_diagnostics(repository.folder, depth, lambda depth, seed: 2.5 + depth + seed)
    repository.study = repository.commit()
    without = repository.experiment({"model.residual": True}, gain=0.02)
    own = repository.experiment({"model.residual": True}, diagnosed=(4, 6))
    done = repository.collect(f"without={without}")
    assert done.returncode == 0, done.stderr
    (before,) = load_ablations(repository.folder / "ablations/results.json")
    assert "without: training loss without dropout is not known at depth 4, 6, 8" in done.stdout
    done = repository.collect(f"own={own}")
    assert "own: training loss without dropout is not known at depth 8" in done.stdout
    found = [before, *load_ablations(repository.folder / "ablations/results.json")]
    assert [[depth.initial_norms is None for depth in one.depths] for one in found] == [
        [True] * 3,
        [False, False, True],
    ]
    assert found[1].depths[0].initial_norms == pytest.approx([0.001, 0.002, 0.003, 0.004])
    losses = [[[seed.train_loss_without_dropout for seed in depth.seeds] for depth in one.depths] for one in found]
    assert losses == [[[None] * 5] * 3, [[2.0, 2.1, 2.2, 2.3, 2.4]] * 2 + [[None] * 5]]


def test_depths_that_the_experiment_did_not_train_are_the_studys(repository: Repository) -> None:
    commit = repository.experiment({"model.residual": True, "model.num_layers": 8}, depths=(4, 8))
    more = repository.experiment({"model.residual": True}, depths=(3,))
    done = repository.collect(f"residual={commit}", f"more={more}")
    assert done.returncode == 0, done.stderr
    first, second = load_ablations(repository.folder / "ablations/results.json")
    assert [[depth.num_layers for depth in one.depths] for one in (first, second)] == [[4, 8], [3]]
    assert first.command.endswith(" evaluate@4 evaluate@8 diagnose@4 diagnose@8")


def test_code_of_every_depth_counts(repository: Repository) -> None:
    commit = repository.experiment({"model.residual": True})
    repository.git("checkout", "-q", commit)
    change_json(
        repository.folder / "metrics/runs/8.json",
        lambda runs: runs.update(git_commit="f" * 40, git_dirty=True, device="NVIDIA H200"),
    )
    done = repository.collect(f"residual={repository.commit()}")
    assert done.returncode == 1, "params.yaml of the experiment is checked out"
    mixed = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "-q", repository.study)
    assert repository.collect(f"residual={mixed}").returncode == 0
    (found,) = load_ablations(repository.folder / "ablations/results.json")
    assert found.git_commits == ["0123456789abcdef0123456789abcdef01234567", "f" * 40]
    assert found.git_dirty is True
    assert found.device == "NVIDIA H200 and NVIDIA L4"
    repository.git("checkout", "-q", mixed)
    change_json(repository.folder / "metrics/runs/4.json", lambda runs: runs.update(git_dirty=None))
    unknown = repository.commit()
    repository.git("checkout", "-q", repository.study)
    assert repository.collect(f"residual={unknown}").returncode == 0
    assert load_ablations(repository.folder / "ablations/results.json")[0].git_dirty is None


def test_an_experiments_name_that_is_there_twice(repository: Repository) -> None:
    commit = repository.experiment({"model.residual": True})
    for base in ("ab/cd", "ef/gh"):
        repository.git("update-ref", f"refs/exps/{base}/residual", commit)
    done = repository.collect("residual=residual")
    assert done.returncode == 1
    assert "revision residual: 2 experiments of this name" in done.stderr


def test_diagnostics_of_other_weights_at_one_seed(repository: Repository) -> None:
    """Less than what two stages' rounding could make between other files, more than it makes between these."""
    commit = repository.experiment({"model.residual": True}, depths=(4,), diagnosed=(4,))
    repository.git("checkout", "-q", commit)
    path = repository.folder / "metrics/diagnostics/4.json"
    file = json.loads(path.read_text())
    file["diagnostics"][0]["seeds"][2]["val_loss"] += 7e-4
    path.write_text(json.dumps(file))
    other = repository.commit()
    repository.git("checkout", "-q", repository.study)
    assert "not known" not in repository.collect(f"residual={commit}").stdout
    assert "training loss without dropout is not known at depth 4" in repository.collect(f"residual={other}").stdout


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("one", "two experiments are called one; name every experiment once"),
        ("two", "one and two both have depth 4 with residual connections; name every experiment once"),
    ],
)
def test_nothing_is_collected_twice(repository: Repository, second: str, expected: str) -> None:
    commit = repository.experiment({"model.residual": True})
    done = repository.collect(f"one={commit}", f"{second}={commit}")
    assert done.returncode == 1
    assert expected in done.stderr
    assert not (repository.folder / "ablations").exists()


def test_a_name_is_one_word_of_the_command(repository: Repository) -> None:
    commit = repository.experiment({"model.residual": True}, depths=(4,))
    assert repository.collect(f"two words={commit}").returncode == 0
    (found,) = load_ablations(repository.folder / "ablations/results.json")
    assert found.command.startswith("dvc exp run --temp --name 'two words' -S model.residual=true evaluate@4")


@pytest.mark.parametrize("content", ["a: [", "- 1", "", None])
def test_damaged_parameters(repository: Repository, content: str | None) -> None:
    """Of the experiment, and of the study here."""
    experiment = repository.experiment({"model.residual": True})
    path = repository.folder / "params.yaml"
    path.unlink()
    if content is not None:
        path.write_text(content)
    done = repository.collect(f"a={experiment}")
    assert done.stderr.startswith("error: params.yaml: ")
    damaged = repository.commit()
    repository.git("reset", "--hard", "-q", repository.study)
    other = repository.collect(f"a={damaged}")
    assert "params.yaml: " in other.stderr
    assert damaged[:12] in other.stderr
    assert not any("Traceback" in text or tempfile.gettempdir() in text for text in (done.stderr, other.stderr))


def test_nothing_trained(repository: Repository) -> None:
    commit = repository.experiment({"model.residual": True}, depths=())
    done = repository.collect(f"residual={commit}")
    assert done.returncode == 1
    assert f"{commit}:metrics/runs: no depth was trained with its params.yaml" in done.stderr
    assert "dvc exp run --temp --name residual -S model.residual=true" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.residual": True, "model.dropout": 0.2}, "found model.dropout 0.2, expected 0.1"),
        ({"data.stride": 16, "model.residual": True}, "found data.stride 16, expected 32"),
        ({"train.seeds": [0, 1], "train.warmup_epochs": 5}, "found train.seeds [0, 1]"),
        ({"model.residual": False}, "no switch differs"),
    ],
)
def test_other_changes_are_refused(repository: Repository, changes: dict[str, Any], expected: str) -> None:
    earlier = repository.folder / "ablations/results.json"
    earlier.parent.mkdir()
    earlier.write_text('{"experiments": []}')
    commit = repository.experiment(changes)
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text('{"experiments": []}')
    done = repository.collect(f"a={commit}")
    assert done.returncode == 1
    assert expected in done.stderr
    assert f"{commit}:params.yaml" in done.stderr
    assert json.loads(earlier.read_text()) == {"experiments": []}


def test_bad_arguments(repository: Repository) -> None:
    for arguments, expected in (
        (["residual"], "expected NAME=REVISION"),
        (["=abc"], "expected NAME=REVISION"),
        (["a=nowhere"], "revision nowhere: no such commit or experiment"),
        (["a=HEAD"], "no switch differs"),
    ):
        done = repository.collect(*arguments)
        assert done.returncode != 0
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("runs/8.json", "{", "runs/8.json: not valid JSON"),
        ("runs/8.json", "{}", "runs/8.json: found None as runs"),
        ("layers/4.json", "{}", "layers/4.json: found None as details"),
        ("layers/4.json", '{"details": [{}]}', "layers/4.json: key val_loss is missing"),
        ("layers/4.json", None, "layers/4.json: no such file in this commit"),
    ],
)
def test_damaged_results_name_the_revision(
    repository: Repository, name: str, content: str | None, expected: str
) -> None:
    repository.git("checkout", "-q", repository.experiment({"model.residual": True}, depths=(4, 6)))
    damaged = repository.folder / "metrics" / name
    damaged.unlink()
    if content is not None:
        damaged.write_text(content)
    commit = repository.commit()
    repository.git("checkout", "-q", repository.study)
    done = repository.collect(f"a={commit}")
    assert expected in done.stderr
    assert done.stderr.startswith(f"error: {commit[:12]}")
    assert "Traceback" not in done.stderr


def test_the_committed_table_is_valid() -> None:
    for ablation in load_ablations(ROOT / "ablations/results.json"):
        assert ablation.command in (ROOT / "ablations/README.md").read_text(encoding="utf-8").splitlines()
