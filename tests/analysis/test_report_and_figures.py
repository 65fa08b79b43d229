"""The report's tables read back, and the pictures looked at as pixels."""

import io
import math
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from newllm.analysis.curve_figures import draw_learning_curves
from newllm.analysis.figures import draw_all
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.supplements import Supplements
from tests.analysis.metrics_files import (
    DATA,
    PARAMETERS,
    change_json,
    final_perplexity,
    write_all,
    write_diagnostics,
    write_expand,
    write_supplements,
)
from tests.analysis.studies import PERPLEXITIES, more, reload, study

NOTHING = Supplements()
ALWAYS = {"perplexity_by_depth.png", "perplexity_by_parameters.png", "learning_curves.png", "training_time.png"}
ALWAYS |= {"cost_to_target.png"}
ALL = ALWAYS | {"grown_contexts.png", "perplexity_by_position.png"}
ABLATIONS = {"ablations.png"}
"""Looked at with what else there is on ablations, in test_ablation.py."""


def comparison(root: Path, studied: int = 6, data: Any = DATA, **options: Any) -> Comparison:
    depths = options.pop("depths", (1, 4, 6))
    write_all(root, depths, **options)
    return compare(load_results(depths, root / "metrics", root / "plots/curves"), studied, 6, data)


def tables(report: str) -> list[list[list[str]]]:
    """Every table's rows without header and rule."""
    found: list[list[list[str]]] = [[]]
    for line in report.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0].replace(",", "").replace("−", "-"))


def half_width(cell: str) -> float:
    return float(cell.split("±")[1].split(maxsplit=1)[0])


def test_table_of_depths_traces_to_the_inputs(tmp_path: Path) -> None:
    rows, tests = tables(write_report(comparison(tmp_path)))[:2]
    assert [row[0] for row in rows] == ["1", "4", "6"]
    baseline = statistics.fmean(final_perplexity(6, seed) for seed in range(5))
    for row, depth in zip(rows, (1, 4, 6), strict=True):
        values = [final_perplexity(depth, seed) for seed in range(5)]
        assert number(row[1]) == 1_426_152 + 262_656 * (depth - 1)
        assert number(row[2]) == pytest.approx(statistics.fmean(values), abs=0.005)
        assert half_width(row[2]) == pytest.approx(2.776445 * statistics.stdev(values) / 5**0.5, abs=0.005)
        assert number(row[3]) == pytest.approx(statistics.stdev(values), rel=0.05)
        assert number(row[4]) == pytest.approx(statistics.fmean(values) - 1, abs=0.005)
        assert row[5] == row[3]
        assert number(row[6]) == pytest.approx(38.2, abs=0.005)
        assert half_width(row[6]) == pytest.approx(2.776445 * 0.1 * 2.5**0.5 / 5**0.5, abs=0.005)
        assert row[7] == "0.158"
        assert row[8:] == ["39.00 ± 0.00", "0.000"]
    for row, depth in zip(tests, (1, 4, 6), strict=True):
        values = [final_perplexity(depth, seed) for seed in range(5)]
        expected = "–" if depth == 6 else pytest.approx(statistics.fmean(values) - baseline, abs=0.005)
        assert (row[1] if depth == 6 else number(row[1])) == expected


def test_published_points_beside_ours(tmp_path: Path) -> None:
    report = write_report(comparison(tmp_path))
    published, trajectory = tables(report.split("## Beside the published points")[1])[:2]
    assert [(row[0], row[2], row[5]) for row in published] == [
        ("1", "20.40", "38.1 %"),
        ("4", "20.10", "38.4 %"),
        ("5", "20.50", "38.3 %"),
        ("6", "20.60", "38.5 %"),
        ("7", "21.77", "37.9 %"),
    ]
    assert published[2][1] == "not in this report"
    assert "stopped at epoch 75 of 150" in published[0][6]
    assert [row[2] for row in trajectory] == ["87.5", "67", "67.6", "46.9", "33.2", "28.9", "26.03"]
    first = statistics.fmean(final_perplexity(6, seed) * (3 if seed == 1 else 5) for seed in range(5))
    assert number(trajectory[0][1]) == pytest.approx(first, abs=0.005)
    assert trajectory[1][1] == "not reached"


