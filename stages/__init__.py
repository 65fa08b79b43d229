"""The DVC stages, run as `python -m stages.<name>` from the project's folder.

They use the library in the `src` folder beside them, whatever else is installed: an experiment that DVC runs in a
copy of the project must run the copy's code.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from newllm.errors import UserError
from newllm.runtime.console import keep_output_from_failing

if sys.argv[0] == "-m":  # run as a stage, from the slow imports on
    keep_output_from_failing()
    for number in (signal.SIGINT, signal.SIGTERM):  # ends it quietly; what it began to write is removed as after any
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # error


def run(stage: Callable[[], None]) -> None:
    """Runs a stage's main function; ends with status 1 and one message for what the user or the machine can cause."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}; free or repair the disk or its permissions and run again")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        sys.exit(
            f"error: out of memory: {error}; lower train.batch_size, train.seeds or the sizes in model and run again"
        )


def _out_of_memory(error: Exception) -> bool:
    """Whether Python or torch (which raises RuntimeError on a CPU) found no memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
