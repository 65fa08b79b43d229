"""The DVC mechanics, end to end in a copy of the project, on a small generated corpus with two depths."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.run import copy_project, environment
from newllm.parallel.processes import belonging_to

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("pipeline")]

SMALL: dict[str, Any] = {
    "data": {
        "source": "synthetic",
        "synthetic": {"train_words": 3000},
        "vocabulary_size": 60,
        "window": 16,
        "stride": 8,
    },
    "model": {"num_layers": 2, "embedding_dim": 8, "context_dim": 8, "hidden_size": 8},
    "train": {"seeds": [0, 1], "epochs": 2, "batch_size": 64, "precision": "fp32"},
    "study": {"baseline_num_layers": 1},
    "search": {"depths": [], "equal_parameters": {}},
    "recipes": {},
    "lstm": {"hidden_sizes": []},
}
DATA_STAGES = ["download", "build_vocabulary", "tokenize"]
BOTH_DEPTHS = [f"{stage}@{depth}" for stage in ("train", "evaluate", "diagnose") for depth in (1, 2)]
BOTH_DEPTHS += ["expand@1-freeze", "report"]
PARALLEL = ("env", "PYTHONPATH=src", "python", "-m", "newllm.parallel", "--jobs", "2")


# What neither time nor speed can change.
EQUAL = {"val_ppl", "test_ppl"}


class Project:
    """A copy of the project in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
        )
        output = done.stdout + done.stderr
        assert done.returncode == status or (status and done.returncode), f"{command}\n{output}"
        return output

    def repro(self, *arguments: str) -> list[str]:
        """The stages that `dvc repro` ran, check_parameters apart."""
        return ran(self.run("dvc", "repro", *arguments))

    def set(self, name: str, value: object) -> None:
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        section, key = name.split(".")
        values[section][key] = value
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def restore(self) -> None:
        """Back to the last commit and its results."""
        self.run("git", "reset", "--quiet", "--hard")
        self.run("git", "clean", "--quiet", "-fd")
        self.run("dvc", "checkout", "--quiet")

    def results(self) -> dict[str, bytes]:
        """Every file that a reader sees."""
        names = [*self.folder.glob("metrics/**/*"), *self.folder.glob("plots/**/*")]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in names if path.is_file()}

    def json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / name).read_text())
        return value


