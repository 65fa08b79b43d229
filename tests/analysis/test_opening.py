"""The first paragraph: how many layers, how sure, at what cost, and what of the notebook holds."""

from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.opening import opening
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.verdicts import judge
from tests.analysis.metrics_files import DATA, write_all
from tests.analysis.studies import PERPLEXITIES, more, study


def paragraph(root: Path, compared: Comparison, claims: bool = True) -> str:
    return opening(compared, more(root, compared), judge(compared) if claims else [])


def few(root: Path, studied: int = 6, depths: Any = (1, 4, 6), **options: Any) -> Comparison:
    write_all(root, depths, **options)
    return compare(load_results(depths, root / "metrics", root / "plots/curves"), studied, 6, DATA)


def test_it_is_the_first_paragraph(tmp_path: Path) -> None:
    compared = study(tmp_path)
    title, first = write_report(compared, supplements=more(tmp_path, compared)).split("\n\n")[:2]
    assert title.startswith("# ")
    assert first == paragraph(tmp_path, compared)


def test_answer_and_certainty(tmp_path: Path) -> None:
    text = paragraph(tmp_path, study(tmp_path))
    assert text.startswith("**4 layers**: of the depths 1 to 8 it has the lowest mean of best validation perplexity, ")
    assert "**19.90 ± 0.04** (test 18.90 ± 0.04, validation accuracy 38.20 ± 0.20 %)" in text
    assert "Every other depth is shown to be worse (adjusted p < 0.05), the nearest by +0.12 ± 0.05." in text
    assert "With 6 layers, the baseline and the depth under study, it is 20.50 ± 0.04 (+0.60 ± 0.05 from" in text


def test_not_distinguished(tmp_path: Path) -> None:
    text = paragraph(tmp_path, study(tmp_path, {3: 19.92, 5: 19.93}))
    assert "These seeds do not tell it from 3 and 5 (adjusted p at least 0.05); the others are shown" in text
    assert "The shallowest that may be as good has 3 layers." in text
    assert "shallowest" not in paragraph(tmp_path, study(tmp_path, {5: 19.93}))
    together = paragraph(tmp_path, study(tmp_path, dict.fromkeys(PERPLEXITIES, 20.0)))
    assert "These seeds do not tell it from any other depth (" in together
    assert "the others" not in together


def test_cost(tmp_path: Path) -> None:
    """19.90 is reached in the last of 150 epochs of 1.5 s; one seed has 149."""
    text = paragraph(tmp_path, study(tmp_path))
    weights = 256 * 512 + 3 * 512**2 + (1000 + 768) * 512
    petaflop = 6 * weights * 51_026 * 63 * 149.8 / 1e15
    assert (
        f"Training takes 225 s a seed with 4 layers (2,214,120 parameters, {petaflop:.3g} PFLOP), 225 s with 6;" in text
    )
    assert "a perplexity of 20.50 is reached by every seed, after 225 s on average" in text
    above = paragraph(tmp_path, study(tmp_path, dict.fromkeys(PERPLEXITIES, 21.0)))
    assert "no seed of it reaches a perplexity of 20.50" in above


def test_right_and_wrong(tmp_path: Path) -> None:
    text = paragraph(tmp_path, study(tmp_path, {5: 20.7}))
    assert "The notebook was right that “4 layers are best”; " in text
    assert "It was wrong that “5 beats 6”; " in text
    assert "Undecided: “deep models are worse because they overfit”." in text
    assert "otebook" not in paragraph(tmp_path, study(tmp_path), claims=False)
    one = paragraph(tmp_path, study(tmp_path, seeds=1))
    assert "Of the notebook’s claims none is decided: “4 layers" in one
    assert "right that" not in one


def test_setting(tmp_path: Path) -> None:
    text = paragraph(tmp_path, few(tmp_path, studied=1))
    assert "of the depths 1, 4 and 6 it has" in text
    assert "Trained on NVIDIA L4, precision fp16, 5 seeds a depth, 2 to 3 epochs (3 of 15 runs stopped early)." in text
    assert "With 6 layers, the baseline, it is" in text
    assert "With 1 layer, the depth under study, it is" in text


@pytest.mark.parametrize("depth", [1, 6])
def test_one_depth(tmp_path: Path, depth: int) -> None:
    write_all(tmp_path, [depth])
    results = load_results([depth], tmp_path / "metrics", tmp_path / "plots/curves")
    text = paragraph(tmp_path, compare(results, depth, depth, DATA))
    assert "the only depth here" in text
    assert "There is nothing to compare it with." in text


def test_one_seed(tmp_path: Path) -> None:
    text = paragraph(tmp_path, few(tmp_path, seeds=1, studied=4))
    assert "±" not in text
    assert "may be chance" in text
    assert "shown to be worse" not in text
