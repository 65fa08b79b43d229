"""Ways to the target and operations, against counting by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.cost import (
    Effort,
    embedding_share,
    load_training_data,
    mean_effort,
    petaflop_per_epoch,
    seeds_side_by_side,
    startup_seconds,
    target,
    total_seconds,
    trainings,
    ways,
)
from newllm.analysis.further import total_text
from newllm.analysis.report import write_report
from newllm.analysis.results import load_results
from newllm.analysis.summary import Comparison, compare
from newllm.analysis.supplements import Supplements, load_supplements
from newllm.errors import UserError
from newllm.model.definition import ModelShape
from tests.analysis.metrics_files import DATA, PARAMETERS, change_json, final_perplexity, write_all


def comparison(root: Path, source: str = "wikitext", **options: Any) -> Comparison:
    write_all(root, **options)
    results = load_results((1, 4, 6), root / "metrics", root / "plots/curves")
    return compare(results, 6, 6, {**DATA, "source": source})


def effort(epochs: int, joules: float | None = None) -> Effort:
    return Effort(epochs, 1.5 * epochs, None if joules is None else joules * epochs)


def test_ways(tmp_path: Path) -> None:
    """Depth 4 ends between 20.00 and 20.14, one epoch before at three times that; an epoch takes 1.5 s."""
    four = comparison(tmp_path).results[1]
    finals = [final_perplexity(4, seed) for seed in range(5)]
    assert ways(four, finals[2]) == [effort(3), effort(2), effort(3), None, None]
    assert ways(four, 61) == [effort(2), effort(1), effort(2), effort(2), effort(2)]
    assert mean_effort(ways(four, finals[2])) == Effort(pytest.approx(8 / 3), 4.0, None)
    assert mean_effort([None, None]) is None


def test_start_up_does_not_count(tmp_path: Path) -> None:
    """The first epoch takes 1.5 s like the others, 7 s more, and twice the energy."""
    four = comparison(tmp_path, epochs=5, startup=7.0, joules=200.0).results[1]
    assert trainings(four) == [effort(4 if seed == 1 else 5, 200.0) for seed in range(5)]
    assert ways(four, 61) == [effort(3 if seed == 1 else 4, 200.0) for seed in range(5)]
    assert startup_seconds(four) == pytest.approx(7.0)


def test_energy_is_not_that_of_the_steps_of_a_counter(tmp_path: Path) -> None:
    """Two of three epochs seem to take 200 J and one 260: 220 J, not 200; the first does not count."""
    comparison(tmp_path, epochs=12, startup=7.0, joules=200.0)
    path = tmp_path / "plots/curves/4.csv"
    header, *rows = path.read_text().splitlines()
    coarse = [row.removesuffix("200.0") + "260.0" if int(row.split(",")[2]) % 3 == 0 else row for row in rows]
    path.write_text("\n".join([header, *coarse]) + "\n")
    four = load_results((4,), tmp_path / "metrics", tmp_path / "plots/curves")[0]
    known = [one.joules / one.epochs for one in trainings(four) if one.joules]
    assert len(known) == 5
    assert all(215 <= joules <= 225 for joules in known)


def test_all_trainings_together(tmp_path: Path) -> None:
    """14 epochs a depth, since the second of five seeds stops one epoch early; 1.5 s each, and 7 s more for five."""
    compared = comparison(tmp_path, startup=7.0)
    assert total_seconds(compared.results) == pytest.approx(3 * (14 * 1.5 + 5 * 7.0))
    assert total_text(compared, Supplements()) == (
        "Training these 15 models on NVIDIA L4 took 2.8 minutes, start-ups and validation included."
    )


def test_energy_that_some_seeds_do_not_know(tmp_path: Path) -> None:
    four = comparison(tmp_path, joules="").results[1]
    assert mean_effort(trainings(four)) == Effort(pytest.approx(2.8), pytest.approx(4.2), None)
    assert mean_effort([effort(3, 200.0), None, effort(1)]) == Effort(2, 3.0, None)


def test_seeds_side_by_side(tmp_path: Path) -> None:
    assert seeds_side_by_side(comparison(tmp_path).results[0]) == 5
    assert seeds_side_by_side(comparison(tmp_path, side_by_side=False).results[0]) == 1


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


def cost_of(root: Path, compared: Comparison) -> tuple[str, dict[str, list[str]]]:
    """The report's section on cost, and its table's rows by their first cell."""
    report = write_report(compared, supplements=load_supplements(compared.results, root, 64))
    section = report.split("\n## Cost\n")[1].split("\n## ")[0]
    rows = [line.removesuffix(" |")[2:].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return section, {row[0]: row[1:] for row in rows}


def test_section(tmp_path: Path) -> None:
    section, cells = cost_of(tmp_path, comparison(tmp_path, epochs=5, startup=7.0))
    one, four = (ModelShape(1000, 256, 256, 512, depth).flops_per_position * 51_026 * 63 / 1e15 for depth in (1, 4))
    assert cells["4"] == ["4.8", "7.0", "7.2", f"{4.8 * four:.2f}", "5 of 5", "4.8", "7.2", f"{4.8 * four:.2f}"]
    assert cells["1"] == ["4.8", "7.0", "7.2", f"{4.8 * one:.2f}", "0 of 5", "–", "–", "–"]
    assert "Energy was not measured." in section
    assert "(with 1 layer, 11 % of what" in section
    assert "different devices" not in section


def test_operations_of_a_small_model_are_not_nothing(tmp_path: Path) -> None:
    small = {**PARAMETERS, "model": {**PARAMETERS["model"], "embedding_dim": 2, "context_dim": 2, "hidden_size": 2}}
    _, cells = cost_of(tmp_path, comparison(tmp_path, epochs=5, parameters=small))
    expected = 6 * (2 * 2 + 3 * 4 + 1006 * 2) * 51_026 * 63 * 4.8 / 1e15
    assert cells["4"][3] == f"{expected:.2g}"
    assert float(cells["4"][3]) == pytest.approx(expected, rel=0.05)


def test_energy_in_the_section(tmp_path: Path) -> None:
    """4.8 epochs of 250 J; depth 1 never reaches the target."""
    section, cells = cost_of(tmp_path, comparison(tmp_path, epochs=5, startup=7.0, joules=250))
    assert cells["layers"][3] == "kJ a seed"
    assert cells["layers"][8] == "kJ to the target"
    assert (cells["4"][3], cells["4"][8], cells["1"][8]) == ("1.20", "1.20", "–")
    assert "not measured" not in section


def test_different_devices_are_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    change_json(tmp_path / "metrics/runs/4.json", lambda runs: runs.update(device="another"))
    results = load_results((1, 4, 6), tmp_path / "metrics", tmp_path / "plots/curves")
    section, cells = cost_of(tmp_path, compare(results, 6, 6, DATA))
    assert section.index("**The depths were trained on different devices**") < section.index("| layers")
    assert [cells[name][-1] for name in ("layers", "1", "4", "6")] == ["device", "NVIDIA L4", "another", "NVIDIA L4"]


@pytest.mark.parametrize(("depth", "share"), [(1, 131_072 / 1_167_360), (4, 131_072 / (1_167_360 + 3 * 512**2))])
def test_what_the_embedding_would_take(tmp_path: Path, depth: int, share: float) -> None:
    result = next(result for result in comparison(tmp_path).results if result.num_layers == depth)
    data = load_training_data(tmp_path / "metrics/data.json", 64)
    assert embedding_share(result, data) == pytest.approx(share)
    assert embedding_share(result, None) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "expected an object"),
        ("{}", "key data is missing"),
        (json.dumps({"data": [{}]}), "key data.0.vocabulary_size is missing"),
        (json.dumps({"data": [{"vocabulary_size": 1000, "train": {"windows": 0}}]}), "train.windows"),
        (json.dumps({"data": [{"vocabulary_size": "many", "train": {"windows": 1}}]}), "vocabulary_size"),
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
