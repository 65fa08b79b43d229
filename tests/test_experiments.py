"""The lean table of experiments."""

import io
from typing import Any

from rich.console import Console

from tools.experiments import WIDTH, table


def row(rev: str, typ: str = "baseline", **values: Any) -> dict[str, Any]:
    """As dvc.api.exp_show gives it: every column in each row, numbers as floats."""
    known = {"Experiment": None, "State": None, "model.dropout": 0.1, "train.seeds": "[0, 1]", "best.val_ppl": 19.0}
    return known | {"rev": rev, "typ": typ} | values


def ppl(*values: float | None) -> dict[str, float | None]:
    return {f"metrics/layers/{depth}.json:val_ppl": value for depth, value in enumerate(values, 1)}


def lines(rows: list[dict[str, Any]]) -> list[str]:
    console = Console(width=WIDTH, file=io.StringIO())
    console.print(table(rows, ["model", "train"]))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_rows_say_what_changed_and_what_it_gave() -> None:
    found = lines(
        [
            row("workspace", **ppl(20.5, 21)),
            row("main", **ppl(20.5, 19.687)),
            row("1a2b3c", "branch_commit", Experiment="wet", **{"model.dropout": 0.25}, **ppl(30, 31)),
            row(
                "2a2b3c", "branch_base", Experiment="later", State="Queued", **{"train.seeds": "[0]"}, **ppl(None, None)
            ),
            row("3a2b3c", "branch_base", Experiment="broken", State="Failed", **ppl(20.5, 19.687)),
            row("4a2b3c", "branch_base", Experiment="partly", State="Success", **ppl(30, 19.687)),
        ]
    )
    cells = [line.split() for line in found]
    assert ["workspace", "*20.50", "21.00"] in cells
    assert ["main", "20.50", "*19.69"] in cells
    assert ["wet", "model.dropout=0.25", "*30.00", "31.00"] in cells
    assert ["later", "(queued)", "train.seeds=[0]"] in cells
    assert ["broken", "(failed)"] in cells, "the figures in its files are the commit's"
    assert ["partly", "30.00", "="] in cells
    assert not any("best" in line for line in found)


def test_it_fits_with_many_depths_and_changes() -> None:
    changes: dict[str, Any] = {f"train.parameter_{number}": float(number) for number in range(20)}
    known: dict[str, Any] = dict.fromkeys(changes, 100.0)
    depths = ppl(*(20.0 + depth for depth in range(9)), 12345.678)
    found = lines(
        [row("main", **known, **depths), row("1a", "branch_commit", Experiment="n" * 60, **changes, **depths)]
    )
    assert max(map(len, found)) <= WIDTH
    assert any(line.split()[-2:] == ["28.00", "1.235e+04"] for line in found)
    assert sum(line.count("train.") for line in found) == len(changes)


def test_a_depth_that_only_an_experiment_has_is_a_column() -> None:
    found = lines([row("main", **ppl(20.0)), row("1a", "branch_commit", Experiment="deep", **ppl(20.0, 22.0))])
    assert any(line.split() == ["experiment", "changed", "parameters", "1", "2"] for line in found)
    assert any(line.split() == ["main", "*20.00"] for line in found)
