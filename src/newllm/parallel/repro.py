"""`dvc repro` with several stages at once."""

import fcntl
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from logging import WARNING
from pathlib import Path
from time import sleep

import networkx as nx
from dvc.logger import set_loggers_level
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError

from newllm.errors import UserError
from newllm.parallel.clone import clone
from newllm.parallel.display import Display
from newllm.parallel.groups import Group, in_order, needed, split
from newllm.parallel.log import RUNNING
from newllm.parallel.processes import AT_ONCE, TURN, VARIABLE, belonging_to, end, end_run, run
from newllm.parallel.queue import DVC, Job, Progress, Queue
from newllm.runtime.git import in_folder, isolated
from newllm.runtime.gpus import VARIABLE as GPUS
from newllm.runtime.gpus import Gpu

PLACE = Path(".dvc/tmp/parallel")  # which neither git nor DVC looks at
STATES = "NEWLLM_STATES"  # names the folder of the trainings' states
LINES_SHOWN = 25  # of a failed job's log


def repro(
    project: Path, jobs: int, targets: Sequence[str], gpus: Sequence[Gpu] = (), allow_missing: bool = False
) -> None:
    """Brings stages up to date, several at once, and leaves the project as `dvc repro` would.

    Args:
        project: the current folder.
        jobs: how many groups of stages may run at once.
        targets: as of `dvc repro`; all stages without.
        gpus: on which stages may run, no more than `jobs`. Twice as many groups again start beside those that have one
            and wait for it, so that no GPU waits for a stage that is still importing torch: while one trains, another
            waits to be trained, and a third, which is, to be evaluated.
        allow_missing: as of `dvc repro`: what is missing, and else up to date, is not computed again for its own sake.

    Raises:
        UserError: a stage has failed, or this runs already.
    """
    if not (project / "dvc.yaml").is_file() or not (project / ".dvc").is_dir():
        raise UserError(f"{project}: found no dvc.yaml or no .dvc, expected both; run this in the project's folder")
    if unusual := sorted({letter for letter in str(project) if not letter.isascii() or letter in "#?"}):
        raise UserError(
            f"{project}: found {', '.join(unusual)} in the folder's name, expected none: DVC's queue cannot run "
            "experiments there; move the project, or run one job, `dvc repro`"
        )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if shutil.which("dvc", path=path) is None:
        raise UserError("dvc: found no such command, by which DVC's queue starts its workers; activate the environment")
    with alone(project / PLACE) as place:
        chosen = {GPUS: ",".join(gpu.name for gpu in gpus)} if gpus else {}
        workspace = Workspace(project, os.environ | chosen | {"PATH": path, VARIABLE: str(place)}, allow_missing)
        plan = workspace.restore(targets)
        if plan.lacks_common and not plan.changed.isdisjoint(chain(plan.common, *(one.stages for one in plan.groups))):
            workspace.repro(plan.common)
            plan = workspace.restore(targets)
        groups = [group for group in plan.groups if plan.lost.isdisjoint(group.stages)]
        outdated = [part for group in groups if (part := group.of(plan.changed))]
        workers = max(jobs, 3 * len(gpus))
        beside = outdated if len(outdated) > 1 else []
        failed = _run_beside(workspace, place, beside, plan.needed, jobs, workers) if beside else []
        computed = [group for group in beside if group not in [job.group for job in failed]]
        found = [target for group in computed for target in group.targets] if failed else targets
        if computed:
            workspace.restore(found, wait=True)
        if computed or not failed:
            workspace.repro([*workspace.options, *found], computed)
        if failed:
            raise UserError("\n\n".join(_failure(job) for job in failed))


@dataclass(frozen=True)
class Plan:
    """What is to be done for some targets.

    Attributes:
        common: stages that run first.
        groups: stages that can run beside one another, the longest first.
        changed: what is not up to date, of all that the targets need.
        lacks_common: whether a common stage is not up to date or an output of it is missing, which the others need.
        lost: what is up to date, and yet its outputs are in the project alone, so that no clone can have them.
    """

    common: list[str]
    groups: list[Group]
    changed: set[str]
    lacks_common: bool
    lost: Set[str] = frozenset()

    @property
    def needed(self) -> set[str]:
        """What is up to date, of all that the groups need that are not."""
        outdated = [group.stages for group in self.groups if group.of(self.changed)]
        return {*self.common, *chain.from_iterable(outdated)} - self.changed


