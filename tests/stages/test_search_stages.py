"""The tune and confirm stages in a copy of the project, and what they refuse."""

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from demo.run import copy_project, environment
from newllm.errors import UserError
from newllm.files import write_checksum, write_json
from newllm.measurement.diagnostics import sample_windows
from newllm.model.definition import logits
from newllm.usage.card import figures_of, model_card
from newllm.usage.project import open_model
from stages import build_vocabulary, confirm, download, tokenize, tune
from tests.test_pipeline import SMALL, Project

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("search stages")]

SEARCH: dict[str, Any] = {
    "depths": [2],
    "equal_parameters": {"2": 6},
    "trials": 6,
    "first_round": 4,
    "round_size": 2,
    "finalists": 2,
    "finalist_seeds": [1, 2],
    "widenings": 0,
    "confirm_seeds": [10, 11, 12],
    "equal_seeds": [10, 11],
    "margins": [[1, 0.02]],
    "space": {
        "learning_rate_factor": [1.0, 4.0, 16.0],
        "dropout": [0.0, 0.1, 0.3, 0.6],
        "residual": [False, True],
        "initialisation": ["normal", "he"],
        "schedule": ["constant", "linear"],
    },
}
TUNING, CURVES = Path("metrics/tuning/2.json"), Path("plots/tuning/2.csv")
TIMES = re.compile(r'"(train_seconds|tokens_per_second)": [0-9.e-]+')


