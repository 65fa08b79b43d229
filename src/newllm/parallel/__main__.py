"""`dvc repro` with as many stages at once as there are GPUs: python -m newllm.parallel."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from dvc.exceptions import DvcException

from newllm.errors import UserError
from newllm.parallel.repro import repro
from newllm.runtime.gpus import VARIABLE, installed, visible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Reads the options; one job is plain `dvc repro`."""
    parser = argparse.ArgumentParser(prog="python -m newllm.parallel", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, help="groups of stages at once, each on a GPU; the number of GPUs unless given"
    )
    parser.add_argument("--allow-missing", action="store_true", help="as of dvc repro")
    parser.add_argument("targets", nargs="*", help="as of dvc repro; all stages without")
    options = parser.parse_args()
    gpus = visible(os.environ.get(VARIABLE), installed())
    jobs = max(1, len(gpus)) if options.jobs is None else options.jobs
    if jobs < 1:
        parser.error(f"--jobs: found {jobs}, expected 1 or more")
    if jobs == 1:
        missing = ["--allow-missing"] if options.allow_missing else []
        os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", *missing, *options.targets])  # noqa: S606 (no shell)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells have it where nothing is to end
            signal.signal(number, _end)
    try:
        repro(Path.cwd(), jobs, options.targets, gpus[:jobs], options.allow_missing)
    except UserError as error:
        sys.exit(f"error: {error}")
    except DvcException as error:
        sys.exit(f"error: DVC: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or Path.cwd()}: {error.strerror or error}; mend it and run again")


def _end(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:  # a second one must not interrupt what the first has begun
        signal.signal(each, signal.SIG_IGN)
    print("ending; the same command goes on from the states that are written now", file=sys.stderr, flush=True)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
