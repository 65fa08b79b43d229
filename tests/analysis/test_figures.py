"""The pictures: which there are, that they show the numbers, and the same bytes for the same numbers."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from newllm.analysis.figures import Figure, draw_all
from newllm.analysis.inference import MATTERS
from newllm.analysis.study import Study
from tests.analysis.metrics_files import final_perplexity, write_all, write_supplements
from tests.analysis.part2_files import write_part_two, write_recipe
from tests.analysis.studies import PERPLEXITIES, plan, reload, study

ALWAYS = ["perplexity_by_depth", "learning_curves"]


def drawn(found: Study) -> dict[str, Figure]:
    return {figure.name: figure for figure in draw_all(found)}


def rows(figure: Figure, panel: int = 0) -> list[dict[str, Any]]:
    """All that is drawn in a panel."""
    data: Any = figure.panels[panel].to_dict()["datasets"]
    return [row for table in data.values() for row in table]


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_no_picture_of_what_was_not_measured(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert list(drawn(reload(tmp_path, (1, 4, 6)))) == ALWAYS
    write_supplements(tmp_path)
    found = drawn(reload(tmp_path, (1, 4, 6)))
    assert set(found) == {*ALWAYS, "fit", "grown_contexts"}
    write_part_two(tmp_path)
    planned = plan((1, 4, 6), {4: 464, 6: 400}, ("he-6", "notebook-6"), (396,))
    assert set(drawn(reload(tmp_path, (1, 4, 6), planned))) == {
        *found, "changed_recipes", "importances", "searches", "tuned"
    }  # fmt: skip


def test_perplexities_are_drawn_as_they_are(tmp_path: Path) -> None:
    found = rows(drawn(study(tmp_path, epochs=3))["perplexity_by_depth"])
    means = [row for row in found if row.get("low") is not None]
    assert {row["num_layers"]: row["val_ppl"] for row in means} == pytest.approx(PERPLEXITIES)
    seeds = [row["val_ppl"] for row in found if "seed" in row and row["num_layers"] == 4]
    assert sorted(seeds) == pytest.approx([19.86, 19.88, 19.90, 19.92, 19.94])
    published = {row["num_layers"]: row["val_ppl"] for row in found if str(row.get("series")).startswith("notebook,")}
    assert published == {1: 20.4, 4: 20.1, 5: 20.5, 6: 20.6, 7: 21.77}
    other = rows(drawn(reload(tmp_path, source="synthetic"))["perplexity_by_depth"])
    assert not [row for row in other if str(row.get("series")).startswith("notebook,")], "of another text"


def test_marks_of_changed_recipes_stand_at_their_depth(tmp_path: Path) -> None:
    study(tmp_path, epochs=3)
    residual, warm = {4: 19.9, 6: 20.0, 8: 20.6}, {4: 19.9, 6: 20.5, 8: 23.1}
    others: Any = ({"initialisation": "he", "dropout": 0.3}, {"schedule": "linear"})
    families: Any = [(residual, {"residual": True}), (warm, {"warmup_epochs": 10})]
    families += [({3: 19.5, 4: 19.6}, others[0]), ({6: 20.4}, others[1])]
    names = [write_recipe(tmp_path, f"{n}-{d}", d, mean, **changes) or f"{n}-{d}"
             for n, (means, changes) in enumerate(families) for d, mean in means.items()]  # fmt: skip
    figure = drawn(reload(tmp_path, planned=plan(recipes=names)))["changed_recipes"]
    found = rows(figure)
    values = {(row["series"], row["num_layers"]): row["val_ppl"] for row in found}
    assert {depth: values["residual connections", depth] for depth in residual} == pytest.approx(residual)
    assert values["warm-up epochs 10", 6] == pytest.approx(20.5)
    assert len(values) == 8 + 3 + 3, "what was tried at fewer than three depths is left to the table"
    assert all(row["low"] < row["val_ppl"] < row["high"] for row in found)
    assert "xOffset" not in str(figure.panels[0].to_dict())


def test_a_map_of_each_search(tmp_path: Path) -> None:
    """The made-up trials: a cell each; dropout 0 at rate 4 diverged, 0.1 at rate 1 was pruned."""
    write_all(tmp_path)
    write_part_two(tmp_path)
    found = drawn(reload(tmp_path, (1, 4, 6), plan(tuned=(1, 4))))["searches"]
    assert len(found.panels) == 2
    cells = {(row["rate"], row["dropout"]): row for row in rows(found, 1)}
    assert len(cells) == 20
    assert [place for place, row in cells.items() if row["label"] == "×"] == [(1.0, 0.1), (4.0, 0.0)]
    assert cells[2.0, 0.3]["val_ppl"] == pytest.approx(19.204), "as trained there"
    assert [place for place, row in cells.items() if row["chosen"]] == [(2.0, 0.3)]


def test_the_least_difference_that_matters_is_drawn_above_the_best_tuned_depth(tmp_path: Path) -> None:
    write_all(tmp_path)
    write_part_two(tmp_path)
    found = rows(drawn(reload(tmp_path, (1, 4, 6), plan(tuned=(1, 4, 6))))["tuned"])
    assert [row["val_ppl"] for row in found if row.keys() == {"val_ppl"}] == [pytest.approx(19.2 + MATTERS)]


def test_titles_say_what_is_shown(tmp_path: Path) -> None:
    write_all(tmp_path, epochs=40)
    write_supplements(tmp_path)
    found = drawn(reload(tmp_path, (1, 4, 6)))
    assert "4" in found["perplexity_by_depth"].title
    assert len(found["learning_curves"].panels) == 2, "the last third is seen closer"
    assert len(found["grown_contexts"].panels) == 2, "a panel a depth"
    series = {row["series"] for row in rows(found["grown_contexts"]) if "series" in row}
    assert series == {"freeze", "finetune", "longer"}, "what began at the base"
    changes = [row for row in rows(found["grown_contexts"]) if row.get("series") == "finetune"]
    assert changes[-1]["change"] == pytest.approx(-0.5), "of the same seeds"
    assert "From depth 4 to 6" in found["fit"].title
    (tmp_path / "metrics/diagnostics/4.json").unlink()
    assert "From depth 1 to 6" in drawn(reload(tmp_path, (1, 4, 6)))["fit"].title, "of the best nothing is known"


@pytest.mark.parametrize(("end", "has_plateau"), [(20.0, True), (10.0, False), (70.0, False)])
def test_a_plateau_is_named_where_all_have_left_one(end: float, has_plateau: bool, tmp_path: Path) -> None:
    """Of three epochs, which fall as 5, 3, 1 times the end."""
    found = drawn(study(tmp_path, dict.fromkeys(PERPLEXITIES, end), epochs=3))["learning_curves"]
    assert ("60" in found.title) == has_plateau
    assert (f"{end:.2f}" in found.title) == (not has_plateau)


def test_only_the_notebooks_recipe_is_called_its(tmp_path: Path) -> None:
    """As specified, and with another text."""
    found = study(tmp_path)
    assert "notebook" in drawn(found)["perplexity_by_depth"].title
    other = drawn(replace(found, data_deviations=["another text"]))["perplexity_by_depth"]
    assert "notebook" not in other.title + other.subtitle
    assert not any("notebook" in row.get("series", "") for row in rows(other))


def test_learning_curves_are_means(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = rows(drawn(reload(tmp_path, (1, 4, 6)))["learning_curves"])
    last = next(row for row in found if row.get("num_layers") == 4 and row["epoch"] == 3)
    assert last["val_ppl"] == pytest.approx(sum(final_perplexity(4, seed) for seed in (0, 2, 3, 4)) / 4)


@pytest.mark.parametrize("options", [{}, {"seeds": 1, "epochs": 1, "depths": (6,)}])
def test_files_are_wide_and_the_same_every_time(tmp_path: Path, options: dict[str, Any]) -> None:
    depths = options.pop("depths", (1, 4, 6))
    write_all(tmp_path, depths, **options)
    write_supplements(tmp_path, depths)
    found = reload(tmp_path, depths)
    once, again = ({name: figure.png() for name, figure in drawn(found).items()} for _ in range(2))
    assert once == again
    for name, png in once.items():
        assert 1200 <= size(png)[0] <= 1500, name
        assert size(png)[1] < size(png)[0], name


def test_a_users_theme_changes_nothing(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = drawn(reload(tmp_path, (1, 4, 6)))["perplexity_by_depth"]
    plain = found.png()
    with alt.theme.enable("dark"):
        assert found.png() == plain
