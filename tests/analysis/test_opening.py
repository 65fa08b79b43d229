"""The first paragraph: how many layers, how sure, at what cost, and what of the notebook holds."""

import re
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.opening import opening
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.verdicts import judge
from tests.analysis.metrics_files import DATA, PARAMETERS, change_json, write_all
from tests.analysis.studies import PERPLEXITIES, more, reload, study


def paragraph(root: Path, compared: Comparison, claims: bool = True) -> str:
    return opening(compared, more(root, compared), judge(compared) if claims else [])


def few(root: Path, studied: int = 6, depths: Any = (1, 4, 6), **options: Any) -> Comparison:
    write_all(root, depths, **options)
    return compare(load_results(depths, root / "metrics", root / "plots/curves"), studied, 6, DATA)


def test_it_stands_first(tmp_path: Path) -> None:
    compared = study(tmp_path)
    title, *rest = write_report(compared, supplements=more(tmp_path, compared)).split("\n\n")
    assert title.startswith("# ")
    assert "\n\n".join(rest).startswith(paragraph(tmp_path, compared) + "\n\n## ")


def test_answer_and_certainty(tmp_path: Path) -> None:
    text = paragraph(tmp_path, study(tmp_path))
    assert text.startswith(
        "**4 layers** give the lowest validation perplexity of depths 1 to 8: **19.90 ± 0.04** (mean of 5 seeds, 95 % "
        "interval; test 18.90 ± 0.04). Every other depth is worse (Holm-corrected p ≤ 0.00032): the closest, 3 layers, "
        "by 0.12 ± 0.05, the baseline of 6 by 0.60 ± 0.05. "
    )
    one = paragraph(tmp_path, study(tmp_path, {1: 19.0}))
    assert one.startswith("**1 layer** gives the lowest validation perplexity of depths 1 to 8: **19.00 ± 0.04**")


def test_the_depth_under_study_is_named(tmp_path: Path) -> None:
    text = paragraph(tmp_path, few(tmp_path, studied=1))
    assert text.startswith("**4 layers** give the lowest validation perplexity of depths 1, 4 and 6: ")
    assert "the closest, the baseline of 6, by 0.39 ± 0.07, 1 layer by 0.90 ± 0.07." in text


def test_ties_are_said_first(tmp_path: Path) -> None:
    text = paragraph(tmp_path, study(tmp_path, {3: 19.92}))
    assert text.startswith(
        "**4 layers** give the lowest validation perplexity of depths 1 to 8: **19.90 ± 0.04** (mean of 5 seeds, 95 % "
        "interval; test 18.90 ± 0.04). These seeds cannot tell them from 3 layers (19.92 ± 0.04) (Holm-corrected "
        "p ≥ 0.35); of these, 3 layers are the cheaper. Every other depth is worse than 4 (Holm-corrected p < 0.0001): "
        "the closest, 5 layers, by 0.20 ± 0.05, the baseline"
    )
    assert "the share of a seed of 3 layers is" in text
    text = paragraph(tmp_path, study(tmp_path, {5: 19.93}))
    assert "of these, 4 layers are the cheaper." in text
    text = paragraph(tmp_path, study(tmp_path, dict.fromkeys(PERPLEXITIES, 20.0)))
    assert text.startswith("**1 layer** gives the lowest")
    assert "cannot tell it from 2 layers (20.00 ± 0.04), 3 layers" in text
    assert "and 8 layers (20.00 ± 0.04) (Holm-corrected p ≥ 1); of these, 1 layer is the cheapest." in text
    assert "worse" not in text.split("\n\n")[0]


def test_cost(tmp_path: Path) -> None:
    """A seed runs 149.8 epochs of 1.5 s on average; start-up does not count."""
    text = paragraph(tmp_path, study(tmp_path, startup=1000.0, joules=100.0))
    four, six = (6 * (256 * 512 + (d - 1) * 512**2 + 1768 * 512) * 51_026 * 63 * 149.8 / 1e15 for d in (4, 6))
    assert (
        f"With 5 seeds trained side by side on NVIDIA L4, the share of a seed of 4 layers is 225 s, 15 kJ and "
        f"{four:.2g} PFLOP without start-up (6 layers: 225 s, 15 kJ and {six:.2g} PFLOP)." in text
    )
    text = paragraph(tmp_path, study(tmp_path, side_by_side=False))
    assert (
        f"With one seed after another on NVIDIA L4, a seed of 4 layers takes 225 s and {four:.2g} PFLOP without" in text
    )


def test_target(tmp_path: Path) -> None:
    """The curves of `study` come to their lowest value in their last epoch, from three times that."""
    text = paragraph(tmp_path, study(tmp_path, {1: 19.0, 5: 20.48}))
    goal = "Perplexity 20.50, the notebook’s best complete run, is reached"
    assert f"{goal} most cheaply by 1 layer after 150 epochs and 225 s, and not within 150 epochs by 7 and 8." in text
    text = paragraph(tmp_path, study(tmp_path, {4: 20.49, 5: 20.6, 6: 20.6}))
    assert f"{goal} by 3 layers after 150 epochs and 225 s, most cheaply by 1 layer after" in text
    assert "and not within 150 epochs by 5 to 8." in text
    above = paragraph(tmp_path, study(tmp_path, dict.fromkeys(PERPLEXITIES, 21.0)))
    assert "No seed reaches perplexity 20.50, the notebook’s best complete run." in above


