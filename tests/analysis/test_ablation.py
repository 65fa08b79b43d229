"""Ablations in the report: which are compared, the effects against scipy, and what they say of claim 6."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from scipy import stats

from newllm.analysis.ablation import Parts, against_best, effects, load_ablations, mismatch
from newllm.analysis.comparisons import Difference
from newllm.analysis.further_figures import draw_ablations
from newllm.analysis.report import write_report
from newllm.analysis.statistics import Estimate
from newllm.analysis.summary import Comparison
from newllm.errors import UserError
from tests.analysis.metrics_files import PARAMETERS, write_diagnostics
from tests.analysis.studies import PERPLEXITIES, more, study

RESIDUAL = {4: 19.9, 6: 20.0, 8: 20.6}
TRAIN_LOSS = 2.8
"""Of the study at every depth, without dropout."""


def experiment(
    means: dict[int, float], share_of: Callable[[int], float | None] = lambda _: 0.9, **switches: Any
) -> dict[str, Any]:
    """Means of perplexity by depth; `share_of` what is won is training loss, the rest gap; None is not measured."""
    changes = switches or {"model.residual": True}
    parameters = {f"{part}.{name}": value for part, values in PARAMETERS.items() for name, value in values.items()}
    depths = []
    for depth, mean in means.items():
        share = share_of(depth)
        won = math.log(PERPLEXITIES.get(depth, mean)) - math.log(mean)
        seeds = [
            {
                "seed": seed,
                "train_loss_without_dropout": None if share is None else TRAIN_LOSS - share * won + 0.001 * (seed % 3),
                "val_loss": math.log(mean + 0.02 * (seed - 2)),
                "val_ppl": mean + 0.02 * (seed - 2),
                "val_accuracy": 0.38,
                "test_ppl": mean - 1,
                "best_epoch": 140 + seed,
                "epochs_run": 150,
                "plateau_epochs": 7 + seed,
            }
            for seed in range(5)
        ]
        depths.append({"num_layers": depth, "seeds": seeds})
    return {
        "name": "residual",
        "command": "dvc exp run --temp --name residual -S model.residual=true evaluate@4 diagnose@4",
        "changes": changes,
        "parameters": {**parameters, **changes},
        "data_sha256": "ab" * 32,
        "device": "NVIDIA L4",
        "git_commit": "ab" * 20,
        "git_dirty": False,
        "depths": depths,
    }


FIT = "most of what is won is training loss, so that it had been lost to fitting too little"
GAP = "most of what is won is gap, so that it had been lost to overfitting"
UNDECIDED = "it is undecided whether more training loss or more gap is won"
UNKNOWN = "training loss without dropout was not measured"


def write(root: Path, *experiments: dict[str, Any]) -> None:
    path = root / "ablations/results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"experiments": experiments}))


def section(root: Path, compared: Comparison) -> str:
    for depth in PERPLEXITIES:
        write_diagnostics(root, depth, lambda _, seed: TRAIN_LOSS + 0.001 * (seed % 3))
    report = write_report(compared, supplements=more(root, compared))
    return report.split("\n## Ablations\n")[1].split("\n## ")[0]


def test_no_rows_no_section(tmp_path: Path) -> None:
    compared = study(tmp_path)
    assert "Ablations" not in write_report(compared, supplements=more(tmp_path, compared))
    write(tmp_path)
    assert "Ablations" not in write_report(compared, supplements=more(tmp_path, compared))


def test_effects_against_scipy(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({**RESIDUAL, 9: 20.0}))
    found = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    assert [effect.depth.num_layers for effect in found] == [4, 6, 8], "9 is not among the study's depths"
    own = {depth: [PERPLEXITIES[depth] + 0.02 * (seed - 2) for seed in range(5)] for depth in RESIDUAL}
    for effect in found:
        depth = effect.depth.num_layers
        interval = stats.ttest_ind(
            [RESIDUAL[depth] + 0.02 * (seed - 2) for seed in range(5)], own[depth], equal_var=False
        ).confidence_interval()
        assert (effect.val_ppl.difference.low, effect.val_ppl.difference.high) == pytest.approx(
            (interval.low, interval.high)
        )
    assert [effect.val_ppl.below for effect in found] == [False, True, True]
    assert not any(effect.val_ppl.above for effect in found)
    assert [effect.parts for effect in found] == [None] * 3, "nothing was measured of the study"


def test_correction_is_over_all_experiments(tmp_path: Path) -> None:
    """One p of 0.037 alone counts as shown; twice the same does not."""
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 20.45}))
    (alone,) = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    assert alone.val_ppl.below
    write(tmp_path, experiment({6: 20.45}), experiment({6: 20.45}, **{"train.warmup_epochs": 10}))
    assert not any(e.val_ppl.below for e in effects(compared, load_ablations(tmp_path / "ablations/results.json")))


def test_section(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL), experiment({6: 20.5, 8: 23.5}, **{"train.warmup_epochs": 10}))
    text = section(tmp_path, compared)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[2:]] == [
        *(["residual connections", depth] for depth in "468"), *(["warm-up over 10 epochs", d] for d in "68")
    ]  # fmt: skip
    assert rows[4][2:7] == ["20.60 ± 0.04", "23.00 ± 0.04", "−2.40 ± 0.05", "< 0.0001", "19.60 ± 0.00"]
    won = math.log(23.0) - math.log(20.6)
    for cell, expected in zip(rows[4][7:10], (won, 0.9 * won, 0.1 * won), strict=True):
        assert cell.startswith(f"−{expected:.3f}"), "validation loss, training loss and gap"
    assert rows[4][10:] == ["142.0", "149.8", "9.0", "148.8"]
    assert "Residual connections: better at depths 6 and 8, no difference shown at depth 4." in text
    assert "Warm-up over 10 epochs: worse at depth 8, no difference shown at depth 6." in text
    assert f"Residual connections: at depths 6 and 8 {FIT}." in text
    assert "residual: `dvc exp run --temp --name residual -S model.residual=true evaluate@4" in text
    assert "`, NVIDIA L4, commit abababababab." in text


def test_a_change_spread_over_experiments_is_one(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(
        tmp_path,
        experiment({8: 20.6, 4: 19.9}),
        experiment({6: 20.5}, **{"train.warmup_epochs": 10}),
        experiment({6: 20.0, 2: 20.0}),
    )
    found = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    assert [(effect.ablation.words[:2], effect.depth.num_layers) for effect in found] == [
        ("re", 2), ("re", 4), ("re", 6), ("re", 8), ("wa", 6)
    ]  # fmt: skip
    assert section(tmp_path, compared).count("Residual connections: better at depths 2, 6 and 8") == 1


def test_beside_the_best_depth(tmp_path: Path) -> None:
    """The study's best has 4 layers and 19.90 ± 0.04; what counts is being shown to be better, whatever the depth."""
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 19.89, 8: 20.6}))
    found = effects(compared, load_ablations(tmp_path / "ablations/results.json"))
    best = [PERPLEXITIES[4] + 0.02 * (seed - 2) for seed in range(5)]
    p_values = [
        stats.ttest_ind([mean + 0.02 * (seed - 2) for seed in range(5)], best, equal_var=False).pvalue
        for mean in (19.89, 20.6)
    ]
    assert [pair.adjusted_p for pair in against_best(compared, found)] == pytest.approx([p_values[0], 2 * p_values[1]])
    closest = "the closest: 6 layers with residual connections (−0.01 ± 0.05, Holm-corrected p = 0.63)"
    assert f"No run with a change is shown to be better than the study’s 4 layers; {closest}." in section(
        tmp_path, compared
    )
    write(tmp_path, experiment({6: 19.5, 8: 19.89}))
    text = section(tmp_path, compared)
    assert "Better than the study’s 4 layers: 6 layers with residual connections (−0.40 ± 0.05)." in text


