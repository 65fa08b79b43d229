"""Writes the results section of README.md from the committed metrics: python -m stages.readme. No stage of its own."""

from pathlib import Path
from statistics import fmean

from newllm.analysis.ablation import effects
from newllm.analysis.cost import trainings
from newllm.analysis.further import total_text
from newllm.analysis.markdown import cell, number, percent, table
from newllm.analysis.opening import opening
from newllm.analysis.published import STUDY_DEPTHS
from newllm.analysis.results import DepthResult, load_results
from newllm.analysis.summary import compare
from newllm.analysis.supplements import load_supplements
from newllm.analysis.verdicts import judge
from newllm.config import load_config
from newllm.errors import UserError
from newllm.files import atomic_path
from newllm.measurement.intervals import mean_interval
from stages import run

BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main() -> None:
    """Replaces what stands between the marks."""
    readme = Path("README.md")
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{readme}: expected the marks {BEGIN} and {END}, once each; put them where results belong")
    section = results_section(Path())
    with atomic_path(readme) as beside:
        beside.write_text(replaced(text, section), encoding="utf-8")


def replaced(text: str, section: str) -> str:
    """The text with another section between the marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + section + "\n" + END + rest.split(END)[1]


def results_section(root: Path) -> str:
    """The report's first paragraphs, the study's depths in a table, verdicts and the main picture.

    Args:
        root: the project's folder.

    Raises:
        UserError: a file of the metrics is missing or damaged.
    """
    config = load_config(root / "params.yaml")
    results = load_results(STUDY_DEPTHS, root / "metrics", root / "plots/curves")
    comparison = compare(
        results, config.model.num_layers, config.study.baseline_num_layers, config.data.model_dump()
    )  # fmt: skip
    more = load_supplements(results, root, config.data.window)
    verdicts = judge(comparison, more.overfitting) if comparison.matches_published_data else []
    header = ["layers", "parameters", "val PPL", "test PPL", "val accuracy", "epochs run"]
    header.append("s, a seed’s share without start-up")
    last = [f"{fmean(effort.seconds for effort in trainings(result)):,.0f}" for result in results]
    if len(comparison.devices) > 1:
        header[-1], last = "device", [cell(result.runs.device) for result in results]
    parts = [
        opening(comparison, more, verdicts),
        table(header, [[*_row(result), text] for result, text in zip(results, last, strict=True)]),
        total_text(comparison, more),
        "![Validation perplexity by depth, every seed, means with 95 % intervals, and the notebook’s "
        "points](plots/perplexity_by_depth.png)",
        *(
            ["![Validation perplexity by depth, as in the study and with a switch changed](plots/ablations.png)"]
            if effects(comparison, more.ablations)
            else []
        ),
        "Tests between depths, the notebook’s seven claims with numbers and rules, cost, grown contexts, ablations, "
        "method and limits are in [metrics/report.md](metrics/report.md).",
    ]
    return "\n\n".join(parts)


def _row(result: DepthResult) -> list[str]:
    return [
        str(result.num_layers),
        f"{result.metrics.num_params:,}",
        *(number(mean_interval(result.over_seeds(name))) for name in ("val_ppl", "test_ppl")),
        percent(result.over_seeds("val_accuracy")),
        f"{fmean(result.over_seeds('epochs_run')):.0f}",
    ]


if __name__ == "__main__":
    run(main)
