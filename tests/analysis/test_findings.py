"""The report's sections on tests and verdicts, read back."""

from pathlib import Path

from newllm.analysis.comparisons import against
from newllm.analysis.overfitting import Diagnostics
from newllm.analysis.report import write_report
from newllm.analysis.verdicts import judge
from tests.analysis.metrics_files import PARAMETERS, change_json
from tests.analysis.studies import PERPLEXITIES, reload, study

MEASURED = [Diagnostics(depth, (2.80 + 0.01 * depth, 2.8, 2.8, 2.8, 2.8), (0.5,) * depth) for depth in PERPLEXITIES]


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
    assert "Every other depth is shown to be worse than the best, 4" in write_report(study(tmp_path))


def test_verdicts(tmp_path: Path) -> None:
    compared = study(tmp_path, {5: 20.7})
    report = write_report(compared, diagnostics=MEASURED)
    section = sections(report)["The notebook’s claims"]
    verdicts = judge(compared, MEASURED)
    expected = [[str(v.number), v.claim, f"**{v.outcome}**", v.numbers] for v in verdicts]
    assert rows(section)[2:] == expected
    assert expected[1][2] == "**refuted**"
    assert all(f"\n{v.number}. {v.rule}\n" in section for v in verdicts)
    assert "differs" not in section
    assert report == write_report(reload(tmp_path), diagnostics=MEASURED)


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
    section = sections(write_report(study(tmp_path), diagnostics=MEASURED[3:]))["Fit and overfitting"]
    table = {row[0]: row[1:] for row in rows(section)[2:10]}
    assert table["1"] == [
        "3.0082 ± 0.0019",
        "not measured",
        "not measured",
        "5 of 5 seeds",
        "148.80 ± 0.56",
        "not measured",
    ]
    assert table["4"][1] == "2.808 ± 0.022"
    assert table["4"][5] == "0.5, 0.5, 0.5, 0.5"
    excess = [row[0] for row in rows(section)[10:]]
    assert excess == ["layers", "---:", "5", "6", "7", "8"]
    without = sections(write_report(study(tmp_path), diagnostics=MEASURED[4:]))["Fit and overfitting"]
    assert len(rows(without)) == 10