def opening(root: Path, compared: Comparison) -> str:
    section(root, compared)  # writes the training losses too
    return write_report(compared, supplements=more(root, compared)).split("\n## ")[0]


def test_the_opening_names_the_cause(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL), experiment({6: 20.5, 8: 23.5}, **{"train.warmup_epochs": 10}))
    assert opening(tmp_path, compared).rstrip().endswith(
        f"With residual connections depths 6 and 8 reach 20.00 to 20.60 instead of 20.50 to 23.00; at depths 6 and 8 "
        f"{FIT}. No run with a change is shown to be better than the study’s 4 layers; the closest: 4 layers with "
        "residual connections (+0.00 ± 0.05, Holm-corrected p = 1). No gain is shown by warm-up over 10 epochs at "
        "depths 6 and 8."
    )  # fmt: skip
    write(tmp_path, experiment({6: 20.0}, lambda _: 0.1))
    assert f"depth 6 reaches 20.00 instead of 20.50; at depth 6 {GAP}." in opening(tmp_path, compared)
    write(tmp_path, experiment({6: 20.0}, lambda _: 0.5))
    assert "depth 6 reaches 20.00 instead of 20.50. No run" in opening(tmp_path, compared), "undecided why"


def test_the_opening_where_nothing_helps(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 20.5, 8: 23.0}))
    text = opening(tmp_path, compared)
    assert text.rstrip().endswith("\n\nNo gain is shown by residual connections at depths 6 and 8.")
    write(tmp_path, experiment({1: 19.5}))
    assert "residual" not in opening(tmp_path, compared), "1 is not deeper than the best"


