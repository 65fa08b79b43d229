"""The DVC stages, run as `python -m stages.<name>` from the project's folder.

They use the library in the `src` folder beside them, whatever else is installed: an experiment that DVC runs in a
copy of the project must run the copy's code.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from newllm.errors import UserError


def run(stage: Callable[[], None]) -> None:
    """Runs a stage's main function; ends with status 1 and one message for what the user or the disk can cause."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}; free or repair the disk or its permissions and run again")
    except KeyboardInterrupt:
        sys.exit(130)