def published_section(root: Path, **options: Any) -> str:
    report = write_report(study(root, **options))
    return report.split("## Beside the published points")[1].split("\n## ")[0]


def test_would_one_more_seed_give_the_published_value(tmp_path: Path) -> None:
    """Five seeds of standard deviation 0.0316: one more falls within 2.776 · 0.0316 · √1.2 = 0.096 of the mean.

    The curves come to their lowest value in their last epoch, so that a run of 75 or 135 epochs is far from it.
    """
    section = published_section(tmp_path, changes={1: 20.31, 4: 20.0, 5: 20.5, 6: 20.69, 7: 21.9})
    rows = {row[0]: row for row in tables(section)[0]}
    assert [rows[depth][3] for depth in "567"] == [
        "yes (20.40 to 20.60)",
        "yes (20.59 to 20.79)",
        "no (21.80 to 22.00)",
    ]
    assert all(rows[depth][3].startswith("no (") for depth in "14")
    assert "; 7 layers, 21.77 (0.13 below our mean; complete, best at epoch 149). The notebook compares" in section
    assert "its 6 are worse than its 5 by 0.10; here that difference is +0.19 ± 0.05." in section
    one = published_section(tmp_path, seeds=1)
    assert {row[3] for row in tables(one)[0]} == {"unknown"}
    assert "one more seed:" not in one


def test_stopped_runs_are_compared_as_far_as_they_went(tmp_path: Path) -> None:
    study(tmp_path)
    for depth, last, ppl in ((1, 75, 20.31), (4, 135, 20.05)):
        path = tmp_path / f"plots/curves/{depth}.csv"
        rows = [line.split(",") for line in path.read_text().splitlines()]
        for row in rows[1:]:
            if int(row[2]) == last:
                row[5] = str(ppl + 0.02 * (int(row[1]) - 2))
                row[4] = str(math.log(float(row[5])))
        path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    compared = reload(tmp_path)
    section = write_report(compared).split("## Beside the published points")[1].split("\n## ")[0]
    rows_of = {row[0]: row for row in tables(section)[0]}
    assert rows_of["1"][1] == "20.25 ± 0.04"
    assert rows_of["1"][3] == "yes (20.21 to 20.41)"
    assert rows_of["4"][3] == "yes (19.95 to 20.15)"


def lists(report: str, title: str) -> str:
    return report.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def test_method_says_what_was_recorded(tmp_path: Path) -> None:
    other = {**PARAMETERS, "train": {**PARAMETERS["train"], "warmup_epochs": 7, "batch_size": 1024}}
    method = lists(write_report(study(tmp_path, parameters=other)), "Method")
    assert "vocabulary size 1000, " in method
    assert "embedding size 256, context size 256, hidden size 512, dropout 0.1." in method
    assert "batch size in windows 1024, " in method
    assert "warm-up in epochs 7. 5 seeds a depth ran 149 to 150 epochs; 8 of 40 runs stopped early." in method
    assert "Up to 5 seeds were trained side by side" in method
    alone = lists(write_report(study(tmp_path, side_by_side=False)), "Method")
    assert "The seeds of a depth were trained one after another." in alone
    assert "warm-up" not in alone
    assert "side by side" not in alone
    assert "'" not in alone


