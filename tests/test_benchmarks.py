"""The committed figures of speed and the text that quotes them."""

import json

import pytest
import torch

from benchmarks import bench, cases, readme
from newllm.files import read_json

ROWS = {
    "case",
    "num_layers",
    "num_seeds",
    "ms_per_step",
    "ms_per_step_per_seed",
    "tokens_per_second",
    "model_tflops",
    "peak_share",
    "peak_memory_gib",
}


def test_readme_and_notes_quote_the_committed_results() -> None:
    results = read_json(bench.RESULTS / "h200.json", "make bench")
    for path, section in ((readme.README, readme.table(results)), (readme.NOTES, readme.scaling_table(results))):
        text = path.read_text(encoding="utf-8")
        assert readme.replaced(text, section) == text, "run: python -m benchmarks.readme"


def test_committed_results_name_hardware_versions_and_commit() -> None:
    results = json.loads((bench.RESULTS / "h200.json").read_text(encoding="utf-8"))
    assert results["device"] == "NVIDIA H200"
    assert not results["git_dirty"]
    assert len(results["git_commit"]) == 40
    assert {"torch_version", "date", "product_tflops"} <= set(results)
    for row in results["rows"] + results["scaling"]:
        assert set(row) >= ROWS
        assert row["ms_per_step_per_seed"] == pytest.approx(row["ms_per_step"] / row["num_seeds"])
        assert row["peak_share"] == pytest.approx(row["floor_ms_per_seed"] / row["ms_per_step_per_seed"])


@pytest.mark.parametrize("name", ["plain_loop", "lstm", "engine"])
def test_every_case_runs_and_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.BUDGET, "cpu", 0.0)
    device = torch.device("cpu")
    monkeypatch.setattr(bench, "SMALL_BATCH", 2)
    case = next(case for case, _ in bench.compared(device, "fp32", [name]))
    row = bench.measure(case, 2, device, 1e12)
    assert row["case"] == name
    assert set(row) >= ROWS
    tokens = 2 * cases.LENGTH
    assert row["tokens_per_second"] == pytest.approx(tokens / row["ms_per_step"] * 1e3)
    assert row["model_tflops"] == pytest.approx(case.flops_per_position * row["tokens_per_second"] / 1e12)


def test_windows_are_padded_like_the_corpus() -> None:
    windows = cases.random_windows(2048, torch.device("cpu"))
    assert (windows[:, 1:] != 0).double().mean().item() == pytest.approx(0.855, abs=0.01)
    assert (windows != 0).all(1).double().mean().item() == pytest.approx(0.802, abs=0.005)
    assert (cases.random_windows(64, torch.device("cpu"), padding=False) != 0).all()