def test_picture(tmp_path: Path) -> None:
    """Every depth of the study and of each change at its mean; a change beside the depth, so that equal means show."""
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL), experiment({6: 20.5}, **{"train.warmup_epochs": 10}))
    figure = Figure()
    draw_ablations(figure, compared, more(tmp_path, compared))
    drawn = {bars.get_label(): bars.lines[0].get_xydata() for bars in figure.axes[0].containers}
    assert list(drawn) == ["as in the study", "residual connections", "warm-up over 10 epochs"]
    for points, means in zip(drawn.values(), (PERPLEXITIES, RESIDUAL, {6: 20.5}), strict=True):
        assert [round(x) for x, _ in points] == list(means)
        assert [y for _, y in points] == pytest.approx(list(means.values()))
    positions = [points[list(means).index(6)][0] for points, means in zip(
        drawn.values(), (PERPLEXITIES, RESIDUAL, {6: 20.5}), strict=True)]  # fmt: skip
    assert len(set(positions)) == 3
    assert "(../plots/ablations.png)" in section(tmp_path, compared)


@pytest.mark.parametrize(
    ("share_of", "expected"),
    [
        (lambda _: 1.2, f"at depths 6 and 8 {FIT}."),
        (lambda _: 0.27, f"at depths 6 and 8 {GAP}."),  # training loss falls, but most of what is won is gap
        (lambda _: -0.5, f"at depths 6 and 8 {GAP}."),
        (lambda _: 0.5, f"at depths 6 and 8 {UNDECIDED}."),
        (lambda depth: 0.9 if depth == 6 else 0.1, f"at depth 6 {FIT}; at depth 8 {GAP}."),
        (lambda depth: 0.5 if depth == 6 else 0.9, f"at depth 6 {UNDECIDED}; at depth 8 {FIT}."),
        (lambda depth: None if depth == 6 else 0.9, f"at depth 6 {UNKNOWN}; at depth 8 {FIT}."),
    ],
)
def test_claim_six_is_judged_depth_by_depth(
    tmp_path: Path, share_of: Callable[[int], float | None], expected: str
) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment(RESIDUAL, share_of))
    text = section(tmp_path, compared)
    assert f"Residual connections: {expected}" in text
    assert ("not measured | not measured" in text) is (UNKNOWN in expected)


@pytest.mark.parametrize(
    ("train_loss", "gap", "balance", "expected"),
    [
        (-0.2, 0.0, -0.2, (True, False)),
        (0.0, -0.2, 0.2, (False, True)),
        (-0.2, -0.2, 0.0, (False, False)),
        (0.0, 0.0, -0.2, (False, False)),  # more than the gap, but neither is shown to fall
        (0.0, 0.0, 0.2, (False, False)),
        (0.2, 0.2, 0.2, (False, False)),
    ],
)
def test_both_parts_of_the_rule_are_needed(
    train_loss: float, gap: float, balance: float, expected: tuple[bool, bool]
) -> None:
    """Differences of 0.2 are shown here, of 0 are not."""
    parts = Parts(*(Difference(Estimate(mean, 0.1), 0.0, 0.01 if mean else 0.5) for mean in (train_loss, gap, balance)))
    assert (parts.is_fit, parts.is_gap) == expected


