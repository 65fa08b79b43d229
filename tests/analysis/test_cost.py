"""Ways to the target and operations, against counting by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.cost import (
    Effort,
    effort,
    embedding_share,
    main_target,
    minutes,
    petaflop_per_epoch,
    seeds_side_by_side,
    startup_seconds,
    total_seconds,
    within_operations,
)
from newllm.analysis.records import load_training_data
from newllm.analysis.study import Study
from newllm.errors import UserError
from newllm.model.definition import ModelShape
from tests.analysis.metrics_files import PARAMETERS, final_perplexity, write_all
from tests.analysis.part2_files import write_lstm, write_part_two, write_tuned
from tests.analysis.studies import plan, reload, study

POSITIONS = 51_026 * 63


def made(root: Path, source: str = "wikitext", **options: Any) -> Study:
    write_all(root, **options)
    return reload(root, (1, 4, 6), source=source)


def petaflop(depth: int) -> float:
    return ModelShape(1000, 256, 256, 512, depth).flops_per_position * POSITIONS / 1e15


def test_the_way_to_a_target(tmp_path: Path) -> None:
    """Depth 4 ends between 20.00 and 20.14, one epoch before at three times that; an epoch takes 1.5 s."""
    study = made(tmp_path)
    finals = [final_perplexity(4, seed) for seed in range(5)]
    found = effort(study.depths[4], study, finals[2])  # three seeds, after 3, 2 and 3 epochs
    assert found == Effort(3, pytest.approx(8 / 3), 4.0, None, pytest.approx(8 / 3 * petaflop(4)))
    early = effort(study.depths[4], study, 61)
    assert (early.reached, early.epochs, early.seconds) == (5, pytest.approx(1.8), pytest.approx(2.7))
    assert effort(study.depths[4], study, 19.0) == Effort(0)


def test_start_up_does_not_count(tmp_path: Path) -> None:
    """The first epoch takes 1.5 s like the others, 7 s more, and twice the energy; five epochs, seed 1 four."""
    study = made(tmp_path, epochs=5, startup=7.0, joules=200.0)
    found = effort(study.depths[4], study)
    assert (found.epochs, found.seconds, found.joules) == pytest.approx((4.8, 4.8 * 1.5, 4.8 * 200))
    assert startup_seconds(study.depths[4]) == pytest.approx(7.0)


def test_energy_is_not_that_of_the_steps_of_a_counter(tmp_path: Path) -> None:
    """Two of three epochs seem to take 200 J and one 260: 220 J, not 200; the first does not count."""
    made(tmp_path, epochs=12, startup=7.0, joules=200.0)
    path = tmp_path / "plots/curves/4.csv"
    header, *rows = path.read_text().splitlines()
    coarse = [row.removesuffix("200.0") + "260.0" if int(row.split(",")[2]) % 3 == 0 else row for row in rows]
    path.write_text("\n".join([header, *coarse]) + "\n")
    study = reload(tmp_path, (1, 4, 6))
    found = effort(study.depths[4], study)
    assert found.joules is not None
    assert found.epochs is not None
    assert 215 <= found.joules / found.epochs <= 225


def test_energy_that_some_seeds_do_not_know(tmp_path: Path) -> None:
    made(tmp_path, joules=200.0)
    path = tmp_path / "plots/curves/4.csv"
    lines = [
        line.rpartition(",")[0] + "," if line.startswith("4,2,") else line for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    study = reload(tmp_path, (1, 4, 6))
    assert effort(study.depths[4], study).joules is None
    assert effort(study.depths[1], study).joules == pytest.approx((4 * 800 + 600) / 5), "the first takes twice 200 J"


def test_all_trainings_together(tmp_path: Path) -> None:
    """14 epochs a depth, since the second of five seeds stops one epoch early; 1.5 s each, and 7 s more for five."""
    study = made(tmp_path, startup=7.0)
    assert total_seconds(study.depths.values()) == pytest.approx(3 * (14 * 1.5 + 5 * 7.0))


def test_seeds_side_by_side(tmp_path: Path) -> None:
    assert seeds_side_by_side(made(tmp_path).depths.values()) == 5
    assert seeds_side_by_side(made(tmp_path, side_by_side=False).depths.values()) == 1


def test_target(tmp_path: Path) -> None:
    assert main_target(made(tmp_path)) == 20.5
    worst = sum(final_perplexity(1, seed) for seed in range(5)) / 5
    assert main_target(made(tmp_path, source="synthetic")) == pytest.approx(worst)


@pytest.mark.parametrize("depth", [1, 4, 6])
def test_operations_are_those_of_the_definition(tmp_path: Path, depth: int) -> None:
    study = made(tmp_path)
    assert petaflop_per_epoch(study.depths[depth], study) == pytest.approx(petaflop(depth))


def test_sizes_that_were_not_recorded(tmp_path: Path) -> None:
    study = made(tmp_path, parameters=PARAMETERS["train"])
    assert petaflop_per_epoch(study.depths[1], study) is None
    assert embedding_share(study.depths[1], study) is None
    assert effort(study.depths[1], study).petaflop is None


@pytest.mark.parametrize(("depth", "share"), [(1, 131_072 / 1_167_360), (4, 131_072 / (1_167_360 + 3 * 512**2))])
def test_what_the_embedding_would_take(tmp_path: Path, depth: int, share: float) -> None:
    study = made(tmp_path)
    assert embedding_share(study.depths[depth], study) == pytest.approx(share)


def test_operations_of_an_lstm(tmp_path: Path) -> None:
    """Four gates read the embedding of 256 and the state of 396, and 1,000 logits the state."""
    write_all(tmp_path)
    write_lstm(tmp_path, 396, 19.6)
    study = reload(tmp_path, (1, 4, 6), plan(lstm=(396,)))
    expected = 6 * (4 * 396 * (256 + 396) + 1000 * 396) * POSITIONS / 1e15
    assert petaflop_per_epoch(study.lstm[396], study) == pytest.approx(expected)


def test_the_lowest_up_to_an_epoch(tmp_path: Path) -> None:
    """Four epochs end at 19.2 and its seeds; after three they are at one and a half times that."""
    write_all(tmp_path)
    write_tuned(tmp_path, 4, 19.2)
    group = reload(tmp_path, (1, 4, 6), plan(tuned=(4,))).tuned[4]
    finals = group.values("val_ppl")
    assert group.lowest(4) == group.lowest(9) == pytest.approx(finals)
    assert group.lowest(3) == pytest.approx([1.5 * value for value in finals])


def test_within_the_operations_that_every_seed_was_trained(tmp_path: Path) -> None:
    """The fewest are three epochs of one seed with one layer, in which four layers come to one epoch."""
    write_all(tmp_path)
    for depth in (1, 4):
        write_tuned(tmp_path, depth, 19.2)
    study = reload(tmp_path, (1, 4, 6), plan(tuned=(1, 4)))
    tuned = study.tuned
    finals = tuned[1].values("val_ppl")
    tuned[1].seeds.loc[2, "epochs_run"] = 3
    budget, found = within_operations(tuned, study)
    assert budget == pytest.approx(3 * petaflop(1))
    assert found[1].values("val_ppl") == pytest.approx([1.5 * value for value in finals])
    assert found[4].values("val_ppl") == pytest.approx([2.5 * value for value in finals])
    assert not found[4].has("test_ppl"), "which is not of that epoch"
    tuned[1].seeds.loc[2, "epochs_run"] = 1
    assert within_operations(tuned, study)[1] == {}, "less than an epoch of four layers"
    assert within_operations({}, study) == (0.0, {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "expected an object"),
        ("{}", "found None as data"),
        (json.dumps({"data": [{}]}), "key vocabulary_size is missing"),
        (json.dumps({"data": [{"vocabulary_size": 1000, "train": {"windows": 0}}]}), "train.windows"),
        (json.dumps({"data": [{"vocabulary_size": "many", "train": {"windows": 1}}]}), "vocabulary_size"),
    ],
)
def test_damaged_data_metrics(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "metrics/data.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_training_data(tmp_path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "`dvc repro tokenize`" in str(caught.value)


def test_minutes_of_every_part(tmp_path: Path) -> None:
    """By hand: trials take 9 s, further seeds of finalists 6 s, models of part 2 four epochs of 1.5 s."""
    own = study(tmp_path)
    notebook = sum(group.curve["seconds"].sum() for group in own.depths.values()) / 60
    assert minutes(own) == {"the notebook’s recipe": pytest.approx(notebook)}
    write_part_two(tmp_path)
    planned = plan((1, 4, 6), {4: 464, 6: 400}, ("he-6", "notebook-6"), (396,))
    seconds = [3 * 20 * 9, 3 * 6 * 6, 3 * 10 * 6, 2 * 5 * 6, 2 * 5 * 6, 10 * 6 + 20 * 9 + 6 * 6]
    assert list(minutes(reload(tmp_path, planned=planned)).values())[1:] == pytest.approx([one / 60 for one in seconds])
