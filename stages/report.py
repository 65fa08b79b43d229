"""Stage report: metrics and curves → summary, the table of all results, report, appendix, series and pictures."""

import argparse
from contextlib import ExitStack
from pathlib import Path

from newllm.analysis.figures import draw_all
from newllm.analysis.report import render
from newllm.analysis.study import Study, learning_curves, load_study, perplexity_by_depth, results_table
from newllm.analysis.summary import summary
from newllm.config import load_config
from newllm.files import atomic_path, write_json
from stages import run

METRICS = Path("metrics")
PLOTS = Path("plots")


def main() -> None:
    """Reads everything, then writes everything: an error leaves the earlier report as it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-layers", type=int, nargs="+", required=True, metavar="DEPTH", help="the depths to report, from dvc.yaml"
    )
    study = load(Path(), parser.parse_args().num_layers)
    figures = draw_all(study)
    report, appendix = render(study, figures, ["report", "appendix"], "../plots/pictures")
    tables = {
        METRICS / "results.csv": results_table(study),
        PLOTS / "learning_curves.csv": learning_curves(study.depths.values()),
        PLOTS / "perplexity_by_depth.csv": perplexity_by_depth(study.depths.values()),
    }
    contents = {METRICS / "report.md": report.encode(), METRICS / "appendix.md": appendix.encode()}
    contents |= {path: table.to_csv(index=False, lineterminator="\n").encode() for path, table in tables.items()}
    pictures = {f"{figure.name}.png": figure.png() for figure in figures}
    with ExitStack() as places:
        write_json(places.enter_context(atomic_path(METRICS / "summary.json")), summary(study))
        folder = places.enter_context(atomic_path(PLOTS / "pictures"))
        folder.mkdir()
        for name, picture in pictures.items():
            (folder / name).write_bytes(picture)
        for path, content in contents.items():
            places.enter_context(atomic_path(path)).write_bytes(content)


def load(root: Path, depths: list[int]) -> Study:
    """The study in a project's folder, with what its params.yaml says.

    Raises:
        UserError: params.yaml or a file of results is damaged or missing, or they contradict one another.
    """
    return load_study(root, depths, load_config(root / "params.yaml"))


if __name__ == "__main__":
    run(main)
