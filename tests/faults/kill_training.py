"""Kills a training again and again at random moments, and compares what it comes to with one that nothing killed.

    python tests/faults/kill_training.py [--kills 25] [--seed 0] [--gpu]

Runs the stage train@1 in a copy of the project with a small generated corpus, writing a state after every epoch and
without regard to the time that writing takes. Every second kill waits for the next write to begin. Weights and curves
must be the same bit for bit; with --gpu a model of the study's size is trained in FP16, and losses may differ by
rounding.
"""

import argparse
import copy
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dvc.utils.collections import merge_dicts

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.run import copy_project, environment
from tests.test_pipeline import SMALL, Project

EPOCHS = 300
ON_GPU = {
    "data": {"synthetic": {"train_words": 200_000}, "vocabulary_size": 1000, "window": 64, "stride": 32},
    "model": {"embedding_dim": 256, "context_dim": 256, "hidden_size": 512},
    "train": {"precision": "fp16", "batch_size": 2048, "epochs": 100, "patience": 100},
}
TOLERANCE = 1e-3  # of a validation loss on a GPU, relative; the runs differ by rounding, which training amplifies
OUTPUTS = ("models/1", "plots/curves/1.csv")
STAGE = """
import math, runpy, sys
import stages
from newllm.runtime import resume

resume.LARGEST_SHARE = math.inf
sys.argv = ["stages.train", "--num-layers", "1"]
runpy.run_module("stages.train", run_name="__main__")
"""


def main() -> None:
    """Ends with status 1 if a weight or a figure differs in any bit, times apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311 (no secret)
    with tempfile.TemporaryDirectory() as name:
        project = prepared(Path(name), ON_GPU if options.gpu else {})
        expected = trained(project)
        latest = 4.0 if options.gpu else 1.5  # seconds; graphs are captured first
        largest = 0.0
        outcomes: list[str] = []
        trainings = 1
        while len(outcomes) < options.kills:
            outcome = killed(project, moments.uniform(0, latest), within_a_write=len(outcomes) % 2 == 1)
            if outcome is None:
                largest = max(largest, compare(trained(project), expected, options.gpu))
                trainings += 1
            else:
                outcomes.append(outcome)
                print(f"kill {len(outcomes)}: {outcome}", flush=True)
        largest = max(largest, compare(trained(project), expected, options.gpu))
        assert not [*(project.folder / "checkpoints").iterdir()], "states are left"
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    print(f"{len(outcomes)} kills: {counts}; trainings killed and brought to their end: {trainings}")
    same = (
        f"losses that differ by at most {largest:.1e}"
        if largest
        else "weights and curves that are the same bit for bit"
    )
    print(f"compared with one that nothing killed: {same}")


def prepared(folder: Path, changes: dict[str, Any]) -> Project:
    """A copy of the project with its data."""
    small = {"train": {"epochs": EPOCHS, "patience": EPOCHS}, "checkpoint": {"every": 1}}
    copy_project(folder, merge_dicts(merge_dicts(copy.deepcopy(SMALL), small), changes))
    project = Project(folder)
    for stage in ("download", "build_vocabulary", "tokenize"):
        project.run("python", "-m", f"stages.{stage}")
    return project


def trained(project: Project) -> tuple[bytes, list[str]]:
    """Weights, and curves without seconds and joules, of a training that is now brought to its end if it is not yet."""
    if not (project.folder / OUTPUTS[0]).exists():
        project.run("python", "-c", STAGE)
    weights = (project.folder / OUTPUTS[0] / "weights.safetensors").read_bytes()
    rows = (project.folder / OUTPUTS[1]).read_text().splitlines()
    shutil.rmtree(project.folder / OUTPUTS[0])
    return weights, [row.rsplit(",", 2)[0] for row in rows]


def killed(project: Project, delay: float, within_a_write: bool) -> str | None:
    """Kills the stage some seconds after training began; tells what that met, or None if the stage had ended."""
    process = subprocess.Popen(
        ["python", "-c", STAGE], cwd=project.folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if re.search("parameters, fp(16|32)", line):  # the last line before training
            break
    time.sleep(delay)
    while within_a_write and not [*project.folder.glob("checkpoints/*/unfinished")] and process.poll() is None:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()
    if process.wait() == 0:
        return None
    assert process.returncode == -signal.SIGKILL, process.returncode
    (folder,) = (project.folder / "checkpoints").iterdir()
    if (folder / "unfinished").exists():
        return "within a write"
    states = [*folder.glob("*.safetensors")]
    return "between writes" if states else "before the first state"


def compare(found: tuple[bytes, list[str]], expected: tuple[bytes, list[str]], rounding: bool) -> float:
    """The largest relative difference of a validation loss; ends with status 1 if there should be none so large."""
    if found == expected:
        return 0.0
    losses = [[float(row["val_loss"]) for row in csv.DictReader(curves)] for _, curves in (found, expected)]
    largest = max(abs(one - other) / other for one, other in zip(*losses, strict=True))
    if not rounding or largest > TOLERANCE:
        sys.exit(f"error: weights or curves differ from those of the training that nothing killed, by {largest:.1e}")
    return largest


if __name__ == "__main__":
    main()