def test_limits_name_the_start_and_the_longer_training(tmp_path: Path) -> None:
    limits = lists(write_report(study(tmp_path)), "Limits")
    assert "trained longer" not in limits
    assert "gradient" not in limits
    for depth in PERPLEXITIES:
        write_diagnostics(tmp_path, depth, lambda depth, seed: 2.8)
    write_expand(tmp_path, 1, "longer", 0.25)
    compared = reload(tmp_path)
    limits = lists(write_report(compared, supplements=more(tmp_path, compared)), "Limits")
    assert "hidden layer is then 0.001 with 1 layer and 0.008 with 8 layers, and training computes in fp16, " in limits
    assert re.search(r"Depth 1 was trained longer, by 3 epochs from .*: it comes to 20\.00 ± 0\.0\d, a diff", limits)
    assert re.search(r"a difference of \+0\.10 ± 0\.0\d from depth 4 as it is\.", limits)


def test_limits_have_their_numbers(tmp_path: Path) -> None:
    compared = study(tmp_path)
    limits = lists(write_report(compared, supplements=more(tmp_path, compared)), "Limits")
    assert "a vocabulary of 1,000 entries, and 30.6 % of the validation words are `<unk>`: it cannot" in limits
    assert "Windows of 64 tokens of a long row overlap by half, so that a word may count twice; " in limits
    assert "Rows of fewer than 5 words" in limits
    assert "At depths 1 to 8 most seeds did not stop early (best epoch 149.8 of 150 on average), and their" in limits
    assert "validation loss fell by 4.111, 4.111, 4.111, 4.111" in limits  # nats: ln 61 = 4.111, from 61 times the PPL
    assert "and 4.111 nats in the last 30 epochs, in that order: with more epochs" in limits
    for depth in (1, 2):
        change_json(
            tmp_path / f"metrics/runs/{depth}.json",
            lambda runs: [run.update(stopped_early=True) for run in runs["seeds"]],
        )
    assert "At depths 3 to 8 most seeds" in lists(write_report(reload(tmp_path)), "Limits")
    for stride, expected in ((16, "overlap, so that a word may count 4 times"), (64, "do not overlap")):
        data = {**DATA, "source": "synthetic", "stride": stride}
        limits = lists(write_report(comparison(tmp_path, data=data)), "Limits")
        assert f"Windows of 64 tokens of a long row {expected}; each begins" in limits
        assert "cannot be compared with perplexities of another text or vocabulary" in limits


def test_provenance(tmp_path: Path) -> None:
    write_all(tmp_path)
    change_json(tmp_path / "metrics/runs/4.json", lambda runs: runs.update(device="a | b\nc", git_dirty=True))
    without = {"git_commit": None, "git_dirty": None, "git_problem": "git: no | repository"}
    change_json(tmp_path / "metrics/runs/6.json", lambda runs: runs.update(without))
    results = load_results((1, 4, 6), tmp_path / "metrics", tmp_path / "plots/curves")
    rows = tables(write_report(compare(results, 6, 6, DATA)))[-1]
    assert rows[0] == ["1", "NVIDIA L4", "fp16", "2.11.0", "0123456789ab", "abababababab"]
    assert rows[1][1] == "a \\| b c"
    assert rows[1][4] == "0123456789ab with changes"
    assert rows[2][4] == "unknown (git: no \\| repository)"


def test_note_only_where_due(tmp_path: Path) -> None:
    assert "not the full study" not in write_report(comparison(tmp_path, depths=range(1, 9), epochs=150))
    short = {**PARAMETERS, "train": {**PARAMETERS["train"], "epochs": 3}}
    note = write_report(comparison(tmp_path, depths=range(1, 9), parameters=short)).split("\n\n")[2]
    assert "not the full study" in note
    assert "epochs 3 instead of 150" in note


def test_other_text_hides_published_points(tmp_path: Path) -> None:
    report = write_report(comparison(tmp_path, data={**DATA, "source": "synthetic"}))
    assert "source of the text synthetic instead of wikitext" in report
    assert "21.77" not in report
    assert "cannot be compared" in report


def test_one_seed(tmp_path: Path) -> None:
    report = write_report(comparison(tmp_path, seeds=1, studied=4))
    assert "±" not in report.split("## Method")[0]
    assert "may be chance" in report