def ran(output: str) -> list[str]:
    stages = re.findall(r"Running stage '([^']+)'", output)
    return [stage for stage in stages if stage != "check_parameters"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first complete run, with two jobs at once, committed."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder, SMALL)
    pipeline = folder / "dvc.yaml"
    text = pipeline.read_text()
    for all_of_it, some_of_it in (
        ('[1, 2, 3, 4, 5, 6, 7, 8, "${model.num_layers}"]', '[1, "${model.num_layers}"]'),
        ("sweep: 1 2 3 4 5 6 7 8", 'sweep: "1"'),
        ("  - best: tuned/2", "  - best: 1"),
        ("{depth: [1, 4], pattern: [freeze, finetune, longer, scratch]}", "{depth: [1], pattern: [freeze]}"),
    ):
        assert text.count(all_of_it) == 1
        text = text.replace(all_of_it, some_of_it)
    pipeline.write_text(text)
    project = Project(folder)
    output = project.run(*PARALLEL)
    assert ran(output) == [*DATA_STAGES, "report"], "in the project itself"
    beside = re.findall(r"^(\S+@\S+): \d+ s$", output, re.MULTILINE)
    assert sorted(beside) == sorted(name for name in BOTH_DEPTHS if name != "report")
    project.commit("First run")
    return project


@pytest.fixture
def project(finished: Project) -> Iterator[Project]:
    yield finished
    finished.restore()


def test_results_are_complete(project: Project) -> None:
    for depth in (1, 2):
        few = project.json(f"metrics/layers/{depth}.json")
        (layers,), (runs,) = few.pop("details"), project.json(f"metrics/runs/{depth}.json")["runs"]
        assert few == {name: layers[name] for name in ("val_ppl", "test_ppl", "val_accuracy")}
        assert layers["num_layers"] == depth
        expected = {"num_params", "val_loss", "val_ppl", "val_accuracy", "test_loss", "test_ppl", "test_accuracy"}
        expected |= {"train_loss", "best_epoch", "epochs_run", "train_seconds", "tokens_per_second"}
        expected |= {"val_ppl_std", "val_ppl_ci95", "test_ppl_std", "test_ppl_ci95"}
        assert expected <= layers.keys()
        assert all(isinstance(value, int | float) for value in layers.values())
        assert runs["device"].startswith(("CPU", "NVIDIA"))
        assert len(runs["git_commit"]) == 40
        assert [seed["seed"] for seed in runs["seeds"]] == [0, 1]
        curve = (project.folder / f"plots/curves/{depth}.csv").read_text().splitlines()
        assert len(curve) == 1 + 2 * 2
    summary = project.json("metrics/summary.json")
    assert summary["num_layers"] == 2
    report = (project.folder / "metrics/report.md").read_text()
    assert "| " in report
    assert "residual connections |" not in report, "the study's are not those of a copy with other parameters"
    assert project.run("git", "status", "--porcelain") == ""
    written = project.run("git", "diff", "--name-only", "HEAD~1", "HEAD").splitlines()
    others = {name for name in written if not name.startswith(("metrics/", "plots/"))}
    assert others == {"dvc.lock", "dvc.yaml"}, "dvc.yaml by the fixture"


BESIDE_CODE = [
    "__pycache__/trainer.cpython-311.pyc",
    ".ipynb_checkpoints/trainer.py",
    ".trainer.py.swp",
    ".trainer.swo",
    "trainer.py~",
    "#trainer.py#",
    ".#trainer.py",
    "trainer.py.orig",
    "trainer.py.rej",
    ".DS_Store",
]


def test_a_second_run_runs_nothing_whatever_tools_leave_beside_code(project: Project) -> None:
    for folder in ("training", "analysis"):
        for name in BESIDE_CODE:
            path = project.folder / "src/newllm" / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("not code")
    assert "up to date" in project.run("dvc", "status")
    assert project.repro() == []
    assert ran(project.run(*PARALLEL)) == []
    append(project.folder / "src/newllm/analysis/figures.py", "\n# changed\n")
    assert "src/newllm/analysis" in project.run("dvc", "status", "report")


def test_one_job_gives_what_two_jobs_gave(project: Project) -> None:
    """The same weights, figures and dvc.lock, but for files with times in them."""

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in project.folder.glob("models/**/*.safetensors")}

    def figures() -> dict[str, Any]:
        names = ("layers/2.json", "expand/1-freeze.json")
        values = {name: project.json(f"metrics/{name}")["details"][0] for name in names}
        return {name: {key: value for key, value in found.items() if key in EQUAL} for name, found in values.items()}

    def lock() -> str:
        results = r"    - path: (metrics|models|plots)/.*\n(      .*\n)*"
        return re.sub(results, "", (project.folder / "dvc.lock").read_text())

    before = contents(), figures(), lock()
    stages = ["train@2", "evaluate@2", "expand@1-freeze"]
    runs = project.folder / ".dvc/cache/runs"
    known = set(runs.rglob("*"))
    assert project.repro("--force", "--single-item", *stages) == stages
    # Models carry times, so this training is a second one of the same inputs, and DVC restores either of the two.
    for path in set(runs.rglob("*")) - known:
        if path.is_file():
            path.unlink()
    assert (contents(), figures(), lock()) == before
    assert len(before[0]) == 3
    assert all(set(found) == EQUAL for found in before[1].values())


