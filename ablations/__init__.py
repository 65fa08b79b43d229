"""Experiments that change one switch of the study, and the table of their results: see README.md here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
