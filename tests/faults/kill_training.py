"""Kills a training again and again at random moments, and compares what it comes to with one that nothing killed.

    python tests/faults/kill_training.py [--kills 25] [--seed 0]

Runs the stage train@1 in a copy of the project with a small generated corpus, writing a state after every epoch and
without regard to the time that writing takes. Every second kill waits for the next write to begin.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.run import copy_project, environment
from tests.test_pipeline import SMALL, Project

EPOCHS = 300
OUTPUTS = ("models/1", "plots/curves/1.csv")
STAGE = """
import math, runpy, sys
import stages
from newllm.training import states

states.LARGEST_SHARE = math.inf
sys.argv = ["stages.train", "--num-layers", "1"]
runpy.run_module("stages.train", run_name="__main__")
"""


def main() -> None:
    """Ends with status 1 if a weight or a figure differs in any bit, times apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311 (no secret)
    with tempfile.TemporaryDirectory() as name:
        project = prepared(Path(name))
        expected = trained(project)
        outcomes: list[str] = []
        trainings = 1
        while len(outcomes) < options.kills:
            outcome = killed(project, moments.uniform(0, 1.5), within_a_write=len(outcomes) % 2 == 1)
            if outcome is None:
                assert_same(trained(project), expected)
                trainings += 1
            else:
                outcomes.append(outcome)
                print(f"kill {len(outcomes)}: {outcome}", flush=True)
        assert_same(trained(project), expected)
        assert not [*(project.folder / "checkpoints").iterdir()], "states are left"
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    print(f"{len(outcomes)} kills: {counts}; trainings killed and brought to their end: {trainings}, all with the same")
    print("weights byte for byte and the same curves as one that nothing killed")


def prepared(folder: Path) -> Project:
    """A copy of the project with its data."""
    copy_project(folder, SMALL | {"checkpoint": {"every": 1}})
    project = Project(folder)
    project.set("train.epochs", EPOCHS)
    project.set("train.patience", EPOCHS)
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
        if "parameters, fp32" in line:  # the last line before training
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


def assert_same(found: tuple[bytes, list[str]], expected: tuple[bytes, list[str]]) -> None:
    if found != expected:
        sys.exit("error: weights or curves differ from those of the training that nothing killed")


if __name__ == "__main__":
    main()
