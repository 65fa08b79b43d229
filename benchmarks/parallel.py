"""Times the study's trainings with one job and with several on this machine: python -m benchmarks.parallel.

Each number of jobs computes everything anew, in a clone of the project with a cache of its own: the eight depths with
all seeds trained, evaluated and diagnosed. The data are made before and not timed. Writes
benchmarks/results/parallel.json, in which other numbers of jobs stay if they were of the same GPUs and commit.
"""

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import RESULTS
from newllm.errors import UserError
from newllm.files import atomic_path, read_json, write_json
from newllm.parallel.log import Log
from newllm.runtime.git import git, in_folder
from newllm.runtime.gpus import VARIABLE, installed, visible

ROOT = Path(__file__).resolve().parent.parent
FILE = RESULTS / "parallel.json"
NOTES = ROOT / "benchmarks" / "NOTES.md"
BEGIN, END = "<!-- parallel -->", "<!-- end of parallel -->"
TARGETS = ("evaluate", "diagnose")
SWEEP = 1000 * 10 // 5  # studies in a thousand recipes with ten seeds, where a study has five seeds of one recipe
SWEEP_GPUS = (1, 4, 64, 1024)
SHOWN = re.compile(r"(\S+): (\d+) s(?: on (GPU .+))?$")  # as newllm.parallel says that a stage has ended


def main() -> None:
    """Runs what is asked for and brings the file up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", help="numbers of jobs; 1 and the number of GPUs unless given")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "parallel", help="for the clones, which stay")
    parser.add_argument("--data", action="store_true", help="make the clones and their data, and no more")
    parser.add_argument("--notes", action="store_true", help="write the table of the file into NOTES.md, and no more")
    options = parser.parse_args()
    if options.notes:
        if not FILE.is_file():
            raise UserError(f"{FILE}: no such file; run `python -m benchmarks.parallel`, which writes it")
        write_notes(NOTES, read_json(FILE, ""))
        return
    if git(ROOT, "status", "--porcelain", "--", "src", "stages", "dvc.yaml", "params.yaml"):
        raise UserError(f"{ROOT}: found changes that are not committed; commit them, for they would not be measured")
    gpus = visible(os.environ.get(VARIABLE), installed())
    for jobs in options.jobs or sorted({1, max(1, len(gpus))}):
        project = options.folder.resolve() / f"{jobs}-jobs"
        if not is_ready(project):
            clone(project)
        if not options.data:
            results = begin(FILE, [gpu.title for gpu in gpus])
            add(results, jobs, *timed(project, jobs))
            write_json(FILE, results)
            print(table(results), flush=True)


def is_ready(project: Path) -> bool:
    """Whether it is a clone of the commit that is checked out here, has data, and nothing was trained in it."""
    has_data = (project / "data" / "windows").is_dir() and not any((project / "models").glob("*"))
    return has_data and git(project, "rev-parse", "HEAD") == git(ROOT, "rev-parse", "HEAD")


def clone(project: Path) -> None:
    """Clones the commit that is checked out here, and makes the data in it."""
    shutil.rmtree(project, ignore_errors=True)
    project.parent.mkdir(parents=True, exist_ok=True)
    git(ROOT, "clone", "--quiet", str(ROOT), str(project))
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "tokenize"], cwd=project, env=environment(project), check=True
    )


def environment(project: Path) -> dict[str, str]:
    """With the clone's own code and this Python."""
    variables = in_folder(os.environ)
    path = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")])
    code = os.pathsep.join([str(project / "src"), *filter(None, [variables.get("PYTHONPATH")])])
    return variables | {"PATH": path, "PYTHONPATH": code, "DVC_NO_ANALYTICS": "1"}


