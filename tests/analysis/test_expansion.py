"""Grown contexts: files refused, differences against scipy, and the sentences on both sides."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from scipy import stats

from newllm.analysis.curve_figures import draw_grown_contexts
from newllm.analysis.expansion import (
    PATTERNS,
    Grown,
    against_base,
    against_longer,
    against_scratch,
    load_grown,
    of_pattern,
)
from newllm.analysis.grown_section import grown_section
from newllm.analysis.results import load_results
from newllm.errors import UserError
from tests.analysis.metrics_files import final_perplexity, write_all, write_expand

GAINS = {"freeze": 0.1, "finetune": 0.5, "longer": 0.2, "scratch": 0.52}


def load(root: Path) -> list[Grown]:
    results = load_results((1, 4, 6), root / "metrics", root / "plots/curves")
    return load_grown(results, root / "metrics/expand", root / "plots/expand")


def write(root: Path, depths: tuple[int, ...] = (1, 4), **gains: float) -> None:
    for depth in depths:
        for pattern, gain in (GAINS | gains).items():
            write_expand(root, depth, pattern, gain, noise=0.01 * (1 + depth * GAINS[pattern]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path)
    write(tmp_path)
    return tmp_path


def test_reads_what_there_is(root: Path) -> None:
    write_expand(root, 6, "freeze", 0.1)
    (root / "metrics/expand/4-joint.json").write_text("rubbish")
    (root / "metrics/expand/4-freeze.json").unlink()
    found = load(root)
    assert [(one.num_layers, one.pattern) for one in found] == [
        (1, "freeze"), (1, "finetune"), (1, "longer"), (1, "scratch"), (4, "finetune"), (4, "longer"), (4, "scratch")
    ]  # fmt: skip
    assert of_pattern(found, 4, "freeze") is None
    assert (found[0].run.context_dim, found[0].num_params) == (512, 1_951_208)
    assert len(found[0].curve) == 15
    assert load_grown([], root / "nowhere", root / "nowhere") == []


def test_differences_against_scipy(root: Path) -> None:
    grown = load(root)
    values = {(one.num_layers, one.pattern): one.over_seeds("val_ppl") for one in grown}
    base = {depth: [final_perplexity(depth, seed) for seed in range(5)] for depth in (1, 4)}
    found = against_base(grown)
    assert list(found) == [(d, p) for d in (1, 4) for p in ("freeze", "finetune", "longer", "scratch")]
    for (depth, pattern), change in found.items():
        alone, both = values[depth, pattern], base[depth]
        test = stats.ttest_ind(alone, both, equal_var=False) if pattern == "scratch" else stats.ttest_rel(alone, both)
        interval = test.confidence_interval()
        assert (change.difference.low, change.difference.high) == pytest.approx((interval.low, interval.high))
    paired = against_longer(grown)
    assert list(paired) == [(d, p) for d in (1, 4) for p in ("freeze", "finetune")]
    raw = {key: stats.ttest_rel(values[key], values[key[0], "longer"]).pvalue for key in paired}
    largest = 0.0
    for rank, key in enumerate(sorted(raw, key=lambda key: raw[key])):
        largest = max(largest, (4 - rank) * raw[key])
        assert paired[key].adjusted_p == pytest.approx(largest, rel=1e-4)
    welch = against_scratch(grown)
    for key, change in welch.items():
        test = stats.ttest_ind(values[key], values[key[0], "scratch"], equal_var=False)
        interval = test.confidence_interval()
        assert (change.difference.low, change.difference.high) == pytest.approx((interval.low, interval.high))
        assert change.adjusted_p is not None
        assert change.adjusted_p >= test.pvalue


def test_one_seed(tmp_path: Path) -> None:
    write_all(tmp_path, seeds=1)
    write(tmp_path)
    grown = load(tmp_path)
    assert {change.adjusted_p for change in against_base(grown).values()} == {None}
    section = grown_section(grown)
    assert "±" not in section
    assert "So growing is not shown to gain anything that training longer does not." in section


def test_section(root: Path) -> None:
    section = grown_section(load(root))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[2:7]] == [
        ["1", "base"], ["1", "`freeze`"], ["1", "`finetune`"], ["1", "`longer`"], ["1", "`scratch`"]
    ]  # fmt: skip
    finetune = rows[4]
    base = sum(final_perplexity(1, seed) for seed in range(5)) / 5
    assert finetune[2:4] == ["512", "1,951,208"]
    assert float(finetune[4]) == pytest.approx(float(finetune[5]), abs=2e-4)
    assert finetune[6].startswith(f"{base - 0.5:.2f} ± ")
    assert finetune[7].startswith(f"{base - 1.5:.2f} ± ")
    assert finetune[8].startswith("−0.50 ± 0.0")
    assert finetune[9].startswith("−0.30")
    assert finetune[9].endswith("(p < 0.0001)")
    assert finetune[10].startswith("+0.02 ± ")
    assert rows[6][8].startswith("−0.52 ± 0.0")
    assert rows[6][9:] == ["–", "–", "3", "3"]
    assert "\n| ---: | :--- | ---: |" in section, "patterns to the left, numbers to the right"
    assert "**Depth 1.** Before the first step a grown model is within 1e-05 nats of its base." in section
    assert (
        "`longer`: better than the base. `scratch`: better than the base. `freeze`: better than the base; worse than "
        "`longer` and `scratch`." in section
    )
    assert "`finetune`: better than the base and `longer`; no difference shown from `scratch`." in section
    assert "So growing by `finetune` gains more than training longer does." in section
    assert "Trained with: NVIDIA L4, torch 2.11.0, commit 0123456789ab." in section


def test_growth_that_gains_nothing(root: Path) -> None:
    write(root, finetune=0.2)
    section = grown_section(load(root))
    assert "gains more" not in section
    assert "ends better" not in section
    assert "So growing is not shown to gain anything that training longer does not." in section
    write(root, freeze=0.6, finetune=0.2)
    assert "So growing by `freeze` gains more" in grown_section(load(root))


@pytest.mark.parametrize(
    ("gain_of_longer", "what_it_did"),
    [(-0.2, "`longer` ended worse than that base."), (0.0, "`longer` is not shown to gain anything.")],
)
def test_better_than_a_control_that_gained_nothing_is_no_gain(
    root: Path, gain_of_longer: float, what_it_did: str
) -> None:
    write(root, freeze=0.0, finetune=-0.4, longer=gain_of_longer)
    # so little scatter that 0.02 is shown between the two, while neither is shown to differ from the base
    if gain_of_longer == 0:
        for depth in (1, 4):
            write_expand(root, depth, "freeze", 0.02, noise=0.02)
            write_expand(root, depth, "longer", 0.0, noise=0.02)
    section = grown_section(load(root))
    assert "`freeze`: no difference shown from the base; better than `longer`" in section
    expected = "`freeze` ends better than `longer`, but is not shown to be better than the base that it started from."
    assert f"{expected} {what_it_did} So growing is not shown to gain anything.\n" in section
    assert "gains more" not in section


def test_lengths_are_those_of_the_files(root: Path) -> None:
    assert "Each training ran for all 3 epochs." in grown_section(load(root))
    for pattern, epochs in (("freeze", 4), ("longer", 7)):
        write_expand(root, 4, pattern, 0.1, epochs=epochs)
        stop_early(root / f"metrics/expand/4-{pattern}.json")
    section = grown_section(load(root))
    assert "early stopping ended 10 of 40 trainings, after 4–7 epochs; the others ran for all 3." in section
    (row,) = [line for line in section.splitlines() if line.startswith("| 4 | `longer` ")]
    assert row.endswith("| 6–7 | 7 |")


def stop_early(path: Path) -> None:
    document = json.loads(path.read_text())
    for seed in document["details"][0]["runs"][0]["seeds"]:
        seed["stopped_early"] = True
        seed["best_epoch"] -= seed["seed"] % 2
    path.write_text(json.dumps(document))


def test_provenance_that_is_not_recorded(root: Path) -> None:
    path = root / "metrics/expand/4-freeze.json"
    document = json.loads(path.read_text())
    for name in ("torch_version", "git_commit", "git_dirty"):
        del document["details"][0]["runs"][0][name]
    path.write_text(json.dumps(document))
    assert grown_section(load(root)).endswith(
        "commit 0123456789ab; NVIDIA L4, torch of unknown version, commit unknown."
    )
    document["details"][0]["runs"][0]["git_problem"] = "git: no repository"
    path.write_text(json.dumps(document))
    assert grown_section(load(root)).endswith("commit unknown (git: no repository).")


def test_without_the_control(root: Path) -> None:
    for depth in (1, 4):
        (root / f"metrics/expand/{depth}-longer.json").unlink()
    section = grown_section(load(root))
    assert "Without `longer` there is no telling" in section
    assert "better than `longer`" not in section


def test_picture_is_of_changes_of_the_same_seeds(root: Path) -> None:
    """From the start on, against each seed's own base, and no further than the first seed goes."""
    stop_one_earlier(root, "1-finetune")
    grown = load(root)
    figure = Figure()
    draw_grown_contexts(figure, grown)
    lines = {str(line.get_label()): list(map(float, line.get_ydata())) for line in figure.axes[0].lines}
    base = [final_perplexity(1, seed) for seed in range(5)]
    for pattern, epochs in (("finetune", 2), ("longer", 3), ("scratch", 3)):
        one = of_pattern(grown, 1, pattern)
        assert one is not None
        before = [math.exp(seed.start_val_loss) for seed in one.seeds]
        values = [before, *([row.val_ppl for row in one.curve if row.epoch == e] for e in range(1, epochs + 1))]
        assert [len(row) for row in values] == [5] * (epochs + 1)
        assert lines[pattern] == pytest.approx([statistics.fmean(row) - statistics.fmean(base) for row in values])
    assert lines["finetune"][0] == pytest.approx(0, abs=1e-3)
    marks = [dots.get_offsets() for dots in figure.axes[0].collections if isinstance(dots, PathCollection)]
    assert [float(epoch) for epoch, _ in marks[PATTERNS.index("finetune")]] == [3, 3, 2, 3, 3]
    longer = of_pattern(grown, 1, "longer")
    assert longer is not None
    changes = [value - own for value, own in zip(longer.over_seeds("val_ppl"), base, strict=True)]
    assert [float(change) for _, change in marks[PATTERNS.index("longer")]] == pytest.approx(changes)


