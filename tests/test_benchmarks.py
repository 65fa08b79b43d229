"""The committed figures of speed and the text that quotes them."""

import json

import pytest
import torch

from benchmarks import bench, cases, generation, readme
from newllm.model.definition import ModelShape, initial_parameters
from newllm.usage.recurrence import Recurrence

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


def test_the_readme_quotes_the_committed_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_sections(text) == text, "run: python -m benchmarks.readme"


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


def test_the_sentence_about_cpus_follows_the_results() -> None:
    rows = [
        {"case": case, "num_layers": 4, "batch_size": 2048, "precision": precision, "ms_per_step": milliseconds}
        for case, precision, milliseconds in (
            ("plain_loop", "fp32", 3000),
            ("engine", "fp32", 2000),
            ("engine", "bf16", 1000),
        )
    ]
    about = {"device": "CPU, 3 threads", "processor": "a processor", "git_commit": "0" * 40, "batch_size": 2048}
    sentence = readme.of_cpu(about | {"rows": rows})
    assert "3 threads; a processor" in sentence
    assert "1.5 times faster" in sentence
    assert "3.0 times faster in bf16" in sentence
    without = about | {"rows": rows, "git_commit": None, "git_problem": "git: no repository"}
    assert "commit unknown (git: no repository)" in readme.of_cpu(without)


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


def test_the_ways_to_write_write_the_same() -> None:
    parameters = initial_parameters(ModelShape(20, 5, 6, 8, 3), [0], ["he"])
    parameters["output.weight"] *= 10
    parameters["output.bias"][0, 3] = -1e4  # no <eos>
    steps = generation.by_steps(Recurrence(parameters), 15, num_texts=3)
    assert [len(step) for step in steps] == [3] * 15
    assert [step[0] for step in steps] == generation.anew(parameters, 15)
    assert len({step[0] for step in steps}) > 3
    assert [step[1] for step in steps] != [step[0] for step in steps]