def test_parts_against_scipy(tmp_path: Path) -> None:
    """Of each part all depths are a family."""
    compared = study(tmp_path)
    write(tmp_path, experiment({4: 19.89, 6: 20.49, 8: 22.98}, lambda _: 0.6))
    section(tmp_path, compared)
    found = effects(compared, load_ablations(tmp_path / "ablations/results.json"), more(tmp_path, compared).overfitting)
    figures = {
        "train_loss": lambda train, val: train,
        "gap": lambda train, val: val - train,
        "balance": lambda train, val: 2 * train - val,
    }
    own = {result.num_layers: result.over_seeds("val_loss") for result in compared.results}
    train = [TRAIN_LOSS + 0.001 * (seed % 3) for seed in range(5)]
    for name, figure in figures.items():
        tests = [
            stats.ttest_ind(
                [figure(seed.train_loss_without_dropout, seed.val_loss) for seed in effect.depth.seeds],
                [figure(*losses) for losses in zip(train, own[effect.depth.num_layers], strict=True)],
                equal_var=False,
            )
            for effect in found
        ]
        largest = 0.0
        for rank, index in enumerate(sorted(range(3), key=lambda index: tests[index].pvalue)):
            largest = min(max(largest, (3 - rank) * tests[index].pvalue), 1)
            part = getattr(found[index].parts, name)
            assert part.adjusted_p == pytest.approx(largest), name
            interval = tests[index].confidence_interval()
            assert (part.difference.low, part.difference.high) == pytest.approx((interval.low, interval.high)), name


def test_claim_six_where_nothing_follows(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({4: 19.5, 6: 20.5, 8: 23.0}))
    assert "no change is shown to help" in section(tmp_path, compared)
    write(tmp_path, experiment({4: 19.5}))
    assert "None of these depths is shown to be worse than the best" in section(tmp_path, compared)


def test_experiments_of_another_study_are_left_out(tmp_path: Path) -> None:
    compared = study(tmp_path)
    other = experiment(RESIDUAL)
    other["parameters"]["model.dropout"] = 0.2
    for change, reason in (
        (other, "model.dropout 0.2 instead of 0.1"),
        ({**experiment(RESIDUAL), "data_sha256": "cd" * 32}, "trained on other windows"),
    ):
        write(tmp_path, change)
        (ablation,) = load_ablations(tmp_path / "ablations/results.json")
        assert mismatch(compared, ablation) == reason
        text = section(tmp_path, compared)
        assert f"Left out, not of this study: residual ({reason})." in text
        assert "| " not in text
        assert "ablations.png" not in text


def test_when_the_study_itself_has_the_switch(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "model": {**PARAMETERS["model"], "residual": True}}
    compared = study(tmp_path, parameters=parameters)
    assert compared.training_deviations == ("residual connections True instead of False",)
    write(tmp_path, experiment(RESIDUAL))
    assert "(model.residual is the same here)" in section(tmp_path, compared)
    off = {**PARAMETERS, "model": {**PARAMETERS["model"], "residual": False}}
    compared = study(tmp_path, parameters=off)
    assert compared.training_deviations == ()
    assert "Left out" not in section(tmp_path, compared)


def first(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda one: one["depths"][0]["seeds"][0].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda one: one.update(git_commit=""), "experiments.0.git_commit"),
    (lambda one: one.update(changes={}), "experiments.0.changes"),
    (lambda one: one.update(depths=[]), "experiments.0.depths"),
    (lambda one: one.pop("command"), "experiments.0.command is missing"),
    (lambda one: one.update(extra=1), "unknown key experiments.0.extra"),
    (first(seed=3), "a seed is listed twice"),
    (first(val_ppl=float("nan")), "val_ppl"),
    (first(val_ppl="20"), "val_ppl"),
    (first(plateau_epochs=-1), "plateau_epochs"),
]


@pytest.mark.parametrize(("alter", "expected"), BAD)
def test_wrong_value(tmp_path: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    one = experiment(RESIDUAL)
    alter(one)
    write(tmp_path, one)
    path = tmp_path / "ablations/results.json"
    with pytest.raises(UserError) as caught:
        load_ablations(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "ablations/README.md" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000], ids=repr)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"results\.json: .*collect the experiments again"):
        load_ablations(path)
