"""`dvc repro` with several stages at once."""

import fcntl
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from time import sleep

import networkx as nx
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import modify_yaml

from newllm.errors import UserError
from newllm.parallel.clone import clone
from newllm.parallel.display import Display
from newllm.parallel.groups import Group, needed, split
from newllm.parallel.log import RUNNING
from newllm.parallel.processes import AT_ONCE, VARIABLE, belonging_to, end, end_run, run
from newllm.parallel.queue import DVC, Job, Progress, Queue
from newllm.runtime.git import in_folder, isolated
from newllm.runtime.gpus import VARIABLE as GPUS
from newllm.runtime.gpus import Gpu

PLACE = Path(".dvc/tmp/parallel")  # which neither git nor DVC looks at
STATES = "NEWLLM_STATES"  # names the folder of the trainings' states
TURN = 1.0  # seconds between two looks at the jobs
LINES_SHOWN = 25  # of a failed job's log


def repro(
    project: Path, jobs: int, targets: Sequence[str], gpus: Sequence[Gpu] = (), allow_missing: bool = False
) -> None:
    """Brings stages up to date, several at once, and leaves the project as `dvc repro` would.

    Args:
        project: the current folder.
        jobs: how many groups of stages may run at once.
        targets: as of `dvc repro`; all stages without.
        gpus: on which stages may run, no more than `jobs`. As many groups again then start beside those that have one
            and wait for it, so that no GPU waits for a stage that is still importing torch.
        allow_missing: as of `dvc repro`: what is missing, and else up to date, is not computed again for its own sake.

    Raises:
        UserError: a stage has failed, or this runs already.
    """
    if not (project / "dvc.yaml").is_file() or not (project / ".dvc").is_dir():
        raise UserError(f"{project}: found no dvc.yaml or no .dvc, expected both; run this in the project's folder")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if shutil.which("dvc", path=path) is None:
        raise UserError("dvc: found no such command, by which DVC's queue starts its workers; activate the environment")
    with alone(project / PLACE) as place:
        chosen = {GPUS: ",".join(gpu.name for gpu in gpus)} if gpus else {}
        workspace = Workspace(project, os.environ | chosen | {"PATH": path, VARIABLE: str(place)}, allow_missing)
        common, groups = workspace.plan(targets)
        changed = workspace.changed()
        if not allow_missing:
            workspace.forget(changed)
        if workspace.lacks(common) and not changed.isdisjoint(chain(common, *(group.stages for group in groups))):
            workspace.repro(common)
            changed = workspace.changed()
        outdated = [part for group in groups if (part := group.of(changed))]
        workers = max(jobs, 2 * len(gpus))
        failed = _run_beside(workspace, place, outdated, jobs, workers) if len(outdated) > 1 else []
        computed = [group for group in outdated if group not in [job.group for job in failed]]
        if not failed:
            workspace.repro([*workspace.options, *targets], computed if len(outdated) > 1 else [])
            return
        if computed:
            found = [target for group in computed for target in group.targets]
            workspace.repro([*workspace.options, *found], computed)
        raise UserError("\n\n".join(_failure(job) for job in failed))


