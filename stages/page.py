"""Makes the report a page, build/report/index.html, and opens it: python -m stages.page. No stage of its own.

It is made of the metrics that are there, of the study's depths and the one under study; nothing is run for it.
"""

import argparse
import webbrowser
from pathlib import Path

from newllm.analysis.figures import draw_all
from newllm.analysis.published import STUDY_DEPTHS
from newllm.analysis.report import render, write_page
from newllm.config import load_config
from newllm.files import atomic_path
from stages import run
from stages.report import load

PAGE = Path("build/report/index.html")


def main() -> None:
    """Writes the page in one step, says where it is, and opens it where there is a browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-layers", type=int, nargs="+", metavar="DEPTH", help="the depths; those of the study")
    parser.add_argument("--no-browser", action="store_true", help="write the page and open nothing")
    options = parser.parse_args()
    config = load_config(Path("params.yaml"))
    study = load(Path(), options.num_layers or [*STUDY_DEPTHS, config.model.num_layers])
    figures = draw_all(study)
    report, appendix = render(study, figures, ["report", "appendix"], "../plots/pictures")
    page = write_page(report, appendix, figures)
    with atomic_path(PAGE) as beside:
        beside.write_text(page, encoding="utf-8")
    print(PAGE.resolve())
    if not options.no_browser:
        webbrowser.open(PAGE.resolve().as_uri())


if __name__ == "__main__":
    run(main)
