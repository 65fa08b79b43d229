"""What the report reads of metrics/diagnostics, and every way in which such a file can be wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from newllm.analysis.records import Group, load_diagnoses, load_results
from newllm.errors import UserError
from tests.analysis.metrics_files import final_perplexity, write_all, write_diagnostics


def load(root: Path) -> list[Group]:
    results = load_results((1, 4, 6), root)
    return load_diagnoses(results, root)


def change(root: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    path = root / "metrics/diagnostics/4.json"
    document = json.loads(path.read_text())
    alter(document["diagnostics"][0])
    path.write_text(json.dumps(document))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_all(tmp_path)
    for depth in (1, 4, 6):
        write_diagnostics(tmp_path, depth, lambda depth, seed: 2.5 + depth + seed)
    return tmp_path


def test_reads_what_there_is(root: Path) -> None:
    (root / "metrics/diagnostics/9.json").write_text("rubbish of an earlier experiment")
    (root / "metrics/diagnostics/6.json").unlink()
    found = load(root)
    assert [group.num_layers for group in found if group.diagnosis] == [1, 4]
    assert len(found) == 3
    assert load_diagnoses([], root / "nowhere") == []


def test_seeds_in_the_order_of_the_runs(root: Path) -> None:
    change(root, lambda record: record["seeds"].reverse())

    def other_gradients(record: dict[str, Any]) -> None:
        record["seeds"][0]["gradient_norms"]["best"]["hidden.2.weight"] = 0.7

    change(root, other_gradients)
    found = load(root)[1]
    assert found.values("train_loss_without_dropout") == [6.5, 7.5, 8.5, 9.5, 10.5]
    assert found.norms["best"] == pytest.approx((0.1, (0.7 + 4 * 0.2) / 5, 0.3, 0.4))
    assert found.norms["initial"] == pytest.approx((0.001, 0.002, 0.003, 0.004))


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda record: record.update(num_layers=5), "hidden.5.weight"),
    (lambda record: record.update(num_layers=3), "found num_layers 3, expected 4"),
    (lambda record: record.pop("samples"), "key samples is missing"),
    (lambda record: record["seeds"].pop(), "found seeds [0, 1, 2, 3]"),
    (lambda record: record["seeds"][0].update(seed=1), "seeds"),
    (lambda record: record["seeds"][2].update(val_loss=3.2), "seed 2: found val_loss 3.2000"),
    (lambda record: record["seeds"][0].update(train_loss_without_dropout="2"), "train_loss_without_dropout"),
    (lambda record: record["seeds"][0].update(val_ppl_without_unk=math.inf), "val_ppl_without_unk"),
    (lambda record: record["seeds"][0]["gradient_norms"]["best"].pop("hidden.2.weight"), "lack hidden.2.weight"),
    (lambda record: record["seeds"][0]["val_loss_by_position_full_windows"].pop(), "by_position_full_windows"),
    (lambda record: record.update(extra=1), "unknown key extra"),
    (lambda record: record["targets_by_position"].__setitem__(3, 0), "val_loss_by_position has values elsewhere"),
    (lambda record: record["seeds"][1]["context_gain_by_position"].pop(), "seed 1: context_gain_by_position has not"),
    (lambda record: record.update(context_pairs=0), "seed 0: context_gain_by_position has not the 0 positions"),
    (lambda record: record["seeds"][1]["context_gain_by_position"].__setitem__(3, None), "gain_by_position.3"),
    (lambda record: record.update(context_stride=0), "context_stride"),
    (lambda record: record["samples"]["texts"][0].pop("greedy"), "texts.0"),
]


@pytest.mark.parametrize(("alter", "expected"), BAD)
def test_wrong_value(root: Path, alter: Callable[[dict[str, Any]], object], expected: str) -> None:
    change(root, alter)
    with pytest.raises(UserError) as caught:
        load(root)
    message = str(caught.value)
    assert str(root / "metrics/diagnostics/4.json") in message
    assert expected in message
    assert "run `dvc repro diagnose@4`" in message


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"diagnostics": []}', b"[" * 100_000], ids=repr)
def test_damaged_file(root: Path, content: bytes) -> None:
    (root / "metrics/diagnostics/4.json").write_bytes(content)
    with pytest.raises(UserError, match=r"diagnostics/4\.json: .*`dvc repro diagnose@4`"):
        load(root)


def test_other_weights_are_found_out(root: Path) -> None:
    write_all(root, perplexity_of=lambda depth, seed: final_perplexity(depth, seed) * 1.02)
    with pytest.raises(UserError, match=r"diagnostics/1\.json: seed 0: found val_loss"):
        load(root)
