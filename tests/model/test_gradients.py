"""What a training computes of the model, beyond what the tests of the scan and the head compare."""

import os
import subprocess
import sys
from pathlib import Path

IMPORTS = """
import sys, torch
from newllm.model.definition import ModelShape, initial_parameters
from newllm.model.gradients import losses_and_gradients
windows = torch.ones(1, 4, 5, dtype=torch.int32)
losses_and_gradients(initial_parameters(ModelShape(9, 4, 4, 6, 2), [0]), windows, 0, torch.ones(1))
sys.exit("sympy" in sys.modules)
"""


def test_a_step_does_not_import_sympy() -> None:
    """It takes up to two seconds, half of a training's start."""
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", IMPORTS], env=variables, check=False).returncode == 0
