"""All experiments on one page: what each changed, and the validation perplexity of every depth.

`dvc exp show` has a column for every parameter, metric and dependency. This has what people compare: make experiments.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dvc.api
import yaml
from dvc.exceptions import DvcException
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 120
FILE = "metrics/layers/{}.json:val_ppl"
FIGURE = re.compile(r"metrics/layers/(\d+)\.json:val_ppl")


def table(rows: Sequence[Mapping[str, Any]], sections: Iterable[str]) -> Table:
    """The experiments as `dvc.api.exp_show` returns them; what they changed is asked of the last commit.

    Args:
        rows: of the workspace, of the last commit and of the experiments that began from it.
        sections: of params.yaml.
    """
    depths = sorted({int(match[1]) for row in rows for name in row if (match := FIGURE.fullmatch(name))})
    shown = Table(
        box=box.SIMPLE_HEAD, title="Validation perplexity by depth (mean over seeds; * lowest, = as in the commit)"
    )
    shown.add_column("experiment", overflow="fold", min_width=12)
    shown.add_column("changed parameters", overflow="fold", min_width=16)
    for depth in depths:
        shown.add_column(str(depth), justify="right", no_wrap=True)
    names = sorted({name for row in rows for name in row if name.startswith(tuple(f"{one}." for one in sections))})
    commit = next((row for row in rows if row["rev"] != "workspace"), {})
    for row in rows:
        changed = [f"{name}={_value(row[name])}" for name in names if row.get(name) not in (None, commit.get(name))]
        label = str(row["rev"]) if row["typ"] == "baseline" else f"  {row['Experiment'] or row['rev']}"
        if row.get("State") not in (None, "Success"):
            label += f" ({row['State'].lower()})"
        is_done = row.get("State") in (None, "Success")  # before, the files have the commit's figures
        figures = {depth: row.get(FILE.format(depth)) if is_done else None for depth in depths}
        same = {
            depth for depth in depths if row["typ"] != "baseline" and figures[depth] == commit.get(FILE.format(depth))
        }
        lowest = None if same else min((value for value in figures.values() if value is not None), default=None)
        cells = [
            "" if value is None else "=" if depth in same else f"{'*' * (value == lowest)}{_perplexity(value)}"
            for depth, value in figures.items()
        ]
        shown.add_row(*(Text(cell) for cell in (label, " ".join(changed), *cells)))
    return shown


def _perplexity(value: float) -> str:
    return f"{value:{'.2f' if value < 100 else '.4g'}}"


def _value(value: object) -> str:
    """DVC gives every number as a float."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Reads the experiments of the project in the current folder."""
    try:
        sections = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        rows = dvc.api.exp_show()
    except FileNotFoundError as error:
        sys.exit(f"error: {Path.cwd()}: found no {error.filename}, expected one; run this in the project's folder")
    except DvcException as error:
        sys.exit(f"error: DVC: {error}")
    console = Console()
    if not console.is_terminal or console.width > WIDTH:
        console = Console(width=WIDTH)
    console.print(table(rows, sections))


if __name__ == "__main__":
    main()
