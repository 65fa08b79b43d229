"""Writes the tables of benchmarks/README.md from the committed results: python -m benchmarks.readme."""

from pathlib import Path
from typing import Any

from benchmarks.bench import RESULTS, SCALING_COLUMNS, shown
from newllm.files import atomic_path, read_json

README = Path(__file__).resolve().parent / "README.md"
CASES = {
    "plain_loop": "the definition, position by position, with autograd",
    "lstm": "torch.nn.LSTM, one layer of 512",
    "engine": "this trainer",
    "engine, recipes": "this trainer, a recipe for each seed",
}


def main() -> None:
    """Replaces what stands between the marks."""
    text = README.read_text(encoding="utf-8")
    with atomic_path(README) as beside:
        beside.write_text(with_sections(text), encoding="utf-8")


def with_sections(text: str) -> str:
    """The text with the committed results between the marks."""
    on_gpu, on_cpu = (read_json(RESULTS / f"{name}.json", "make bench") for name in ("h200", "cpu-2-threads"))
    for name, section in (
        ("speed", table(on_gpu) + "\n\n" + of_cpu(on_cpu)),
        ("scaling", scaling_table(on_gpu)),
    ):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"
    return text


def table(results: dict[str, Any]) -> str:
    """The section: hardware, what a step takes, and what follows from it."""
    rows = {(row["case"], row["num_layers"], row["num_seeds"]): row for row in results["rows"]}
    engine, loop, lstm = rows["engine", 6, 5], rows["plain_loop", 6, 1], rows["lstm", 1, 1]
    per_seed, alone = engine["ms_per_step_per_seed"], rows["engine", 6, 1]["ms_per_step"]
    epoch = results["epoch"]
    lines = [
        f"{results['device']}, torch {results['torch_version']}, {results['precision']}, batches of "
        f"{results['batch_size']:,} windows, commit {commit(results)}. One step of training:",
        "",
        "| | depth | seeds | ms a step and seed | tokens/s | share of the GPU's product rate |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(results["rows"], key=lambda row: (row["num_layers"], list(CASES).index(row["case"]))):
        cells = [CASES[row["case"]], row["num_layers"], row["num_seeds"]]
        cells += [shown(row[name]) for name in ("ms_per_step_per_seed", "tokens_per_second")]
        lines.append("| " + " | ".join(map(str, cells)) + f" | {100 * row['peak_share']:.0f} % |")
    lines += [
        "",
        f"At depth 6 one seed trains {loop['ms_per_step'] / alone:.0f} times faster than by the plain loop, and "
        f"{lstm['ms_per_step'] / alone:.1f} times faster than the LSTM, which has one layer. As one of five it is "
        f"{loop['ms_per_step'] / per_seed:.0f} and {lstm['ms_per_step'] / per_seed:.1f} times faster. The plain loop "
        "waits for the host, so a faster host makes it faster. An epoch of five seeds "
        f"takes {epoch['training_seconds']:.2f} s, its validation {epoch['validation_seconds']:.3f} s more "
        f"({100 * epoch['validation_share']:.1f} %). {_of_full_windows(results)}",
    ]
    return "\n".join(lines)


def of_cpu(results: dict[str, Any]) -> str:
    """A paragraph: how the trainer compares with the plain loop on a CPU."""
    rows = {(row["case"], row["num_layers"], row["batch_size"], row["precision"]): row for row in results["rows"]}
    loop = rows["plain_loop", 4, results["batch_size"], "fp32"]["ms_per_step"]
    times = {name: loop / rows["engine", 4, results["batch_size"], name]["ms_per_step"] for name in ("bf16", "fp32")}
    return (
        f"On a CPU ({results['device'].removeprefix('CPU, ')}; {results['processor']}; commit {commit(results)}), at "
        f"depth 4 with batches of {results['batch_size']:,}, this trainer is {times['fp32']:.1f} times faster than the "
        f"plain loop in fp32, and {times['bf16']:.1f} times faster in bf16."
    )


def _of_full_windows(results: dict[str, Any]) -> str:
    """What padding spares."""
    return (
        "A fifth of the windows is padded like the corpus, and the trainer skips most of that, though its share counts "
        f"it; with full windows alone depth 6 takes {results['full_windows']['ms_per_step_per_seed']:.2f} ms a step "
        "and seed."
    )


def commit(results: dict[str, Any]) -> str:
    return f"`{results['git_commit'][:10]}`" if results["git_commit"] else f"unknown ({results['git_problem']})"


def scaling_table(results: dict[str, Any]) -> str:
    """How a step grows when one size changes, beside the floor."""
    lines = [
        f"{results['device']}, commit {commit(results)}, a large product at {results['product_tflops']:.0f} TFLOP/s:",
        "",
        "| " + " | ".join(title for _, title in SCALING_COLUMNS) + " |",
        "|" + "---|" * len(SCALING_COLUMNS),
    ]
    order = ("hidden_size", "batch_size", "num_layers", "num_seeds", "case")
    for row in sorted(results["scaling"], key=lambda row: [row[name] for name in order]):
        lines.append("| " + " | ".join(shown(row[name]) for name, _ in SCALING_COLUMNS) + " |")
    start = results["start"]
    lines += [
        "",
        f"A training of depth 6 with five seeds has done its first step and validation after "
        f"{start['cold_start_seconds']:.1f} s where its kernels have yet to be compiled, and after "
        f"{start['warm_start_seconds']:.1f} s where they are. After a seed has stopped, the next capture of a step "
        f"takes {start['capture_step_seconds_depth_6']:.2f} s and that of the validation "
        f"{start['capture_validation_seconds_depth_6']:.2f} s ({start['capture_step_seconds_depth_1']:.2f} and "
        f"{start['capture_validation_seconds_depth_1']:.2f} s at depth 1).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
