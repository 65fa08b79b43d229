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
from newllm.analysis.ablation_words import FIT, FIT_ALONE, GAP, GAP_ALONE
from newllm.analysis.comparisons import Difference
from newllm.analysis.further_figures import draw_ablations
from newllm.analysis.report import write_report
from newllm.analysis.summary import Comparison
from newllm.errors import UserError
from newllm.measurement.intervals import Estimate
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
                "stopped_early": seed < 2,
                "plateau_epochs": 7 + seed,
            }
            for seed in range(5)
        ]
        depths.append({"num_layers": depth, "initial_norms": [0.5, 2.5, 0.1], "seeds": seeds})
    return {
        "name": "residual",
        "command": "dvc exp run --temp --name residual -S model.residual=true evaluate@4 diagnose@4",
        "changes": changes,
        "parameters": {**parameters, **changes},
        "data_sha256": "ab" * 32,
        "device": "NVIDIA L4",
        "git_commits": ["ab" * 20],
        "git_dirty": False,
        "depths": depths,
    }


UNDECIDED = "it is undecided whether more training loss or more gap is won"
UNKNOWN = "training loss without dropout was not measured"


def write(root: Path, *experiments: dict[str, Any]) -> None:
    path = root / "ablations/results.json"
    path.parent.mkdir(exist_ok=True)
    named = [{**one, "name": f"{one['name']}{index or ''}"} for index, one in enumerate(experiments)]
    path.write_text(json.dumps({"experiments": named}))


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
    assert [row[:2] for row in rows[2:7]] == [
        *(["residual connections", depth] for depth in "468"), *(["warm-up over 10 epochs", d] for d in "68")
    ]  # fmt: skip
    assert rows[4][2:] == [
        "20.60 ± 0.04", "23.00 ± 0.04", "−2.40 ± 0.05", "< 0.0001", "19.60 ± 0.00", "22.00 ± 0.04"
    ]  # fmt: skip
    won = math.log(23.0) - math.log(20.6)
    losses = rows[7 + 4]
    expected = {2: won, 3: 0.9 * won, 5: 0.1 * won, 7: 0.8 * won}
    for column, value in expected.items():
        assert losses[column].startswith(f"−{value:.3f}"), (
            "validation loss, training loss, gap, the latter's difference"
        )
    epochs = ["142.0 / 150.0 (149.8 / 149.8)", "2 of 5 (1 of 5)", "9.0 (148.8)", "2.5 (0.008)"]
    assert rows[7 + 7 + 4][2:] == epochs, "of the study in brackets"
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
    assert (
        "No changed depth is shown to be better than the study’s 4 layers; the closest is 6 layers with "
        "residual connections (−0.01 ± 0.05, Holm-corrected p = 0.63; on the test split −0.01 ± 0.04)."
    ) in section(tmp_path, compared)
    write(tmp_path, experiment({6: 20.1, 8: 20.6}))
    assert (
        "Every changed depth is shown to be worse than the study’s 4 layers (Holm-corrected p < 0.0001); the "
        "closest, 6 layers with residual connections, by 0.20 ± 0.05 (on the test split by 0.20 ± 0.04)."
    ) in section(tmp_path, compared)
    wide = experiment({6: 20.1, 8: 20.6})
    for number, seed in enumerate(wide["depths"][1]["seeds"]):
        seed["val_ppl"] = 20.6 + 0.2 * (number - 2)
    write(tmp_path, wide)
    best = [PERPLEXITIES[4] + 0.02 * (seed - 2) for seed in range(5)]
    p = stats.ttest_ind([20.6 + 0.2 * (seed - 2) for seed in range(5)], best, equal_var=False).pvalue
    assert f"worse than the study’s 4 layers (Holm-corrected p ≤ {p:.2g}" in section(tmp_path, compared), "the largest"
    write(tmp_path, experiment({6: 19.5, 8: 19.89}))
    text = section(tmp_path, compared)
    assert (
        "Better than the study’s 4 layers (Holm-corrected p < 0.0001): 6 layers with residual connections (−0.40 ± "
        "0.05, on the test split −0.40 ± 0.04)."
    ) in text


