"""Checks all of params.yaml before anything runs: data/parameters.ok.

DVC removes a stage's outputs before it runs the stage, and does not look at parameters that no stage names; so a bad
value would cost outputs and a misspelt name would be ignored, were they not found here first.
"""

import argparse
from pathlib import Path

from newllm.config import load_config
from newllm.errors import UserError
from newllm.files import atomic_path
from stages import run


def main() -> None:
    """Writes the same text whatever the valid parameters, so that nothing later runs again on its account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", nargs="+", required=True, help="the depths of the sweep, from dvc.yaml")
    depths = parser.parse_args().num_layers
    baseline = load_config(Path("params.yaml")).study.baseline_num_layers
    if str(baseline) not in depths:
        raise UserError(
            f"params.yaml: parameter study.baseline_num_layers: found {baseline}, expected a depth of the sweep in "
            f"dvc.yaml: {', '.join(dict.fromkeys(depths))}"
        )
    with atomic_path(Path("data/parameters.ok")) as beside:
        beside.write_text("params.yaml is valid\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
