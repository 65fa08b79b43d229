"""Ways to the target and operations, against counting by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.cost import Way, load_training_data, mean_of_ways, petaflop_per_epoch, target, ways
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.supplements import load_supplements
from newllm.errors import UserError
from newllm.model.definition import ModelShape
from tests.analysis.metrics_files import DATA, PARAMETERS, final_perplexity, write_all


def comparison(root: Path, source: str = "wikitext", **options: Any) -> Comparison:
    write_all(root, **options)
    results = load_results((1, 4, 6), root / "metrics", root / "plots/curves")
    return compare(results, 6, 6, {**DATA, "source": source})


def test_ways(tmp_path: Path) -> None:
    """Depth 4 ends between 20.00 and 20.14, one epoch before at three times that; an epoch takes 1.5 s."""
    four = comparison(tmp_path).results[1]
    finals = [final_perplexity(4, seed) for seed in range(5)]
    assert ways(four, finals[2]) == [Way(3, 4.5), Way(2, 3.0), Way(3, 4.5), None, None]
    assert ways(four, 61) == [Way(2, 3.0), Way(1, 1.5), Way(2, 3.0), Way(2, 3.0), Way(2, 3.0)]
    mean = mean_of_ways(ways(four, finals[2]))
    assert mean == Way(pytest.approx(8 / 3), 4.0)
    assert mean_of_ways([None, None]) is None


def test_target(tmp_path: Path) -> None:
    assert target(comparison(tmp_path)) == 20.5
    worst = sum(final_perplexity(1, seed) for seed in range(5)) / 5
    assert target(comparison(tmp_path, source="synthetic")) == pytest.approx(worst)


@pytest.mark.parametrize("depth", [1, 4, 6])
def test_operations_are_those_of_the_definition(tmp_path: Path, depth: int) -> None:
    compared = comparison(tmp_path)
    data = load_training_data(tmp_path / "metrics/data.json", 64)
    result = next(result for result in compared.results if result.num_layers == depth)
    per_position = ModelShape(1000, 256, 256, 512, depth).flops_per_position
    assert petaflop_per_epoch(result, data) == pytest.approx(per_position * 51_026 * 63 / 1e15)
    assert petaflop_per_epoch(result, None) is None


def test_sizes_that_were_not_recorded(tmp_path: Path) -> None:
    compared = comparison(tmp_path, parameters=PARAMETERS["train"])
    supplements = load_supplements(compared.results, tmp_path, 64)
    assert petaflop_per_epoch(compared.results[0], supplements.training_data) is None
    assert "not known" in write_report(compared, supplements=supplements)


def test_section(tmp_path: Path) -> None:
    compared = comparison(tmp_path)
    report = write_report(compared, supplements=load_supplements(compared.results, tmp_path, 64))
    rows = [line for line in report.split("\n## Cost\n")[1].splitlines() if line.startswith("| ")]
    cells = {line.split(" | ")[0][2:]: line.removesuffix(" |").split(" | ")[1:] for line in rows[2:5]}
    per_epoch = [ModelShape(1000, 256, 256, 512, depth).flops_per_position * 51_026 * 63 / 1e15 for depth in (1, 4)]
    assert cells["4"][3:] == [f"{2.8 * per_epoch[1]:.3g}", "5 of 5", "2.8", "4.2", f"{2.8 * per_epoch[1]:.3g}"]
    assert cells["1"][:5] == ["2.8", "2.8", "10.0", f"{2.8 * per_epoch[0]:.3g}", "0 of 5"]
    assert cells["1"][5:] == ["–", "–", "–"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "expected an object"),
        ("{}", "key vocabulary_size is missing"),
        (json.dumps({"vocabulary_size": 1000, "train": {"windows": 0}}), "train.windows"),
        (json.dumps({"vocabulary_size": "many", "train": {"windows": 1}}), "vocabulary_size"),
    ],
)
def test_damaged_data_metrics(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_training_data(path, 64)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "`dvc repro tokenize`" in str(caught.value)