def opening(root: Path, compared: Comparison) -> str:
    section(root, compared)  # writes the training losses too
    return write_report(compared, supplements=more(root, compared)).split("\n## ")[0]


def test_the_opening_says_what_changes_do(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({3: 20.5, **RESIDUAL}), experiment({6: 20.5, 8: 23.0}, **{"train.warmup_epochs": 10}))
    assert opening(tmp_path, compared).rstrip().endswith(
        "\n\n**Ablations**, all else as in the study. With residual connections, depths 6 and 8 are better, at "
        "validation perplexities of 20.00 to 20.60 (8 layers: 20.60 instead of 23.00), depth 3 is worse by 0.48 ± "
        f"0.05, and no difference is shown at depth 4 (+0.00 ± 0.05). At depths 6 and 8 {FIT}. With warm-up over 10 "
        "epochs, no difference is shown at depths 6 and 8 (+0.00 ± 0.05 and +0.00 ± 0.05). No changed depth is shown "
        "to be better than the study’s 4 layers; the closest is 4 layers with residual connections (+0.00 ± 0.05, "
        "Holm-corrected p = 1; on the test split "
        "+0.00 ± 0.04)."
    )  # fmt: skip
    write(tmp_path, experiment({6: 20.0}, lambda _: 0.1))
    better = "depth 6 is better (validation perplexity 20.00 instead of 20.50). "
    assert f"{better}At depth 6 {GAP}." in opening(tmp_path, compared)
    write(tmp_path, experiment({6: 20.0}, lambda _: 0.5))
    assert f"{better}Every" in opening(tmp_path, compared), "undecided why"
    write(tmp_path, experiment({4: 19.5}))
    assert "At depth 4" not in opening(tmp_path, compared), "the question is of the deeper depths"
    write(tmp_path, experiment({6: 20.0, 8: 20.0}))
    assert "perplexities of 20.00 (8 layers: 20.00" in opening(tmp_path, compared)
    write(tmp_path, experiment({1: 19.5}))
    assert "Better than the study’s 4 layers (Holm-corrected p < 0.0001): 1 layer" in opening(tmp_path, compared)


def test_one_seed_gives_no_test(tmp_path: Path) -> None:
    parameters = {**PARAMETERS, "train": {**PARAMETERS["train"], "seeds": [0]}}
    compared = study(tmp_path, seeds=1, parameters=parameters)
    one = experiment(RESIDUAL)
    one["parameters"]["train.seeds"] = [0]
    for depth in one["depths"]:
        del depth["seeds"][1:]
    write(tmp_path, one)
    assert "Ablations" not in opening(tmp_path, compared)
    text = section(tmp_path, compared)
    assert "One seed gives no test" in text
    assert "nan" not in text
    assert "shown to be better" not in text


def test_the_changed_depths_among_each_other(tmp_path: Path) -> None:
    compared = study(tmp_path)
    one = experiment({4: 20.0, 6: 19.99, 8: 20.6})
    for seed in one["depths"][2]["seeds"]:
        seed["test_ppl"] = 15.0  # the test split chooses nothing
    write(tmp_path, one)
    assert (
        "Among these depths 6 has the lowest perplexity; shown to be worse than it, by Holm’s method over these alone: "
        "8 by 0.61 ± 0.05; not distinguishable from it: 4."
    ) in section(tmp_path, compared)


def test_what_a_change_leaves_of_the_excess(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 20.0, 8: 20.6}, lambda _: 0.9))
    text = section(tmp_path, compared)
    won, excess = math.log(23.0 / 20.6), math.log(23.0 / 19.9)
    assert "Beyond the study’s 4 layers, its 8 layers have +0.000 ± 0.001 nats of training loss, " in text
    assert f"+{excess:.3f} ± 0.002 of gap and +{excess:.3f} ± 0.002 of validation loss; with residual conn" in text
    left = f"−{0.9 * won:.3f} ± 0.001, +{excess - 0.1 * won:.3f} ± 0.002 and +{excess - won:.3f} ± 0.002."
    assert f"connections {left}" in text
    assert text.count("Beyond the study’s") == 1
    (tmp_path / "metrics/diagnostics/4.json").unlink()
    report = write_report(compared, supplements=more(tmp_path, compared))
    assert "Beyond the study’s" not in report.split("\n## Ablations\n")[1], "of the best depth nothing was measured"