def stop_one_earlier(root: Path, name: str) -> None:
    """Seed 2's last epoch, its best, falls away; the one before becomes its best."""
    path, curve = root / f"metrics/expand/{name}.json", root / f"plots/expand/{name}.csv"
    lines = [line for line in curve.read_text().splitlines() if not line.startswith("1,2,3,")]
    curve.write_text("\n".join(lines) + "\n")
    document = json.loads(path.read_text())
    document["details"][0]["runs"][0]["seeds"][2].update(best_epoch=2, epochs_run=2, stopped_early=True)
    path.write_text(json.dumps(document))


def seed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["details"][0]["runs"][0]["seeds"][1].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda document: document["details"][0].update(num_layers=1), "found num_layers 1, expected 4"),
    (
        lambda document: document["details"][0]["runs"][0].update(pattern="finetune"),
        "found pattern finetune, expected freeze",
    ),
    (lambda document: document["details"][0]["runs"][0].pop("context_dim"), "runs.0.context_dim is missing"),
    (lambda document: document["details"][0].update(runs=[]), "runs"),
    (lambda document: document["details"][0]["runs"][0]["seeds"].pop(), "found the seeds [0, 1, 2, 3]"),
    (
        lambda document: [part.update(val_ppl=19.0) for part in (document, document["details"][0])],
        "the mean of the seeds",
    ),
    (lambda document: document.update(val_ppl=19.0), "found val_ppl 19.0, but"),
    (lambda document: document.pop("details"), "found None as details, expected a list of one object"),
    (lambda document: document["details"][0].update(new=1), "unknown key new"),
    (seed(base_val_loss=2.5), "seed 1: found base_val_loss 2.5000, but metrics/runs has"),
    (seed(start_val_loss=float("nan")), "start_val_loss"),
    (seed(start_val_loss=800.0), "start_val_loss: found 800.0; expected: input should be less than or equal to 230"),
    (seed(val_ppl=0.5), "val_ppl"),
    (seed(epochs_run=4), "seed 1 has 3 rows up to epoch 3, but"),
]


@pytest.mark.parametrize(("alter", "expected"), BAD)
def test_wrong_value(root: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    path = root / "metrics/expand/4-freeze.json"
    document = json.loads(path.read_text())
    alter(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        load(root)
    message = str(caught.value)
    assert "expand/4-freeze." in message
    assert expected in message
    assert "run `dvc repro expand@4-freeze`" in message


@pytest.mark.parametrize("name", ["metrics/expand/4-freeze.json", "plots/expand/4-freeze.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"a,b\n1,2\n"], ids=repr)
def test_damaged_file(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(UserError, match=r"`dvc repro expand@4-freeze`"):
        load(root)


def test_curve_is_missing(root: Path) -> None:
    (root / "plots/expand/1-scratch.csv").unlink()
    with pytest.raises(UserError, match=r"expand/1-scratch\.csv: no such file; run `dvc repro expand@1-scratch`"):
        load(root)
