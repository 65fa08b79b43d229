"""Checks all of params.yaml before anything runs: data/parameters.ok.

DVC removes a stage's outputs before it runs the stage, and does not look at parameters that no stage names; so a bad
value would cost outputs and a misspelt name would be ignored, were they not found here first.
"""

from pathlib import Path

from newllm.config import load_config
from newllm.files import atomic_path
from stages import run


def main() -> None:
    """Writes the same text whatever the valid parameters, so that nothing later runs again on its account."""
    load_config(Path("params.yaml"))
    with atomic_path(Path("data/parameters.ok")) as beside:
        beside.write_text("params.yaml is valid\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