def call(project: Project, stage: ModuleType, *arguments: str) -> None:
    """Runs a stage within this process, which spares it imports."""
    with contextlib.chdir(project.folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("search")
    copy_project(folder, SMALL)
    project = Project(folder)
    for name, value in SEARCH.items():
        project.set(f"search.{name}", value)
    for stage in (download, build_vocabulary, tokenize):
        call(project, stage)
    call(project, tune, "--num-layers", "2")
    write_json(folder / "metrics/layers/2.json", {"val_ppl": 70.5})
    return project


@pytest.fixture
def project(searched: Project) -> Iterator[Project]:
    """With what the search wrote, whatever the test does to it or to the parameters."""
    places = [searched.folder / path for path in (TUNING, CURVES, "params.yaml", "metrics/layers/2.json")]
    before = [path.read_bytes() for path in places]
    yield searched
    for path, content in zip(places, before, strict=True):
        path.write_bytes(content)


def tuning(project: Project) -> dict[str, Any]:
    (record,) = project.json(str(TUNING))["tuning"]
    return dict(record)


def without_times(project: Project) -> tuple[str, list[str]]:
    curves = (project.folder / CURVES).read_text().splitlines()
    return TIMES.sub("", (project.folder / TUNING).read_text()), [line.rsplit(",", 2)[0] for line in curves]


def test_the_record_of_a_search_is_whole(project: Project) -> None:
    found = tuning(project)
    assert (found["num_layers"], found["seed"], found["precision"]) == (2, 0, "fp32")
    assert found["num_params"] == 60 * 8 + 8 * 17 + 8 * 9 + 60 * 9 + 3 * 8 * 9 + 16
    assert {"device", "torch_version", "git_commit", "git_dirty", "git_problem", "data_sha256"} < found.keys()
    assert found["parameters"]["train"]["epochs"] == 2
    assert [trial["number"] for trial in found["trials"]] == list(range(6))
    assert [trial["round"] for trial in found["trials"]] == [0] * 4 + [1] * 2
    assert (
        found["trials"][0]["recipe"] == yaml.safe_load((project.folder / "params.yaml").read_text())["search"]["start"]
    )
    recipes = [json.dumps(trial["recipe"]) for trial in found["trials"]]
    assert len(set(recipes)) == 6
    assert {"number", "round", "recipe", "seed", "val_loss", "val_ppl", "best_epoch", "epochs_run", "ended"} | {
        "pruned",
        "problem",
        "train_seconds",
    } == found["trials"][0].keys()
    able = sorted((trial["val_loss"], trial["number"]) for trial in found["trials"] if not trial["pruned"])
    assert [one["trials"] for one in found["finalists"]] == [[number] for _, number in able[:2]]
    for one in found["finalists"]:
        assert [seed["seed"] for seed in one["seeds"]] == [1, 2]
        assert one["val_ppl"] == pytest.approx(sum(math.exp(seed["val_loss"]) for seed in one["seeds"]) / 2)
    best = min(found["finalists"], key=lambda one: one["val_ppl"])
    assert (found["chosen"]["recipe"], found["chosen"]["val_ppl"]) == (best["recipe"], best["val_ppl"])
    header, *rows = (project.folder / CURVES).read_text().splitlines()
    assert header.startswith("trial,num_layers,seed,epoch,train_loss,val_loss,")
    assert len(rows) == sum(trial["epochs_run"] for trial in found["trials"])


def test_a_killed_search_goes_on_and_comes_to_the_same_bits(project: Project) -> None:
    expected = without_times(project)
    process = subprocess.Popen(
        ["python", "-m", "stages.tune", "--num-layers", "2"],
        cwd=project.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    while "round 2 of 2" not in (line := process.stdout.readline()):
        assert line, "the search ended"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in output
    assert re.search(r"^tune@2: ended by a signal; `dvc repro` goes on after \d trainings$", output, re.MULTILINE)
    assert without_times(project) == expected, "the results before it stay"
    (project.folder / TUNING).unlink()
    call(project, tune, "--num-layers", "2")
    assert without_times(project) == expected
    assert not [*(project.folder / "checkpoints").iterdir()]


def test_dvc_runs_what_a_change_concerns(project: Project) -> None:
    stages = ("--single-item", "tune@2", "confirm@2", "equal@2")
    project.run("dvc", "commit", "--force", "tune@2")
    assert project.repro(*stages) == ["confirm@2", "equal@2"]
    project.set("model.dropout", 0.2)  # of part 1 alone
    project.set("search.confirm_seeds", [30, 31])
    assert project.repro("--dry", *stages) == ["confirm@2"]


def by_the_definition(project: Project, kind: str, seed: int, windows: torch.Tensor) -> float:
    """The loss of one seed's weights by the equations."""
    parameters = load_file(project.folder / f"models/{kind}/2/weights.safetensors")
    residual = tuning(project)["chosen"]["recipe"]["residual"]
    ids = windows.long()
    found = logits(
        {name: value[seed : seed + 1] for name, value in parameters.items()}, ids[None, :, :-1], residual=residual
    )
    return cross_entropy(found[0].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0).item()


@pytest.mark.parametrize(("kind", "options", "seeds"), [("tuned", (), 3), ("equal", ("--hidden-size", "6"), 2)])
def test_a_confirmation_is_the_winner_with_fresh_seeds(
    project: Project, kind: str, options: tuple[str, ...], seeds: int
) -> None:
    call(project, confirm, "--num-layers", "2", *options)
    few = project.json(f"metrics/{kind}/2.json")
    (metrics,) = few.pop("details")
    assert few == {name: metrics[name] for name in ("val_ppl", "test_ppl")}
    assert metrics["recipe"] == tuning(project)["chosen"]["recipe"]
    assert (metrics["num_layers"], metrics["num_seeds"]) == (2, seeds)
    assert metrics["hidden_size"] == (8 if kind == "tuned" else 6)
    (run,) = metrics["runs"]
    assert run["parameters"]["model"]["hidden_size"] == metrics["hidden_size"]
    assert [seed["seed"] for seed in run["seeds"]] == [10, 11, 12][:seeds]
    assert metrics["val_ppl"] == pytest.approx(sum(seed["val_ppl"] for seed in run["seeds"]) / seeds)
    if kind == "tuned":
        assert metrics["gain"] == pytest.approx(70.5 - metrics["val_ppl"])
        model = open_model(project.folder, 2, seed=11, tuned=True)
        card = model_card(model, figures_of(model, project.folder), project.folder)
        assert f"| validation PPL | {run['seeds'][1]['val_ppl']:.2f} | {metrics['val_ppl']:.2f} ± " in card
    else:
        assert "gain" not in metrics
    splits = [
        torch.from_numpy(np.load(project.folder / f"data/windows/{split}.npy").astype("int32"))
        for split in ("train", "validation", "test")
    ]
    for place, seed in enumerate(run["seeds"]):
        losses = [by_the_definition(project, kind, place, split) for split in splits[1:]]
        sample = by_the_definition(project, kind, place, sample_windows(splits[0], len(splits[1])))
        assert [seed["val_loss"], seed["test_loss"]] == pytest.approx(losses, rel=1e-5)
        assert seed["train_loss_without_dropout"] == pytest.approx(sample, rel=1e-5)
        assert seed["gap"] == pytest.approx(losses[0] - sample, abs=1e-4)
        assert seed["val_ppl"] == pytest.approx(math.exp(losses[0]), rel=1e-4)
        assert seed["test_ppl"] == pytest.approx(math.exp(losses[1]), rel=1e-4)
    rows = (project.folder / f"plots/{kind}/2.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(seed["epochs_run"] for seed in run["seeds"])


def edit(project: Project, **changes: Any) -> None:
    (record,) = project.json(str(TUNING))["tuning"]
    for name, value in changes.items():
        place, *others = name.split("__")
        holder = record
        while others:
            holder, place = holder[int(place) if place.isdigit() else place], others.pop(0)
        if value is None:
            del holder[place]
        else:
            holder[place] = value
    write_json(project.folder / TUNING, {"tuning": [record]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, "found the search of 3 layers, expected 2"),
        ({"chosen": None}, r"tuning.0.chosen: Field required"),
        ({"chosen__recipe__dropout": None}, "chosen.recipe.dropout: Field required"),
        ({"chosen__recipe__width": 5}, "chosen.recipe.width: Extra inputs"),
        ({"chosen__recipe__initialisation": "xavier"}, "chosen.recipe.initialisation: Input should be"),
        ({"chosen__recipe__dropout": 0.6, "chosen__recipe__schedule": "linear"}, "chosen does not follow"),
        ({"chosen__val_ppl": 1.0}, "chosen does not follow"),
        ({"finalists__0__val_ppl": 1.0}, "chosen does not follow"),
        ({"finalists__0__trials": [77]}, "chosen does not follow"),
        ({"data_sha256": "0" * 64}, "not a search on the windows"),
        ({"seed": 8}, "parameters other than those of params.yaml"),
        ({"trials": []}, "parameters other than those of params.yaml"),
        ({"parameters__train__epochs": 9}, "parameters other than those of params.yaml"),
        ({"space__dropout": [0.1]}, "parameters other than those of params.yaml"),
        ({"space__dropout": [0.0, 0.1, 0.3, 0.6, 0.7]}, "parameters other than those of params.yaml"),
    ],
)
def test_a_search_that_is_not_the_one_asked_for_is_refused(project: Project, changes: Any, words: str) -> None:
    edit(project, **changes)
    with pytest.raises(UserError, match=rf"metrics/tuning/2\.json: .*{words}.*; run `dvc repro tune@2`"):
        call(project, confirm, "--num-layers", "2")


def test_a_search_that_widened_its_range_is_confirmed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    space = {**SEARCH["space"], "learning_rate_factor": [0.5, 1.0]}
    project.set("search.space", space)
    project.set("search.widenings", 1)
    call(project, tune, "--num-layers", "2")
    assert "still at the end of its range 0.5 to 2.0; raise search.widenings" in capsys.readouterr().out
    found = tuning(project)
    assert found["space"] == {**space, "learning_rate_factor": [0.5, 1.0, 2.0]}
    assert [trial["round"] for trial in found["trials"]] == [0] * 4 + [1] * 2 + [2] * 2
    assert found["chosen"]["at_end_of_range"] == ["learning_rate_factor"]
    rows = (project.folder / CURVES).read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == set("01234567")
    call(project, confirm, "--num-layers", "2")
    (confirmed,) = project.json("metrics/tuned/2.json")["details"]
    assert confirmed["recipe"] == found["chosen"]["recipe"]
    refused = "parameters other than those of params.yaml"
    for wanted in ({**space, "dropout": [0.0, 0.1, 0.2]}, found["space"]):  # neither is narrower than what was searched
        project.set("search.space", wanted)
        with pytest.raises(UserError, match=refused):
            call(project, confirm, "--num-layers", "2")


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        (TUNING, None, "no such file; run `dvc repro tune@2`"),
        (TUNING, "{", "not valid JSON"),
        (TUNING, '{"tuning": []}', "found no list `tuning` with one entry"),
        (Path("metrics/layers/2.json"), None, "no such file; run `dvc repro evaluate@2`"),
        (Path("metrics/layers/2.json"), '{"val_ppl": null}', "val_ppl: found None, expected a number"),
    ],
)
def test_files_that_are_missing_or_broken_are_named(
    project: Project, path: Path, content: str | None, words: str
) -> None:
    if content is None:
        (project.folder / path).unlink()
    else:
        (project.folder / path).write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{path}: {words}")):
        call(project, confirm, "--num-layers", "2")


