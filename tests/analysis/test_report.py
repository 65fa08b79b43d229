"""Templates render complete and reduced studies, words only where their facts hold, and the numbers of the inputs."""

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis import report
from newllm.analysis.fit import GAP, TRAIN_LOSS
from newllm.analysis.inference import prediction_interval
from newllm.analysis.report import Facts, at_epoch, continued, effects_of, facts, given, late_gain, render, unfinished
from newllm.analysis.study import Study, by_change, families, spread
from newllm.config import Config
from stages.report import load
from tests.analysis.metrics_files import (
    change_json,
    final_perplexity,
    write_all,
    write_diagnostics,
    write_supplements,
)
from tests.analysis.part2_files import RECIPE, write_part_two, write_recipe, write_tuned
from tests.analysis.studies import PERPLEXITIES, plan, reload, study

ROOT = Path(__file__).parents[2]
TEMPLATES = ["report", "appendix", "readme"]
ALL = plan((1, 4, 6), {4: 464, 6: 400}, ("he-6", "notebook-6"), (396,))
PART_TWO = ("An LSTM instead", "equal parameters", "equal operations", "tuned, best", "All settings together")


def texts(found: Study) -> list[str]:
    return render(found, [], TEMPLATES, "pictures")


def tables(text: str) -> dict[str, list[list[str]]]:
    """Header → rows of every table."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            rows = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not rows:
            rows = found.setdefault(line, [])
            rows.append(cells)
        else:
            rows.append(cells)
    return {header: rows[2:] for header, rows in found.items()}


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0].replace(",", "").replace("−", "-"))


@pytest.fixture(scope="module")
def committed() -> Study:
    return load(ROOT, list(range(1, 9)))


def test_every_written_conclusion_holds_of_the_committed_results(committed: Study) -> None:
    shown = facts(committed, effects_of(committed))
    assert [name for name, holds in shown.items() if not holds] == []
    found = texts(committed)
    assert not any("left out here" in text for text in found)
    assert len(found[0].split()) <= 3000
    assert len(found[2].split("\n\n")[0].split()) <= 120


def test_each_fact_carries_words(committed: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for by a template, and without it the words that rest on it are left out while tables stay."""
    shown = facts(committed, effects_of(committed))
    templates = "".join(path.read_text() for path in (ROOT / "src/newllm/analysis/templates").glob("*.md.j2"))
    assert [name for name in shown if f'"{name}"' not in templates] == []
    whole = texts(committed)
    for lost in ([name] for name in ("depth 3 is best", "growing gains nothing over longer training")):
        monkeypatch.setattr(report, "facts", lambda *_, lost=lost: Facts({**shown, **dict.fromkeys(lost, False)}))
        reduced = texts(committed)
        assert reduced[0] != whole[0]
        assert tables(reduced[0]).keys() == tables(whole[0]).keys()
    monkeypatch.setattr(report, "facts", lambda *_: Facts(dict.fromkeys(shown, False)))
    reduced = texts(committed)
    assert tables(reduced[0]).keys() == tables(whole[0]).keys()
    assert reduced[0].count("left out here") >= 5


def test_a_fact_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError):
        Facts({"a": True}).hold("a", "b")
    assert Facts({"a": True, "b": False}).missing("a", "b") == ["b"]


def shown(found: Study) -> dict[str, bool]:
    return facts(found, effects_of(found))