def test_what_was_measured_of_some_seeds_or_not_at_all(tmp_path: Path) -> None:
    compared = study(tmp_path)
    one = experiment({6: 20.0, 8: 20.6})
    one["depths"][0]["seeds"][3]["train_loss_without_dropout"] = None
    one["depths"][1]["initial_norms"] = None
    one["git_dirty"] = True
    write(tmp_path, one)
    text = section(tmp_path, compared)
    assert f"Residual connections: at depth 6 {UNKNOWN}; at depth 8 {FIT}." in text
    assert "| not measured (0.008) |" in text
    assert "its 8 layers have" in text
    write(tmp_path, experiment({6: 20.0, 8: 20.6}, lambda depth: 0.9 if depth == 6 else None))
    assert "its 6 layers have" in section(tmp_path, compared), "the deepest that was measured"
    write(tmp_path, one)
    assert "commit abababababab with changes." in text


def test_depths_that_the_study_lacks_are_named(tmp_path: Path) -> None:
    compared = study(tmp_path)
    write(tmp_path, experiment({6: 20.0, 9: 20.0, 12: 20.0}))
    assert "Left out, since the study has no such runs: depths 9 and 12." in section(tmp_path, compared)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.residual": True}, "residual connections"),
        ({"model.residual": False}, "no residual connections"),
        ({"train.warmup_epochs": 0}, "no warm-up"),
        ({"train.warmup_epochs": 1}, "warm-up over 1 epoch"),
        ({"model.residual": True, "train.warmup_epochs": 5}, "residual connections and warm-up over 5 epochs"),
    ],
)
def test_words(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    write(tmp_path, experiment({6: 20.0}, **changes))
    (ablation,) = load_ablations(tmp_path / "ablations/results.json")
    assert ablation.words == expected


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
        (lambda _: 1.2, f"at depths 6 and 8 {FIT_ALONE}."),
        (lambda _: 1.005, f"at depths 6 and 8 {FIT}."),  # the gap widens, but that is not shown
        (lambda _: 0.27, f"at depths 6 and 8 {GAP}."),  # training loss falls, but most of what is won is gap
        (lambda _: -0.5, f"at depths 6 and 8 {GAP_ALONE}."),
        (lambda _: -0.005, f"at depths 6 and 8 {GAP}."),
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
    assert "None of these depths is deeper than the study’s best and shown to be worse" in section(tmp_path, compared)


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


def test_recorded_before_there_were_more_switches(tmp_path: Path) -> None:
    """An experiment that does not record how it was initialised was initialised as in the study."""
    compared, earlier = study(tmp_path), experiment(RESIDUAL)
    for name in ("model.initialisation", "train.schedule"):
        del earlier["parameters"][name]
    write(tmp_path, earlier)
    assert "Left out" not in section(tmp_path, compared)
    other = study(tmp_path, parameters={**PARAMETERS, "train": {**PARAMETERS["train"], "schedule": "linear"}})
    assert other.training_deviations == ("schedule of the learning rate linear instead of constant",)
    assert "(train.schedule constant instead of linear)" in section(tmp_path, other)


def first(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda one: one["depths"][0]["seeds"][0].update(values)


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda one: one.update(git_commits=[""]), "experiments.0.git_commits"),
    (
        lambda one: one["changes"].update({"model.residual": False}),
        "changes have model.residual False, parameters True",
    ),
    (lambda one: one["depths"][1]["seeds"].pop(), "depth 6 has the seeds [0, 1, 2, 3], train.seeds is [0, 1, 2, 3, 4]"),
    (lambda one: one["depths"].append(one["depths"][0]), "residual and residual both have depth 4 with residual"),
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
