"""The report's sections on tests and verdicts, read back."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from newllm.analysis.comparisons import against
from newllm.analysis.report import write_report
from newllm.analysis.summary import Comparison
from newllm.analysis.supplements import Supplements
from newllm.analysis.verdicts import judge
from tests.analysis.metrics_files import PARAMETERS, change_json, write_diagnostics
from tests.analysis.studies import PERPLEXITIES, more, reload, study


def measured(root: Path, compared: Comparison, depths: Iterable[int] = PERPLEXITIES) -> Supplements:
    """Training losses 2.8, but for one seed at every depth."""
    for depth in depths:
        write_diagnostics(root, depth, lambda depth, seed: 2.8 if seed else 2.8 + 0.01 * depth)
    return more(root, compared)


def sections(report: str) -> dict[str, str]:
    parts = report.split("\n\n## ")[1:]
    return {part.split("\n")[0]: part for part in parts}


def rows(section: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]


def test_tests_between_depths(tmp_path: Path) -> None:
    compared = study(tmp_path, {3: 19.92, 7: 20.52})
    section = sections(write_report(compared))["Tests between depths"]
    table = {row[0]: row[1:] for row in rows(section)[2:]}
    baseline = against(compared, compared.baseline)
    assert table["6"] == ["–", "–", "+0.60 ± 0.05", "< 0.0001"]
    assert table["4"] == ["−0.60 ± 0.05", "< 0.0001", "–", "–"]
    assert table["7"][:2] == ["+0.02 ± 0.05", f"{baseline[7].adjusted_p:.2g}"]
    assert "**3 and 4**" in section
    report = write_report(study(tmp_path))
    assert "Every other depth is shown to be worse than the best, 4 (adjusted p < 0.05). On the test split, " in report


def test_on_the_test_split(tmp_path: Path) -> None:
    """Made-up test perplexities are one below those of validation."""
    start = "On the test split, which chose nothing, "
    text = sections(write_report(study(tmp_path)))["Tests between depths"]
    assert (
        f"{start}every other depth is shown to be worse (adjusted p ≤ 0.00032); the closest is 3, by 0.12 ± 0.05."
        in text
    )
    text = sections(write_report(study(tmp_path, {3: 19.92})))["Tests between depths"]
    worse = "only depths 1, 2, 5, 6, 7 and 8 are shown to be worse; the closest is 3, by 0.02 ± 0.05."
    assert start + worse in text
    text = sections(write_report(study(tmp_path, dict.fromkeys(PERPLEXITIES, 20.0))))["Tests between depths"]
    assert f"{start}no other depth is shown to be worse; " in text


def test_verdicts(tmp_path: Path) -> None:
    compared = study(tmp_path, {5: 20.7})
    supplements = measured(tmp_path, compared)
    report = write_report(compared, supplements=supplements)
    section = sections(report)["The notebook’s claims"]
    verdicts = judge(compared, supplements.overfitting)
    expected = [[str(v.number), v.claim, f"**{v.outcome}**", v.finding.deciding] for v in verdicts]
    assert rows(section)[2:] == expected
    assert expected[1][2] == "**refuted**"
    assert all(f"\n{v.number}. {v.rule}" in section for v in verdicts)
    assert all(f"*Also: {v.finding.rest}.*\n" in section for v in verdicts if v.finding.rest)
    assert "differs" not in section
    again = reload(tmp_path)
    assert report == write_report(again, supplements=more(tmp_path, again))


def test_sections_stand_after_the_depths(tmp_path: Path) -> None:
    titles = list(sections(write_report(study(tmp_path))))
    assert titles[:4] == ["Depths", "Tests between depths", "The notebook’s claims", "Fit and overfitting"]


def test_no_verdicts_on_another_text(tmp_path: Path) -> None:
    study(tmp_path)
    for depth in PERPLEXITIES:
        change_json(
            tmp_path / f"metrics/runs/{depth}.json",
            lambda runs: runs["parameters"].update({"data.vocabulary_size": 500}),
        )
    found = sections(write_report(reload(tmp_path)))
    assert "Tests between depths" in found
    assert "The notebook’s claims" not in found
    assert "Fit and overfitting" not in found


def test_another_setting_is_said(tmp_path: Path) -> None:
    other = {**PARAMETERS, "model": {**PARAMETERS["model"], "dropout": 0.2}}
    section = sections(write_report(study(tmp_path, parameters=other)))["The notebook’s claims"]
    assert "these verdicts are not verdicts on the notebook" in section


def test_one_seed_and_one_depth(tmp_path: Path) -> None:
    compared = study(tmp_path, seeds=1)
    assert "One seed a depth gives no test." in sections(write_report(compared))["Tests between depths"]
    alone = sections(write_report(reload(tmp_path, [6])))["Tests between depths"]
    assert "nothing to compare" in alone


def test_fit_and_overfitting(tmp_path: Path) -> None:
    compared = study(tmp_path)
    report = write_report(compared, supplements=measured(tmp_path, compared, [4, 5, 6, 7, 8]))
    section = sections(report)["Fit and overfitting"]
    table = {row[0]: row[1:] for row in rows(section)[2:10]}
    assert table["1"] == ["3.008 ± 0.002", "not measured", "not measured", "149.8 / 149.8", "1 of 5", "148.8 (148–149)"]
    assert table["4"][1] == "2.808 ± 0.022"
    assert table["4"][2] == "0.183 ± 0.024"
    excess, gradients = rows(section)[10:16], rows(section)[16:]
    assert [row[0] for row in excess] == ["layers", "---:", "5", "6", "7", "8"]
    assert gradients[2] == ["4", "0.001 · 0.002 · 0.003 · 0.004", "0.1 · 0.2 · 0.3 · 0.4"]
    assert [row[0] for row in gradients[2:]] == ["4", "5", "6", "7", "8"]


@pytest.mark.parametrize(
    ("train_loss_of", "expected"),
    [
        (
            lambda depth, seed: 2.7 + 0.03 * depth + 0.001 * seed,
            "to 2.822: the deeper models overfit less and fit less. From 4 to 8 layers the gap grows from 0.169 ",
        ),
        (
            lambda depth, seed: 2.9 - 0.05 * depth + 0.001 * seed,
            "while training loss falls from 2.702 to 2.502: the deeper models overfit more and fit better.",
        ),
        (
            lambda depth, seed: 2.7 + 0.01 * seed,
            "From 4 to 8 layers the gap grows from 0.271 to 0.415 while training loss is not shown to change, from "
            "2.720 to 2.720: the deeper models overfit more.",
        ),
    ],
)
def test_trend(tmp_path: Path, train_loss_of: Callable[[int, int], float], expected: str) -> None:
    compared = study(tmp_path)
    for depth in PERPLEXITIES:
        write_diagnostics(tmp_path, depth, train_loss_of)
    report = write_report(compared, supplements=more(tmp_path, compared))
    assert expected in sections(report)["Fit and overfitting"]


def test_fit_on_another_text(tmp_path: Path) -> None:
    """Without claims; a plateau is known only of the study's text."""
    compared = replace(study(tmp_path), data_deviations=("another text",))
    section = sections(write_report(compared, supplements=measured(tmp_path, compared, [4])))["Fit and overfitting"]
    table = {row[0]: row[1:] for row in rows(section)[2:10]}
    assert table["4"][2:] == ["0.183 ± 0.024", "149.8 / 149.8", "1 of 5"]
    assert "lateau" not in section
    assert "claim" not in section
    assert "The gap" not in section, "of one depth there is no trend"


def test_excess_needs_the_best_depth(tmp_path: Path) -> None:
    compared = study(tmp_path)
    report = write_report(compared, supplements=measured(tmp_path, compared, [5, 6, 7, 8]))
    section = sections(report)["Fit and overfitting"]
    assert "have in excess" not in section
    verdict = rows(sections(report)["The notebook’s claims"])[2:][5]
    assert verdict[2:] == ["**undecided**", "The training loss without dropout was not measured at depth 4."]