@pytest.mark.parametrize(
    ("changes", "options", "lost"),
    [
        ({}, {}, {"depth 3 is best"}),
        ({3: 19.5}, {}, set()),
        ({3: 19.5, 2: 19.51}, {}, {"every other depth is worse than the best", "so it is on the test split"}),
        ({3: 19.5}, {"without": 7}, {"depths 1 to 8 were trained"}),
        ({3: 19.5}, {"seeds": 1}, {"every other depth is worse than the best", "so it is on the test split"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),  # the order of a set is chance
)
def test_facts_follow_the_results(tmp_path: Path, changes: Any, options: Any, lost: set[str]) -> None:
    found = shown(study(tmp_path, changes, **options))
    asked = {"depth 3 is best", "every other depth is worse than the best", "so it is on the test split"}
    asked |= {"depths 1 to 8 were trained"}
    assert {name for name in asked if not found[name]} == lost


Family = tuple[dict[str, Any], dict[int, float]]


def write_families(root: Path, *families: Family) -> Config:
    """Each change at some depths, with these means; what plans them."""
    names = []
    for number, (changes, means) in enumerate(families):
        for depth, mean in means.items():
            names.append(f"{number}-{depth}")
            write_recipe(root, names[-1], depth, mean, **changes)
    return plan(recipes=names)


def test_effects_against_scipy(tmp_path: Path) -> None:
    """One family over all changes; against the same depth, and against the best, 4 layers at 19.90."""

    def seeds(mean: float) -> list[float]:
        return [mean + 0.02 * (seed - 2) for seed in range(5)]

    study(tmp_path, epochs=3)
    warm: Family = {"warmup_epochs": 10}, {6: 20.45}
    planned = write_families(tmp_path, ({"residual": True}, {4: 19.9, 6: 20.0, 8: 20.6, 9: 20.0}), warm)
    found = reload(tmp_path, planned=planned)
    effects = effects_of(found)
    means = [("0-4", 4, 19.9), ("0-6", 6, 20.0), ("0-8", 8, 20.6), ("1-6", 6, 20.45)]
    assert [(one.group.name, one.group.num_layers, one.group.mean("val_ppl")) for one in effects] == [
        (name, depth, pytest.approx(mean)) for name, depth, mean in means
    ], "depth 9 has nothing to be compared with"
    for own, tests in (
        ([seeds(PERPLEXITIES[depth]) for _, depth, _ in means], [one.val_ppl for one in effects]),
        ([seeds(19.9)] * 4, [one.against_best for one in effects]),
    ):
        raw = [stats.ttest_ind(seeds(mean), base, equal_var=False) for (*_, mean), base in zip(means, own, strict=True)]
        largest = 0.0
        for rank, index in enumerate(sorted(range(4), key=lambda index: raw[index].pvalue)):
            largest = min(max(largest, (4 - rank) * raw[index].pvalue), 1.0)
            assert tests[index].adjusted_p == pytest.approx(largest)
            interval = raw[index].confidence_interval()
            assert tests[index].low == pytest.approx(interval.low)
            assert tests[index].high == pytest.approx(interval.high)
    assert [one.val_ppl.below for one in effects] == [False, True, True, False], "p = 0.037, not the last of four"
    changes = by_change(one.group for one in effects)
    assert {name: list(groups) for name, groups in changes.items()} == {
        "residual connections": [4, 6, 8], "warm-up epochs 10": [6]
    }  # fmt: skip
    assert spread(changes["residual connections"].values()) == pytest.approx(0.7)
    assert spread([]) == 0


def test_facts_of_changed_recipes(tmp_path: Path) -> None:
    means = {2: 19.75, 3: 19.72, 4: 19.7, 5: 19.7, 6: 19.71, 7: 19.69, 8: 19.7}
    names = [
        "residual connections were tried at depths 4 to 8",
        "with residual connections depths differ less than a tenth as much",
        "no residual network beats the best depth",
        "residual connections keep the gradients of one layer",
        "residual connections help from depth 4 on",
        "residual connections win fit and widen the gap from depth 5 on",
    ]

    def holding(
        residual: dict[int, float], best: float = 19.6, share: float = 1.5, gradient: float = 1.5
    ) -> list[bool]:
        """Of what is won at depth 7 this share is training loss, of the others 1.5; the rest is gap."""
        for path in tmp_path.glob("metrics/diagnostics/*"):
            path.unlink()
        study(tmp_path, {3: best}, epochs=3)
        for depth in PERPLEXITIES:
            write_diagnostics(tmp_path, depth, lambda _, seed: 2.8 + 0.001 * (seed % 3))
        planned = write_families(tmp_path, ({"residual": True}, residual))
        for depth, mean in residual.items():
            won = (share if depth == 7 else 1.5) * (math.log(PERPLEXITIES[depth]) - math.log(mean))
            for number in range(5):
                loss, norms = 2.8 - won + 0.001 * (number % 3), [gradient] * depth
                own = {"train_loss_without_dropout": loss, "initial_norms": norms}
                change_json(
                    tmp_path / f"metrics/recipes/0-{depth}.json",
                    lambda details, number=number, own=own: details["runs"][0]["seeds"][number].update(own),
                )
        found = shown(reload(tmp_path, planned=planned))
        return [found[name] for name in names]

    def all_but(*lost: int) -> list[bool]:
        return [number not in lost for number in range(len(names))]

    assert holding(means) == all_but()
    assert holding({**means, 8: 20.1}) == all_but(1), "0.41 of 3.4 apart"
    assert holding(means, best=19.8) == all_but(2)
    assert holding(means, gradient=0.0005) == all_but(3), "one layer has 0.001"
    assert holding({**means, 5: 20.1}) == all_but(1, 4, 5)
    assert holding({depth: means[depth] for depth in (4, 5, 6, 7, 8)}) == all_but()
    assert holding(means, share=0.1) == all_but(5), "less overfitting"
    assert holding(means, share=0.9) == all_but(5), "fit, and a smaller gap"
    assert holding({depth: means[depth] for depth in (2, 3, 5, 6, 7, 8)})[0] is False
    assert holding({}) == [False] * 6


def test_words_on_changed_recipes(tmp_path: Path) -> None:
    """Only of what was trained, and what it showed."""
    study(tmp_path, {3: 19.5}, epochs=150)
    for depth in PERPLEXITIES:
        write_diagnostics(tmp_path, depth, lambda depth, seed: 2.8 + 0.05 * depth + 0.001 * (seed % 3))
        norm = 10.0**-depth
        change_json(
            tmp_path / f"metrics/diagnostics/{depth}.json",
            lambda file, norm=norm: [
                seed["gradient_norms"]["initial"].update(dict.fromkeys(seed["gradient_norms"]["initial"], norm))
                for seed in file["diagnostics"][0]["seeds"]
            ],
        )

    def paragraph(*families: Family) -> str:
        text = texts(reload(tmp_path, planned=write_families(tmp_path, *families)))[0]
        return text.partition("besides depth\n")[2].partition("\n## ")[0].partition("| change |")[0]

    he = dict.fromkeys(PERPLEXITIES, 19.6)
    assert not re.search("esidual|He |left out", paragraph())
    assert re.search("left out here.*esidual", paragraph(({"dropout": 0.2}, {4: 20.0})))
    assert "as He proposed" in paragraph(({"initialisation": "he"}, he))
    assert "as He proposed" not in paragraph(({"initialisation": "he"}, {**he, 6: 20.6}))
    assert "as He proposed" not in paragraph(({"initialisation": "he"}, {8: 19.6}))


def test_a_changed_experiment_has_tables_and_says_what_it_is(tmp_path: Path) -> None:
    """One seed of 3 epochs of another text: no claims, nothing of the notebook's, no ± anywhere."""
    write_all(tmp_path, seeds=1)
    write_supplements(tmp_path)
    found = texts(reload(tmp_path, (1, 4, 6), source="synthetic"))
    for text in found:
        assert "±" not in re.sub(r"`±`", "", text)
        assert not re.search(r"\b(nan|None|inf)\b", text)
        assert "21.77" not in text
    assert "claims" not in [line for line in found[0].splitlines() if line.startswith("## ")]
    assert "left out here" in found[0]
    assert "synthetic instead of wikitext" in found[0]
    for title in ("The depths", "What it costs", "Grown contexts", "Method and limits"):
        assert f"\n## {title}\n" in found[0]
    for title in ("Fit and overfitting", "Without `<unk>`", "What the context carries", "Samples", "Provenance"):
        assert f"\n## {title}\n" in found[1]


def test_sections_without_their_files(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = texts(reload(tmp_path, (1, 4, 6)))
    for title in ("Grown contexts", *PART_TWO, "Samples", "Changed recipes"):
        assert not any(title in text for text in found), title


def test_table_of_depths_traces_to_the_inputs(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = texts(reload(tmp_path, (1, 4, 6)))
    rows = tables(found[0])["| layers | parameters | validation PPL | test PPL | accuracy, % |"]
    assert [row[0] for row in rows] == ["1", "4", "6"]
    for row, depth in zip(rows, (1, 4, 6), strict=True):
        values = [final_perplexity(depth, seed) for seed in range(5)]
        half = 2.776445 * statistics.stdev(values) / 5**0.5
        assert number(row[1]) == 1_426_152 + 262_656 * (depth - 1)
        assert number(row[2]) == pytest.approx(statistics.fmean(values), abs=0.005)
        assert float(row[2].split("± ")[1]) == pytest.approx(half, abs=0.005)
        assert number(row[3]) == pytest.approx(statistics.fmean(values) - 1, abs=0.005)
        assert number(row[4]) == pytest.approx(38.2, abs=0.005)
    tests = next(rows for header, rows in tables(found[1]).items() if header.startswith("| layers | PPL − PPL(6)"))
    means = {depth: statistics.fmean(final_perplexity(depth, seed) for seed in range(5)) for depth in (1, 4, 6)}
    assert number(tests[0][1]) == pytest.approx(means[1] - means[6], abs=0.005)
    assert number(tests[0][3]) == pytest.approx(means[1] - means[4], abs=0.005)
    assert tests[1][3:] == tests[2][1:3] * 2 == ["–"] * 4


def test_provenance_and_texts_of_unknown_content(tmp_path: Path) -> None:
    write_all(tmp_path)
    change_json(tmp_path / "metrics/runs/4.json", lambda runs: runs.update(device="a | b\nc", git_dirty=True))
    without = {"git_commit": None, "git_dirty": None, "git_problem": "git: no | repository"}
    change_json(tmp_path / "metrics/runs/6.json", lambda runs: runs.update(without))
    found = texts(reload(tmp_path, (1, 4, 6)))
    rows = next(rows for header, rows in tables(found[1]).items() if header.startswith("| models | device"))
    assert rows[0][1:] == ["NVIDIA L4", "fp16", "2.11.0", "0123456789ab", "abababababab"]
    assert (rows[1][1], rows[1][4]) == ("a \\| b c", "0123456789ab with changes")
    assert rows[2][4] == "unknown (git: no \\| repository)"
    assert "different devices" in found[0]


def test_part_two(tmp_path: Path) -> None:
    """Everything that its files allow, and the answer by the rule."""
    study(tmp_path, {3: 19.5}, epochs=150)
    write_part_two(tmp_path)
    found = texts(reload(tmp_path, planned=ALL))
    for title in PART_TWO:
        assert title in found[0], title
    assert "So far depths 1, 4, 6 were searched" in found[0].split("## The depths")[0]
    every, more = (tables(text) for text in found[:2])
    depths = next(rows for header, rows in every.items() if "| gain |" in header)
    assert [number(cell) for cell in depths[3][2:6]] == pytest.approx([19.9, 19.2, 0.7, 18.2])
    assert depths[3][6] == "× 2, dropout 0.3, residual, He, linear"
    assert depths[1][3:] == ["–"] * 4, "depth 2 was not tuned"
    assert "Winners exchanged" not in found[0]
    tested = next(rows for header, rows in every.items() if header.startswith("| layers | tuned PPL minus"))
    assert [(row[0], number(row[1]), row[4]) for row in tested] == [("1", 0.2, "**worse**"), ("6", 0.01, "nothing")]
    within = next(rows for header, rows in more.items() if header.startswith("| layers | best validation PPL within"))
    assert [number(row[1]) for row in within] == pytest.approx([19.4, 2 * 19.2, 2.5 * 19.21], rel=1e-3), (
        "4, 2 and 1 epochs"
    )
    lstm = next(rows for header, rows in every.items() if header.startswith("| hidden size | parameters"))
    assert (lstm[0][0], number(lstm[0][2]), number(lstm[0][4])) == ("396", 19.6, 0.4)
    assert (lstm[0][-1], within[1][-1]) == ("**worse**", "worse by more than 0.05")
    both = next(rows for header, rows in every.items() if "equal parameters: PPL" in header)
    assert [row[2] for row in both] == ["–", "best", "worse"]
    assert [row[4] for row in both] == ["best", "**worse**", "**worse**"]
    equal = next(rows for header, rows in more.items() if "| hidden size | parameters" in header)
    assert (equal[0][5:], number(equal[1][5]), equal[1][-1]) == (["–"] * 4, 0.05, "worse")
    summed, changes = (next(rows for h, rows in where.items() if h.startswith("| change")) for where in (every, more))
    assert [row[6] for row in changes] == ["better by more than 0.05"] * 2, "by 0.1 the less: t = 2.5, p = 0.037"
    assert [row[2:] for row in summed] == [["6", "–", "–"]] * 2
    assert [number(row[1]) for row in summed] == pytest.approx([-0.4, -0.1])
    speed = next(rows for header, rows in every.items() if header.startswith("| target | model"))
    assert [row[:3] for row in speed] == [
        ["20.50", "notebook’s recipe, soonest", "1"],
        ["20.50", "tuned, soonest", "1"],
        ["20.50", "tuned, best", "4"],
        ["20.50", "LSTM, soonest (396)", "1"],
        ["19.64", "notebook’s recipe, soonest", "3"],
        ["19.64", "tuned, soonest", "1"],
        ["19.64", "tuned, best", "4"],
        ["19.64", "LSTM, soonest (396)", "1"],
    ]
    search = next(rows for header, rows in tables(found[1]).items() if header.startswith("| search | trials"))
    assert [row[:4] for row in search] == [
        [name, "20", "1", "1"] for name in ("depth 1", "depth 4", "depth 6", "LSTM 396")
    ]
    finalists = [[one.rpartition(": ")[2] for one in row[4].split(";")] for row in search]
    assert finalists[1] == ["19.20", "–"], "of the second a seed diverged"
    claims = next(rows for header, rows in every.items() if header.startswith("| claim"))
    assert len(claims) == 7
    assert len(found[0].split()) <= 3000


def test_models_that_trained_to_their_last_epoch(tmp_path: Path) -> None:
    study(tmp_path)
    write_part_two(tmp_path)

    def stop(details: dict[str, Any]) -> None:
        for seed in details["runs"][0]["seeds"][:3]:
            seed["stopped_early"] = True

    change_json(tmp_path / "metrics/tuned/4.json", stop)
    assert unfinished(reload(tmp_path, planned=ALL).tuned.values()) == 27


@pytest.mark.parametrize(
    ("mean", "shown"),
    [
        (19.22, "None is shown to beat depth 4 with its own"),
        (19.0, "Shown to beat depth 4 with its own: 3"),
        (19.4, "Each is shown to be worse than depth 4 with its own"),
    ],
)
def test_winners_that_were_exchanged(tmp_path: Path, mean: float, shown: str) -> None:
    """Recipes that won at other depths, and none that won at their own or nowhere."""
    study(tmp_path, {3: 19.5}, epochs=150)
    write_part_two(tmp_path)
    write_tuned(tmp_path, 4, 19.2, dropout=0.1, initialisation="normal", schedule="constant")
    write_recipe(tmp_path, "deep-4", 4, 19.3, **RECIPE)
    write_recipe(tmp_path, "deep-3", 3, mean, **RECIPE)
    write_recipe(tmp_path, "deep-1", 1, 19.4, **RECIPE)
    write_recipe(tmp_path, "plain-6", 6, 19.3, learning_rate_factor=2, residual=True)
    planned = plan((1, 4, 6), recipes=("deep-4", "deep-3", "deep-1", "plain-6"))
    number = r" ± [\d.]+"
    at_three, at_four = (rf"{value:.2f}{number} \(depth {depth}\)" for value, depth in ((mean, 3), (19.3, 4)))
    ends = [at_three, at_four] if mean < 19.3 else [at_four, at_three]
    both = rf"the recipe of depths 1 and 6 gives {' to '.join(ends)} at depths 3, 4"
    exchanged = rf"{both}; that of depth 4 gives 19\.30{number} at depth 6\.\n{shown}\."
    assert re.search(exchanged, texts(reload(tmp_path, planned=planned))[0])


def test_depth_alone_is_not_blamed_where_its_recipe_does_the_same(committed: Study) -> None:
    """The words rest on two layers that overfit with the recipe of depths 3 and 4, and the appendix has the numbers."""
    sentence = "So do 2 layers with the recipe of depths 3 and 4: the cause need not be depth."
    report_text, appendix, *_ = texts(committed)
    assert sentence in report_text
    one = next(group for group in committed.changed if group.name == "deep-2")
    rows = next(rows for header, rows in tables(appendix).items() if header.startswith("| layers | chosen at"))
    row = next(row for row in rows if row[:2] == ["2", "3, 4"])
    best = committed.tuned[2]
    losses = [one.mean(name) - best.mean(name) for name in (TRAIN_LOSS, GAP)]
    assert [number(cell) for cell in row[2:4]] == pytest.approx(
        [one.mean("val_ppl"), one.mean("val_ppl") - best.mean("val_ppl")], abs=0.0051
    )
    assert [number(cell) for cell in row[7:]] == pytest.approx(losses, abs=0.00051)
    fits_worse = replace(one, seeds=one.seeds.assign(**{TRAIN_LOSS: one.seeds[TRAIN_LOSS] + 0.1}))
    others = [group for group in committed.changed if group is not one]
    assert sentence not in texts(replace(committed, changed=[*others, fits_worse]))[0]


def test_families_are_changes_of_one_thing(tmp_path: Path) -> None:
    """A line of several at once would leave out the depth that has them as its own."""
    study(tmp_path, {3: 19.5}, epochs=150)
    for depth in (3, 4, 5):
        write_recipe(tmp_path, f"residual-{depth}", depth, 19.5, residual=True)
        write_recipe(tmp_path, f"both-{depth}", depth, 19.5, residual=True, dropout=0.3)
    names = [f"{name}-{depth}" for name in ("residual", "both") for depth in (3, 4, 5)]
    assert list(families(reload(tmp_path, planned=plan((), recipes=names)).changed)) == ["residual connections"]


@pytest.mark.parametrize(("mean", "missed"), [(19.0, True), (19.19, False)])
def test_a_winner_that_the_search_of_another_depth_missed(tmp_path: Path, mean: float, missed: bool) -> None:
    """Of depth 6, which has its own recipe; depth 3 has none that it could beat."""
    study(tmp_path, {3: 19.5}, epochs=150)
    write_part_two(tmp_path)
    write_tuned(tmp_path, 4, 18.9, dropout=0.1, initialisation="normal", schedule="constant")
    for depth in (3, 6):
        changes = {"learning_rate_factor": 2, "residual": True}
        write_recipe(tmp_path, f"plain-{depth}", depth, mean, **changes)
    planned = plan((1, 4, 6), recipes=("plain-3", "plain-6"))
    report = texts(reload(tmp_path, planned=planned))[0]
    assert ("Shown to beat its own depth’s recipe, so that the search missed it there: 6." in report) == missed


def test_the_answer_follows_the_rule(tmp_path: Path) -> None:
    """A set of which the shallowest is enough, or one that is the best."""
    study(tmp_path, {3: 19.5}, epochs=150)
    for depth in PERPLEXITIES:
        write_tuned(tmp_path, depth, {4: 19.21, 6: 19.2}.get(depth, 19.4))
    planned = plan(tuned=tuple(PERPLEXITIES))
    several = texts(reload(tmp_path, planned=planned))[2].split("\n\n")[0]
    assert "**depth 4**" in several
    assert "**19.20 ± 0.04**" in several
    write_tuned(tmp_path, 4, 19.5)
    alone = texts(reload(tmp_path, planned=planned))[2].split("\n\n")[0]
    assert "**depth 6 is best**" in alone
    assert "left out" not in several + alone
    assert max(len(several.split()), len(alone.split())) <= 120
    other = texts(reload(tmp_path, [1, 4, 5, 6], planned=plan(tuned=(4,))))[2].split("\n\n")[0]
    assert "left out here" in other, "not the study’s depths"


@pytest.mark.parametrize(("next_best", "told"), [(19.36, True), (19.34, False)])
def test_whether_the_lead_rests_on_one_recipe(tmp_path: Path, next_best: float, told: bool) -> None:
    """Depth 4 leads by 0.2: its next best recipe would by less than 0.05, or by more."""
    study(tmp_path, {3: 19.5})
    for depth, mean in ((4, 19.2), (6, 19.4)):
        write_tuned(tmp_path, depth, mean)
    found = tmp_path / "metrics/tuning/4.json"
    change_json(found, lambda file: file["tuning"][0]["finalists"][1].update(val_ppl=next_best))
    report_text, _, readme = texts(reload(tmp_path, planned=plan((4, 6))))
    for text in (report_text, readme):
        assert (f"Its lead rests on one recipe; its next best reaches {next_best:.2f}." in text) == told


def test_depth_6_as_the_notebook_trained_it(tmp_path: Path) -> None:
    """Five seeds of standard deviation 0.0316: one more falls within 2.776 · 0.0316 · √1.2 = 0.0962 of the mean."""
    write_all(tmp_path)
    planned = plan(recipes=("parts", "stretch", "other"))
    write_recipe(tmp_path, "stretch", 6, 20.7, epochs=200)
    write_recipe(tmp_path, "other", 6, 20.0, epochs=200, residual=True)
    for mean, inside in ((20.51, True), (20.5, False), (20.69, True)):
        write_recipe(tmp_path, "parts", 6, mean, continued=[50, 150])
        loaded = reload(tmp_path, (1, 4, 6), planned)
        found = continued(loaded)
        assert found is not None
        assert (found.place == 0, found.more.half_width) == (inside, pytest.approx(0.0962, abs=1e-4))
        raw = stats.ttest_ind(found.parts.values("val_ppl"), [20.66, 20.68, 20.7, 20.72, 20.74], equal_var=False)
        assert found.difference.mean == pytest.approx(mean - 20.7)
        assert found.difference.adjusted_p == pytest.approx(raw.pvalue), "a test of its own: uncorrected"
    row = next(rows for header, rows in tables(texts(loaded)[1]).items() if header.startswith("| in two parts"))[0]
    assert [number(cell) for cell in row[:3]] == [20.69, 20.7, -0.01]
    assert row[4:] == ["20.59 to 20.79", "20.60", "yes"]
    for alone in ("parts", "stretch"):
        assert continued(reload(tmp_path, (1, 4, 6), plan(recipes=(alone, "other")))) is None


def test_links_and_anchors(committed: Study) -> None:
    """From metrics/, where the two are written, to each other and to files that are there or that the stage writes."""
    found = dict(zip(("report.md", "appendix.md"), texts(committed), strict=False))
    for text in found.values():
        for target in re.findall(r"(?<!!)\[[^]]*\]\(([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            if anchor:
                titles = re.findall(r"^## (.*)$", found[name], re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            elif name not in found:
                assert name == "results.csv" or (ROOT / "metrics" / name).exists(), name


def test_one_more_seed(tmp_path: Path) -> None:
    """Five seeds of standard deviation 0.0316: one more falls within 2.776 · 0.0316 · √1.2 = 0.096 of the mean."""
    found = study(tmp_path, {5: 20.5, 6: 20.69, 7: 21.9})
    assert [given(found, depth) for depth in (5, 6, 7)] == [0, 0, -1]
    assert given(study(tmp_path, {6: 20.45}), 6) == 1
    interval = prediction_interval(study(tmp_path, {5: 20.5}).depths[5].lowest(150))
    assert (interval.mean, interval.half_width) == pytest.approx((20.5, 2.776445 * 0.02 * 2.5**0.5 * 1.2**0.5))
    assert given(study(tmp_path, seeds=1), 5) is None
    early = study(tmp_path, {1: 20.0}, epochs=80).depths[1]
    assert min(early.lowest(75)) > max(early.lowest(150)), "as far as the published run went"


def test_small_helpers(tmp_path: Path) -> None:
    found = study(tmp_path, epochs=40)
    four = found.depths[4]
    assert late_gain(four) == pytest.approx(4.1109, abs=1e-4), "ln 61: from 61 times its end"
    assert late_gain(study(tmp_path, epochs=30).depths[4]) is None
    assert at_epoch(four, 40, "val_ppl") == pytest.approx([19.86, 19.90, 19.92, 19.94]), "seed 1 has stopped"
