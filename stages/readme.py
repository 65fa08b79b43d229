"""Writes the results section of README.md from the committed metrics: python -m stages.readme. No stage of its own."""

from pathlib import Path

from newllm.analysis.figures import draw_all
from newllm.analysis.published import STUDY_DEPTHS
from newllm.analysis.report import render
from newllm.errors import UserError
from newllm.files import atomic_path
from stages import run
from stages.report import load

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
    """The answer, two pictures and the study's depths in a table.

    Args:
        root: the project's folder.

    Raises:
        UserError: a file of the metrics is missing or damaged.
    """
    study = load(root, list(STUDY_DEPTHS))
    return render(study, draw_all(study), ["readme"], "plots/pictures")[0].strip()


if __name__ == "__main__":
    run(main)