def timed(project: Path, jobs: int) -> tuple[float, list[dict[str, Any]]]:
    """Runs the trainings; returns the seconds that all took, and stage, GPU and seconds of each training."""
    runner = ["dvc", "repro"] if jobs == 1 else ["newllm.parallel", "--jobs", str(jobs)]
    log, trainings = Log(), []
    began = time.monotonic()
    with subprocess.Popen(  # noqa: S603 (fixed arguments)
        [sys.executable, "-m", *runner, *TARGETS],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            now = time.monotonic() - began
            ended = [(stage.stage, stage.gpu, round(stage.seconds)) for stage in log.read(line.rstrip("\n"), now)]
            if shown := SHOWN.match(line.rstrip("\n")):
                ended.append((shown[1], shown[3], int(shown[2])))
            trainings += [entry for entry in ended if entry[0].startswith("train@")]
    seconds = time.monotonic() - began
    if process.returncode:
        raise UserError(f"{project}: {' '.join(runner)} ended with status {process.returncode}; see above")
    return seconds, [{"stage": stage, "gpu": gpu, "seconds": took} for stage, gpu, took in sorted(trainings)]


def begin(file: Path, gpus: Sequence[str]) -> dict[str, Any]:
    """What the file has if it is of the same machine and commit; else the beginning of a new one."""
    about: dict[str, Any] = {
        "device": re.sub(r"^GPU \d+, ", "", gpus[0]) if gpus else f"CPU, {os.cpu_count()} cores",
        "gpus": len(gpus),
        "git_commit": git(ROOT, "rev-parse", "HEAD"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if file.is_file():
        found = read_json(file, "")
        if all(found.get(name) == about[name] for name in ("device", "gpus", "git_commit")):
            return found
    return about | {"rows": [], "trainings": []}


def add(results: dict[str, Any], jobs: int, seconds: float, trainings: Sequence[Mapping[str, Any]]) -> None:
    """Adds a number of jobs; `trainings` are those of the fewest, beside which the least runs."""
    rows = {row["jobs"]: row["seconds"] for row in results["rows"]} | {jobs: seconds}
    if jobs == min(rows):
        results["trainings"] = list(trainings)
    results["rows"] = [
        {"jobs": number, "seconds": took, "speedup": rows[1] / took if 1 in rows else None}
        for number, took in sorted(rows.items())
    ]


def table(results: Mapping[str, Any]) -> str:
    """The section for NOTES.md: seconds by jobs, what limits, and what a large sweep would take."""
    commit = results["git_commit"][:10]
    lines = [f"{results['gpus']} × {results['device']}, commit `{commit}`, {results['date']}:", ""]
    lines += ["| jobs | seconds | times faster |", "|---|---|---|"]
    for row in results["rows"]:
        speedup = f"{row['speedup']:.2f}" if row["speedup"] else "–"
        lines.append(f"| {row['jobs']} | {row['seconds']:.0f} | {speedup} |")
    if results["trainings"]:
        longest = max(results["trainings"], key=lambda training: float(training["seconds"]))
        total = sum(training["seconds"] for training in results["trainings"])
        jobs = min(row["jobs"] for row in results["rows"])
        lines += [
            "",
            f"With {jobs} job{'s' if jobs > 1 else ''} the trainings alone take {total:.0f} s, the longest, "
            f"`{longest['stage']}`, {longest['seconds']:.0f} s: with any number of GPUs it takes no less.",
        ]
    alone = next((row["seconds"] for row in results["rows"] if row["jobs"] == 1), None)
    if alone:
        lines += [
            "",
            "A sweep of 1,000 recipes at eight depths with ten seeds, computed from one job's seconds as if "
            "work divided without loss, which it does not:",
            "",
        ]
        lines += ["| GPUs | time |", "|---|---|"]
        lines += [f"| {gpus:,} | {_duration(alone * SWEEP / gpus)} |" for gpus in SWEEP_GPUS]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"


def write_notes(notes: Path, results: Mapping[str, Any]) -> None:
    """Replaces what stands between the marks in the notes."""
    before, rest = notes.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    with atomic_path(notes) as beside:
        beside.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