def test_damaged_windows_and_ids_beyond_the_vocabulary_are_refused(project: Project) -> None:
    project.set("data.vocabulary_size", 30)
    for stage in (tune, confirm):
        with pytest.raises(UserError, match=r"train\.npy: found id \d+, expected less than data\.vocabulary_size = 30"):
            call(project, stage, "--num-layers", "2")
    windows = project.folder / "data/windows/test.npy"
    before = windows.read_bytes()
    windows.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        project.set("data.vocabulary_size", 65_536)
        with pytest.raises(UserError, match=r"data/windows/test\.npy: found the SHA-256"):
            call(project, confirm, "--num-layers", "2")
    finally:
        windows.write_bytes(before)
        write_checksum(windows)


def test_a_replay_speaks_of_a_search_that_was_not_pruned(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(trial["pruned"] for trial in tuning(project)["trials"])
    with pytest.raises(UserError, match=r"tune@2: found pruned trials.* run .*search\.unpruned=\[2\]"):
        call(project, tune, "--num-layers", "2", "--replay")
    project.set("search.unpruned", [2])
    call(project, tune, "--num-layers", "2")
    capsys.readouterr()
    call(project, tune, "--num-layers", "2", "--replay")
    output = capsys.readouterr().out
    rows = [line.split(",") for line in (project.folder / CURVES).read_text().splitlines()[1:]]
    first = {int(row[0]): float(row[5]) for row in rows if row[3] == "1"}
    trials = tuning(project)["trials"]
    left = []
    for trial in trials:  # those of its stack train beside it, those of earlier ones came before it
        place = (trial["round"], trial["recipe"]["residual"])
        known = [t["number"] for t in trials if (t["round"], t["recipe"]["residual"]) <= place]
        left += [trial["number"]] if first[trial["number"]] > min(first[number] for number in known) + 0.02 else []
    assert left
    assert re.findall(r"^trial (\d+) would have left after epoch 1$", output, re.MULTILINE) == [str(n) for n in left]
    assert f"{len(left)} of 6 trials leave and spare {len(left)} of 12 epochs" in output
    (project.folder / CURVES).write_text("trial,epoch\n1,2\n")
    with pytest.raises(UserError, match=r"plots/tuning/2\.csv: not a table with the columns"):
        call(project, tune, "--num-layers", "2", "--replay")