def pixels(png: bytes) -> NDArray[np.float32]:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": 1},
        {"epochs": 1},
        {"epochs": 40},
        {"depths": [6]},
        {"depths": [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 30]},
        {"data": {**DATA, "source": "synthetic"}},
    ],
    ids=str,
)
def test_pictures_are_full_and_the_same_every_time(tmp_path: Path, options: dict[str, Any]) -> None:
    compared = comparison(tmp_path, **options)
    write_supplements(tmp_path, [result.num_layers for result in compared.results])
    supplements = more(tmp_path, compared)
    pictures = draw_all(compared, supplements)
    assert set(pictures) == ALL | ABLATIONS
    del pictures["ablations.png"]
    if options.get("depths") == [6]:
        del pictures["grown_contexts.png"]  # of depths 1 and 4
    for name, png in pictures.items():
        image = pixels(png)
        assert image.shape[1] == 1200, name
        inside = image[80:-150, 150:-50, :3]
        coloured = np.ptp(inside, axis=2) > 0.1
        assert coloured.sum() > 60, f"{name}: nothing is drawn in colour"
        assert len(np.unique(inside.reshape(-1, 3), axis=0)) > 10, name
        assert b"Software" not in png[:400]
        assert b"matplotlib" not in png.lower()
    assert draw_all(compared, supplements).items() >= pictures.items()


def test_pictures_of_nothing_say_so(tmp_path: Path) -> None:
    """The pipeline expects the files; the report does not show them."""
    compared = comparison(tmp_path)
    pictures = draw_all(compared, NOTHING)
    assert set(pictures) == ALL | ABLATIONS
    report = write_report(compared)
    assert {name for name in ALL if f"(../plots/{name})" in report} == ALWAYS
    assert "ablations.png" not in report
    for name in (ALL | ABLATIONS) - ALWAYS:
        assert np.ptp(pixels(pictures[name])[:, :, :3], axis=2).max() < 0.01, "words in black"
    write_supplements(tmp_path)
    report = write_report(compared, supplements=more(tmp_path, compared))
    assert {name for name in ALL if f"(../plots/{name})" in report} == ALL


def test_pictures_follow_the_numbers(tmp_path: Path) -> None:
    before = draw_all(comparison(tmp_path), NOTHING)
    write_all(tmp_path, seeds=3)
    results = load_results((1, 4, 6), tmp_path / "metrics", tmp_path / "plots/curves")
    after = draw_all(compare(results, 6, 6, DATA), NOTHING)
    assert {name for name in before if before[name] != after[name]} == ALWAYS


def test_the_closer_look_begins_where_the_shortest_training_is_still_seen(tmp_path: Path) -> None:
    write_all(tmp_path, epochs=150)
    write_all(tmp_path, [1], epochs=90)
    figure = Figure()
    draw_learning_curves(
        figure, compare(load_results((1, 4, 6), tmp_path / "metrics", tmp_path / "plots/curves"), 6, 6, DATA)
    )
    closer = figure.axes[1]
    assert closer.get_xlim()[0] == 60
    assert closer.get_title() == "epochs 60 to 150, linear scale"


def test_published_points_are_drawn(tmp_path: Path) -> None:
    """The filled diamond of depth 5, black, is there only for the same text."""
    ours = draw_all(comparison(tmp_path), NOTHING)["perplexity_by_depth.png"]
    other = draw_all(comparison(tmp_path, data={**DATA, "vocabulary_size": 500}), NOTHING)["perplexity_by_depth.png"]
    dark = [int((pixels(png)[60:540, 150:-50, :3].max(axis=2) < 0.2).sum()) for png in (ours, other)]
    assert dark[0] > 300
    assert dark[1] == 0


def test_a_users_style_changes_nothing(tmp_path: Path) -> None:
    compared = comparison(tmp_path)
    plain = draw_all(compared, NOTHING)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "figure.dpi": 50}):
        assert draw_all(compared, NOTHING) == plain
        assert matplotlib.rcParams["font.size"] == 30