class Workspace:
    """The project's own folder."""

    def __init__(self, project: Path, variables: Mapping[str, str], allow_missing: bool = False) -> None:
        self.project, self._variables = project, variables
        self.options = ["--allow-missing"] if allow_missing else []

    def plan(self, targets: Sequence[str]) -> tuple[list[str], list[Group]]:
        """Stages that run first, and groups that can run beside one another: of the targets and all that they need."""
        with Repo(str(self.project)) as repo:
            graph = nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
            wanted = [stage.addressing for target in targets for stage in repo.stage.collect(target)]
        return split(needed(graph, wanted))

    def lacks(self, stages: Sequence[str]) -> bool:
        """Whether one of them is not up to date or an output of it is missing, which the others need."""
        with Repo(str(self.project)) as repo:
            return bool(stages and repo.status(targets=stages))

    def changed(self) -> set[str]:
        """The stages that are not up to date."""
        with Repo(str(self.project)) as repo, repo.lock:
            allow_missing = bool(self.options)
            return {stage.addressing for stage in repo.index.stages if stage.changed(allow_missing=allow_missing)}

    def forget(self, stages: Collection[str] | None = None) -> None:
        """Removes from dvc.lock the results that the cache lacks, of stages of which it has another; None: of all.

        Where dvc.lock has a result for the very dependencies that are there, as in a fresh clone of a study, DVC looks
        for that one alone: if it is missing, the stage runs, whatever the run cache has. DVC has no command for this.
        """
        with Repo(str(self.project)) as repo, repo.lock:
            asked = [stage for stage in repo.index.stages if stages is None or stage.addressing in stages]
            if found := [stage.addressing for stage in asked if _has_other_result(repo, stage)]:
                with modify_yaml(self.project / "dvc.lock") as lock:
                    for name in found:
                        del lock["stages"][name]

    def clone(self, folder: Path) -> dict[str, str]:
        """Makes a clone, and returns the environment for it."""
        with Repo(str(self.project)) as repo:
            clone(self.project, folder, Path(repo.cache.local_cache_dir))
        states = self._variables.get(STATES) or str(self.project / "checkpoints")
        return isolated(self._variables) | {STATES: states, "DVC_EXP_AUTO_PUSH": "false", "DVC_STUDIO_OFFLINE": "true"}

    def repro(self, arguments: Sequence[str], computed: Sequence[Group] = ()) -> None:
        """Runs `dvc repro`, which must take `computed` groups from the run cache.

        Raises:
            UserError: a stage fails, or one of `computed` would run.
        """
        stages = {stage for group in computed for stage in group.stages}
        self.forget(stages)

        def shown(line: str) -> None:
            running = RUNNING.match(line)
            if running and running[1] in stages:
                raise UserError(
                    f"{running[1]}: the queue has computed it, and yet it would run again in the project, so that "
                    "something that it depends on has changed meanwhile; run the same command again"
                )
            print(line, flush=True)

        command = [*DVC, "repro", *arguments]
        if status := run(command, self.project, in_folder(self._variables), shown if stages else None):
            raise UserError(f"dvc repro: status {status}; what has failed is said above")


def _has_other_result(repo: Repo, stage: Stage) -> bool:
    """Whether the cache lacks the result that dvc.lock has, and has another one for the same dependencies."""
    if not all(out.hash_info for out in stage.outs) or stage.outs_cached():
        return False
    key, cache = _get_cache_hash(to_single_stage_lockfile(stage), key=True), repo.stage_cache
    results = (cache._load_cache(key, path.name) for path in Path(cache._get_cache_dir(key)).glob("*"))
    return any(result and cache._create_stage(result, wdir=stage.wdir).outs_cached() for result in results)


def _run_beside(workspace: Workspace, place: Path, groups: Sequence[Group], jobs: int, workers: int) -> list[Job]:
    """Runs groups through the queue of a clone; returns those that have failed, their logs saved in `place`."""
    first = min(jobs, len(groups))
    names = ", ".join(group.name for group in groups)
    print(f"{len(groups)} groups of stages are out of date, {first} at once: {names}", flush=True)
    folder = place / "project"
    queue = Queue(folder, place, workspace.clone(folder))
    with Display() as display:
        for number, group in enumerate(groups, 1):
            queue.put(group, workspace.options)
            if number == first:
                queue.start(min(workers, len(groups)))
            _look(queue, display)
            # one at a time, once the workers have theirs: Celery's files are taken in the order of their names, which
            # begin with the machine's uptime, as text
            while number >= first and queue.waits:
                sleep(TURN)
                _look(queue, display)
        while not queue.is_finished:
            sleep(TURN)
            _look(queue, display)
    failed = [job for job in queue.jobs.values() if job.progress is Progress.FAILED]
    end(belonging_to(place), AT_ONCE)  # workers, which have nothing more to do
    for job in failed:
        job.save(place / f"{job.group.name}.log")
    return failed


def _look(queue: Queue, display: Display) -> None:
    for stage in queue.poll():
        display.ended(stage)
    display.show(queue.jobs.values())


def _failure(job: Job) -> str:
    if job.path is None:
        return f"{job.group.name}: has not begun, and left no log"
    lines = job.path.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
    return "\n".join([f"{job.log.stage or job.group.name} has failed; its log, {job.path}, ends so:", *lines])


@contextmanager
def alone(place: Path) -> Iterator[Path]:
    """Makes the folder of a run, and leaves nothing in it and no process, but for the logs of what failed.

    What a run has left that was killed is ended and removed first.
    """
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{place}: another such command runs here; wait for it, or end it and run again") from None
        _clear(place)
        for log in place.glob("*.log"):
            log.unlink()
        try:
            yield place
        finally:
            _clear(place)


def _clear(place: Path) -> None:
    end_run(place)
    shutil.rmtree(place / "project", ignore_errors=True)
