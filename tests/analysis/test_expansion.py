"""Grown contexts: files refused, and differences against scipy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from newllm.analysis.records import Group, load_grown, load_results
from newllm.analysis.study import gaining, growth
from newllm.errors import UserError
from tests.analysis.metrics_files import final_perplexity, write_all, write_expand
from tests.analysis.studies import reload

GAINS = {"freeze": 0.1, "finetune": 0.5, "longer": 0.2, "scratch": 0.52}


def load(root: Path) -> list[Group]:
    results = load_results((1, 4, 6), root)
    return load_grown(results, root)


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
    assert [(one.num_layers, one.name) for one in found] == [
        (1, "freeze"), (1, "finetune"), (1, "longer"), (1, "scratch"), (4, "finetune"), (4, "longer"), (4, "scratch")
    ]  # fmt: skip
    assert (found[0].parameters["model.context_dim"], found[0].num_params) == (512, 1_951_208)
    assert len(found[0].curve) == 15
    assert load_grown([], root / "nowhere") == []


def test_seeds_are_in_the_order_of_the_bases(root: Path) -> None:
    path = root / "metrics/expand/4-freeze.json"
    document = json.loads(path.read_text())
    document["details"][0]["runs"][0]["seeds"].reverse()
    path.write_text(json.dumps(document))
    assert [*load(root)[4].seeds["seed"]] == [0, 1, 2, 3, 4]


def test_differences_against_scipy(root: Path) -> None:
    """From the base and from longer training seed by seed, of and from scratch by Welch; Holm within each."""
    found = growth(reload(root, (1, 4, 6)))
    values = {(one.num_layers, one.name): one.values("val_ppl") for one in load(root)}
    base = {depth: [final_perplexity(depth, seed) for seed in range(5)] for depth in (1, 4)}
    assert list(found["base"]) == [(d, p) for d in (1, 4) for p in ("freeze", "finetune", "longer", "scratch")]
    for (depth, pattern), one in found["base"].items():
        alone, both = values[depth, pattern], base[depth]
        test = stats.ttest_ind(alone, both, equal_var=False) if pattern == "scratch" else stats.ttest_rel(alone, both)
        interval = test.confidence_interval()
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    grown = [key for key in found["base"] if key[1] in ("freeze", "finetune")]
    raw = {key: stats.ttest_rel(values[key], values[key[0], "longer"]).pvalue for key in grown}
    largest = 0.0
    for rank, key in enumerate(sorted(raw, key=lambda key: raw[key])):
        largest = max(largest, (4 - rank) * raw[key])
        assert found["longer"][key].adjusted_p == pytest.approx(largest, rel=1e-4)
    for key in grown:
        scratch = found["scratch"][key]
        test = stats.ttest_ind(values[key], values[key[0], "scratch"], equal_var=False)
        interval = test.confidence_interval()
        assert (scratch.low, scratch.high) == pytest.approx((interval.low, interval.high))
    assert list(found["longer"]) == list(found["scratch"]) == grown


def gains(root: Path, **changes: float) -> set[tuple[int, str]]:
    write(root, **changes)
    return set(gaining(reload(root, (1, 4, 6))))


def test_a_gain_is_over_the_base_and_over_longer_training(root: Path) -> None:
    assert gains(root) == {(1, "finetune"), (4, "finetune")}
    assert gains(root, finetune=0.2) == set(), "as good as longer training"
    assert gains(root, freeze=-0.1, finetune=-0.1, longer=-0.4) == set(), "better than that, but worse than the base"
    for depth in (1, 4):
        (root / f"metrics/expand/{depth}-longer.json").unlink()
    assert gaining(reload(root, (1, 4, 6))) == [], "no telling without the control"


def test_one_seed(tmp_path: Path) -> None:
    write_all(tmp_path, seeds=1)
    write(tmp_path)
    study = reload(tmp_path, (1, 4, 6))
    assert {one.adjusted_p for one in growth(study)["base"].values()} == {None}
    assert gaining(study) == []


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
    (lambda document: document["details"][0]["runs"][0]["seeds"].pop(), "found seeds [0, 1, 2, 3]"),
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