class Workspace:
    """The project's own folder."""

    def __init__(self, project: Path, variables: Mapping[str, str], allow_missing: bool = False) -> None:
        self.project, self._variables, self._allow_missing = project, variables, allow_missing
        self.options = ["--allow-missing"] if allow_missing else []

    def restore(self, targets: Sequence[str], wait: bool = False) -> Plan:
        """Restores from the run cache what is not up to date, and returns what remains.

        Args:
            targets: as of `dvc repro`.
            wait: for another DVC command that has locked the project, instead of an error.
        """
        with Repo(str(self.project), _wait_for_lock=wait) as repo:
            graph = nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
            graph = needed(graph, [stage.addressing for target in targets for stage in repo.stage.collect(target)])
            common, groups = split(graph)
            by_name = {stage.addressing: stage for stage in repo.index.stages}
            stages = [by_name[name] for name in in_order(graph)]
            with repo.lock:
                lacks_common = any(by_name[name].status() for name in common)
                changed = self._restore(repo, stages, nothing=lacks_common)
            known = [stage for stage in stages if self._allow_missing and stage.addressing not in changed]
            lost = {stage.addressing for stage in known if any(map(_is_here_alone, stage.outs))}
        return Plan(common, groups, changed, lacks_common, lost)

    def _restore(self, repo: Repo, stages: Sequence[Stage], nothing: bool) -> set[str]:
        """Restores from the run cache what is not up to date, as `dvc repro` does, but for two things.

        `dvc.lock` is written once and not after every stage, which takes a second or two in a large study. And where
        `dvc.lock` has a result for the very dependencies that are there, but the cache has lost it, as in a fresh clone
        of a study, DVC would not look for another one.

        Args:
            repo: locked.
            stages: each after those that it depends on.
            nothing: to restore nothing yet, since what they need may be missing.

        Returns:
            What is not up to date still.
        """
        taken, changed = [], set()
        try:
            for stage in stages:
                if stage.changed(allow_missing=self._allow_missing):
                    is_own = stage.cmd and not stage.frozen and stage.path_in_repo == "dvc.yaml"
                    if is_own and not nothing and _is_cached(repo, stage):
                        stage.run()
                        taken.append(stage)
                    else:
                        changed.add(stage.addressing)
        finally:
            if taken:
                taken[0].dvcfile.dump_stages(taken, update_pipeline=False)
        return changed

    def clone(self, folder: Path, stages: Collection[str]) -> dict[str, str]:
        """Makes a clone that has the results of some stages, and returns the environment for it."""
        with Repo(str(self.project)) as repo:
            clone(self.project, folder, Path(repo.cache.local_cache_dir), stages)
        states = self._variables.get(STATES) or str(self.project / "checkpoints")
        return isolated(self._variables) | {STATES: states, "DVC_EXP_AUTO_PUSH": "false", "DVC_STUDIO_OFFLINE": "true"}

    def repro(self, arguments: Sequence[str], computed: Sequence[Group] = ()) -> None:
        """Runs `dvc repro`, which must find `computed` groups up to date.

        Raises:
            UserError: a stage fails, or one of `computed` would run.
        """
        stages = {stage for group in computed for stage in group.stages}

        def shown(line: str) -> None:
            running = RUNNING.match(line)
            if running and running[1] in stages:
                raise UserError(
                    f"{running[1]}: the queue has computed it, and yet it would run again in the project, so that "
                    "something that it depends on has changed meanwhile; run the same command again"
                )
            print(line, flush=True)

        command = [*DVC, *(["--wait-for-lock"] if computed else []), "repro", *arguments]
        if status := run(command, self.project, in_folder(self._variables), shown if stages else None):
            raise UserError(f"dvc repro: status {status}; what has failed is said above")


def _is_here_alone(out: Output) -> bool:
    return bool(out.use_cache and out.exists and out.changed_cache())


def _is_cached(repo: Repo, stage: Stage) -> bool:
    """Whether the cache has the stage's result of `dvc.lock`, or the run cache another one for what is there.

    Leaves the stage such that its `run` takes that result; if there is none, the stage is of no further use.
    """
    if not all(dep.exists for dep in stage.deps):
        return False
    is_known = not stage.changed_stage() and stage.deps_cached()  # dvc.lock has a result of what is there
    with set_loggers_level(WARNING):  # it says what it would restore, and again when it does
        with suppress(RunCacheNotFoundError):
            if is_known:
                repo.stage_cache.restore(stage, dry=True)
                return True
        for out in stage.outs:
            out.clear()
        stage.save_deps()
        with suppress(RunCacheNotFoundError):
            repo.stage_cache.restore(stage, dry=True)
            return True
    return False


def _run_beside(
    workspace: Workspace, place: Path, groups: Sequence[Group], needed: Collection[str], jobs: int, workers: int
) -> list[Job]:
    """Runs groups, which need other stages' results, through the queue of a clone.

    Returns:
        Those that have failed, their logs saved in `place`.
    """
    first = min(jobs, len(groups))
    names = ", ".join(group.name for group in groups)
    print(f"{len(groups)} groups of stages are out of date, {first} at once: {names}", flush=True)
    folder = place / "project"
    queue = Queue(folder, place, workspace.clone(folder, needed), workers, workspace.options)
    with Display() as display:
        queue.put(groups[:first])
        for group in groups[first:]:
            # one at a time, once the workers have theirs: Celery's files are taken in the order of their names, which
            # begin with the machine's uptime, as text
            while queue.waits:
                sleep(TURN)
                _look(queue, display)
            queue.put([group], partial(_look, queue, display))
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