def test_what_it_holds_for(tmp_path: Path) -> None:
    """Of five seeds one stops early; then, at depths 1 and 2, all do, and then at all depths."""
    held = "All of it is of one learning rate and 150 epochs, in which most seeds of depths {} did not stop early."
    assert held.format("1 to 8") in paragraph(tmp_path, study(tmp_path))
    for depth in PERPLEXITIES:
        if depth == 3:
            assert held.format("3 to 8") in paragraph(tmp_path, reload(tmp_path))
        change_json(
            tmp_path / f"metrics/runs/{depth}.json",
            lambda runs: [run.update(stopped_early=True) for run in runs["seeds"]],
        )
    assert "one learning rate" not in paragraph(tmp_path, reload(tmp_path))


def test_who_is_cheapest(tmp_path: Path) -> None:
    """Depth 1 gets there sooner; at depth 6 only some seeds do."""
    study(tmp_path)
    path = tmp_path / "plots/curves/1.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows[1:]:
        row[5] = "20.4" if int(row[2]) >= 40 else row[5]
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    compared = reload(tmp_path)
    text = paragraph(tmp_path, compared)
    assert (
        "is reached by 4 layers after 150 epochs and 225 s, most cheaply by 1 layer after 40 epochs and 60 s, " in text
    )
    some = paragraph(tmp_path, study(tmp_path, dict.fromkeys(PERPLEXITIES, 20.5)))
    assert "most cheaply by 1 layer (3 of 5 seeds) after 150 epochs" in some


def test_different_devices_compare_no_seconds(tmp_path: Path) -> None:
    study(tmp_path)
    change_json(tmp_path / "metrics/runs/4.json", lambda runs: runs.update(device="another"))
    text = paragraph(tmp_path, reload(tmp_path))
    assert " s and" not in text
    assert re.search(r"A seed of 4 layers takes 5\.3 PFLOP \(6 layers: 6\.8 PFLOP\); seconds are not compared", text)
    assert "most cheaply by 1 layer after 150 epochs and 3 PFLOP" in text


def test_right_and_wrong(tmp_path: Path) -> None:
    claims = paragraph(tmp_path, study(tmp_path, {5: 20.7})).split("\n\n")[1]
    assert claims.startswith(
        "The notebook was right that 4 layers are best (the closest, 3 layers, by 0.12 ± 0.05), that 7 "
    )
    assert " It was wrong that 5 layers beat 6 and that fewer layers need fewer parameters and are better up" in claims
    assert (
        " up to a point (6 are better than 5 by 0.20 ± 0.05), and that 1 layer is worse than 4 and 5 (worse" in claims
    )
    why = "the training loss without dropout was not measured at depths 4 to 8"
    assert claims.endswith(f" Undecided: whether deep models are worse because they overfit ({why}).")
    assert (
        "otebook" not in paragraph(tmp_path, study(tmp_path), claims=False).split("\n\n")[-1].split("best complete")[-1]
    )
    one = paragraph(tmp_path, study(tmp_path, seeds=1))
    assert "None of the notebook’s claims is decided: whether 4 layers are best, whether 5 layers beat 6, " in one
    assert one.endswith(" (one seed a depth gives no test).")


def test_another_setting_gives_no_verdict_on_the_notebook(tmp_path: Path) -> None:
    short = {**PARAMETERS, "train": {**PARAMETERS["train"], "epochs": 20}}
    _, note, claims = paragraph(tmp_path, study(tmp_path, epochs=20, seeds=2, parameters=short)).split("\n\n")
    assert note.startswith("> **This is not the full study.**")
    assert "epochs 20 instead of 150; 2 seeds instead of 5" in note
    assert claims.startswith("In this setting the notebook would be right that ")
    assert "was right" not in claims


@pytest.mark.parametrize("depth", [1, 6])
def test_one_depth(tmp_path: Path, depth: int) -> None:
    write_all(tmp_path, [depth])
    results = load_results([depth], tmp_path / "metrics", tmp_path / "plots/curves")
    text = paragraph(tmp_path, compare(results, depth, depth, DATA))
    assert text.startswith(f"With {depth} layer{'s' * (depth > 1)}, the only depth here, validation perplexity is **2")
    assert "worse" not in text.split("\n\n")[0]
    assert "cheaply" not in text


def test_one_seed(tmp_path: Path) -> None:
    text = paragraph(tmp_path, few(tmp_path, seeds=1, studied=4))
    assert text.startswith(
        "One seed a depth gives no interval: any difference may be chance. Of depths 1, 4 and 6, 4 layers have the "
        "lowest validation perplexity, **20.00** (one seed; test 19.00). Trained on NVIDIA L4, a seed of 4 layers "
    )
    assert "±" not in text
    assert "worse (" not in text
