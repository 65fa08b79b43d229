"""What the lab notebook of 2025-11-18 published and its code did, and what the study prescribes; see published.yaml."""

from importlib.resources import files
from typing import Any

import yaml

STUDY_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8)
STUDY_NUM_SEEDS = 5
STUDY_EPOCHS = 150
EXPECTED = {4: 20.0, 1: 20.3}
"""Depth → validation perplexity that the notebook expects at the end of the full training; rounded there to 0.1."""
SMALLEST_DIFFERENCE = 0.10
"""The smallest difference of perplexity from which the notebook concludes anything: 5 layers against 6."""
TARGETS = (20.50, 19.64)
"""Validation perplexities to be reached: the notebook's best complete run (5 layers), and the study's best run before
this one (3 layers)."""

_FILE: dict[str, Any] = yaml.safe_load((files("newllm.analysis") / "published.yaml").read_text(encoding="utf-8"))

POINTS: dict[int, dict[str, Any]] = {point["num_layers"]: point for point in _FILE["points"]}
TRAJECTORY: dict[int, float] = _FILE["trajectory"]
LOGS: dict[int, dict[int, tuple[float, float, float]]] = _FILE["logs"]
STUDY_DATA, STUDY_TRAINING, STUDY_SWITCHES = (_FILE[part] for part in ("data", "training", "switches"))
"""Parameter → its name in words and the value of the specification."""