def test_an_interrupted_command_ends_everything_and_goes_on(project: Project) -> None:
    project.set("train.epochs", 5000)
    project.set("train.patience", 5000)
    states, place = project.folder / "checkpoints", project.folder / ".dvc/tmp/parallel"

    def found(pattern: str) -> set[str]:
        logs = [*place.glob("project/.dvc/tmp/exps/run/*/*.out")]
        return {name for log in logs for name in re.findall(pattern, log.read_text())}

    for number, pattern in ((signal.SIGINT, r"(train@\d)'"), (signal.SIGTERM, r"(train@\d): going on after")):
        process = subprocess.Popen([*PARALLEL, "train"], cwd=project.folder, env=environment())
        while len({path.parent for path in states.glob("train@*/*.safetensors")}) < 2 or len(found(pattern)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
        assert time.monotonic() - began < 10
        assert belonging_to(place) == []
        assert [path.name for path in place.iterdir()] == ["lock"]
        for folder in states.glob("train@*"):
            *_, last = sorted(folder.glob("*.safetensors"))
            assert hashlib.sha256(last.read_bytes()).hexdigest() == last.stem.split("-")[1]
    shutil.rmtree(states)


def test_metrics_and_plots_show(project: Project) -> None:
    shown = project.run("dvc", "metrics", "show", "--json")
    values = next(iter(json.loads(shown).values()))["data"]
    assert {"metrics/layers/1.json", "metrics/layers/2.json", "metrics/summary.json"} <= values.keys()
    project.run("dvc", "plots", "show", "--out", "dvc_plots")
    page = (project.folder / "dvc_plots" / "index.html").read_text()
    assert all(f'"num_layers": "{depth}"' in page for depth in (1, 2))
    assert page.count("<img") >= 4


def test_the_best_model_can_be_got_by_name(project: Project, tmp_path: Path) -> None:
    """As the version that gto has registered."""
    project.run("gto", "register", "new-llm", "--version", "v1.0.0")
    try:
        project.run("dvc", "artifacts", "get", ".", "new-llm", "--rev", "v1.0.0", "--out", str(tmp_path / "model"))
        weights = project.folder / "models/1/weights.safetensors"
        assert (tmp_path / "model/weights.safetensors").read_bytes() == weights.read_bytes()
    finally:
        project.run("git", "tag", "--delete", "new-llm@v1.0.0")


def test_experiments_are_a_table_that_fits(project: Project) -> None:
    project.run("dvc", "exp", "run", "--queue", "--name", "wet", "-S", "model.dropout=0.3")
    try:
        lines = project.run("python", "tools/experiments.py").splitlines()
        perplexity = project.json("metrics/layers/2.json")["val_ppl"]
        assert any(line.split()[0] == "workspace" and f"{perplexity:.2f}" in line for line in lines if line.strip())
        assert any(line.split()[:3] == ["wet", "(queued)", "model.dropout=0.3"] for line in lines)
        assert max(map(len, lines)) <= 120
    finally:
        project.run("dvc", "queue", "remove", "--all")


def test_dropout_reruns_training_and_going_back_restores_without_training(project: Project) -> None:
    before = project.results()
    project.set("model.dropout", 0.3)
    assert sorted(project.repro()) == sorted(BOTH_DEPTHS)
    assert project.results()["metrics/layers/1.json"] != before["metrics/layers/1.json"]
    difference = project.run("dvc", "metrics", "diff")
    assert "metrics/layers/1.json" in difference
    assert "val_ppl" in difference
    project.set("model.dropout", 0.1)
    assert project.repro() in ([], ["report"])
    assert project.results() == before


def test_stride_reruns_from_tokenize(project: Project) -> None:
    project.set("data.stride", 16)
    assert sorted(project.repro()) == sorted(["tokenize", *BOTH_DEPTHS])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_training_code_reruns_training_and_not_the_data(project: Project) -> None:
    append(project.folder / "src/newllm/training/trainer.py", "\n# changed\n")
    stages = project.repro()
    assert "train@1" in stages
    assert "train@2" in stages
    assert not set(stages) & set(DATA_STAGES)


def test_plotting_code_reruns_only_the_report(project: Project) -> None:
    append(project.folder / "src/newllm/analysis/figures.py", "\n# changed\n")
    assert project.repro() == ["report"]


def test_another_depth_trains_that_depth_alone_and_leaves_no_trace(project: Project) -> None:
    before = project.results()
    output = project.run("dvc", "exp", "run", "-S", "model.num_layers=1")
    assert ran(output) == ["report"]
    output = project.run("dvc", "exp", "run", "-S", "model.num_layers=3")
    assert ran(output) == ["train@3", "evaluate@3", "diagnose@3", "report"]
    assert "metrics/layers/3.json" in project.run("dvc", "metrics", "diff")
    assert "val_ppl" in project.run("dvc", "exp", "diff")
    assert "3 |" in (project.folder / "metrics/report.md").read_text()
    output = project.run("dvc", "exp", "run", "-S", "model.num_layers=2")
    assert set(ran(output)) <= {"report"}
    after = project.results()
    assert {name: after[name] for name in before} == before, "the report must not see what depth 3 left"


BASELINE = ("study.baseline_num_layers", 7)
QUEUED_CODE = """

_render = render


def render(*arguments, **options):
    return [text + "the queued code" for text in _render(*arguments, **options)]
"""


def test_temporary_and_queued_experiments_run_their_own_code(project: Project) -> None:
    before = project.results()
    append(project.folder / "src/newllm/analysis/report.py", QUEUED_CODE)
    project.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "model.num_layers=3")
    project.run("git", "checkout", "--quiet", "--", "src")
    output = project.run("dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "model.dropout=0.2")
    assert "train@1" in ran(output)
    assert project.results() == before, "the workspace must stay as it is"
    project.run("dvc", "queue", "start")
    deadline = time.monotonic() + 300
    while "Success" not in (status := project.run("dvc", "queue", "status")):
        assert "Failed" not in status, project.run("dvc", "queue", "logs", "queued")
        assert time.monotonic() < deadline, status
        time.sleep(2)
    table = project.run("dvc", "exp", "show", "--csv")
    assert "queued" in table
    assert "temporary" in table
    report = project.run("git", "show", "refs/exps/" + experiment_ref(project, "queued") + ":metrics/report.md")
    assert "3 |" in report
    assert "the queued code" in report


def experiment_ref(project: Project, name: str) -> str:
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return next(ref.removeprefix("refs/exps/") for ref in refs if ref.endswith("/" + name))


def test_experiments_with_a_switch_run_what_they_name(project: Project) -> None:
    """As docs/experiments.md says, one after the other without anything between them."""
    found = []
    for name, setting in (("residual", "model.residual=true"), ("warmup", "train.warmup_epochs=1")):
        output = project.run("dvc", "exp", "run", "--temp", "--name", name, "-S", setting, "evaluate@2", "diagnose@2")
        assert sorted(ran(output)) == ["diagnose@2", "evaluate@2", "train@2"]
        assert project.run("git", "status", "--porcelain") == ""
        file = f"refs/exps/{experiment_ref(project, name)}:metrics/diagnostics/2.json"
        (diagnosis,) = json.loads(project.run("git", "show", file))["diagnostics"]
        found += [seed["train_loss_without_dropout"] for seed in diagnosis["seeds"]]
    assert len(set(found)) == 4


def test_a_bad_parameter_costs_no_output(project: Project) -> None:
    before = project.results()
    models = {path: path.stat().st_mtime_ns for path in project.folder.glob("models/**/*")}
    for name, value in (("train.epochs", 0), ("data.stride", 0), ("train.seeds", []), ("model.dropuot", 0.2), BASELINE):
        project.set(name, value)
        output = project.run("dvc", "repro", status=1)
        assert name.split(".")[1] in output
        assert "Traceback" not in output
        project.run("git", "checkout", "--quiet", "--", "params.yaml")
    assert project.results() == before
    assert {path: path.stat().st_mtime_ns for path in project.folder.glob("models/**/*")} == models


def test_a_killed_training_leaves_nothing_half_written(project: Project) -> None:
    before = project.results()
    project.set("train.epochs", 2000)
    process = subprocess.Popen(
        ["python", "-m", "stages.train", "--num-layers", "2"],
        cwd=project.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    while "epoch 1/2000" not in (line := process.stdout.readline()):
        assert line, "training ended"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    project.run("git", "checkout", "--quiet", "--", "params.yaml")
    assert project.results() == before
    assert project.repro() == []


def test_another_clone_gets_the_results_from_a_remote(project: Project, tmp_path: Path) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    project.run("dvc", "remote", "add", "--quiet", "--local", "--default", "shared", str(remote))
    project.run("dvc", "push", "--quiet", "--run-cache")
    project.run("git", "clone", "--quiet", str(project.folder), str(clone))
    other = Project(clone)
    assert ran(other.run("dvc", "repro", "--allow-missing", "--dry")) == []
    changes = re.findall(r"^\t\t(.+?): +(.+)$", other.run("dvc", "status"), flags=re.MULTILINE)
    assert {what for what, _ in changes} == {"deleted", "not in cache"}
    assert {name.split("/")[0] for _, name in changes} == {"data", "models"}
    assert {"models/1", "models/2", "data/windows"} <= {name for _, name in changes}
    other.run("dvc", "remote", "add", "--quiet", "--local", "--default", "shared", str(remote))
    other.run("dvc", "pull", "--quiet")
    assert other.repro() == []
    assert other.results() == project.results()
    assert (clone / "models/2/weights.safetensors").is_file()
