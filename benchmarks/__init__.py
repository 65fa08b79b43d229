"""Speed, measured side by side with the alternatives; like the stages it uses the library in the folder beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
