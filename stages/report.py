"""Stage report: metrics and curves of the depths → summary, Markdown report, series and pictures."""

import argparse
from contextlib import ExitStack
from pathlib import Path

from newllm.analysis import figures, headline, report, results, summary, supplements
from newllm.config import load_config
from newllm.files import atomic_path, write_csv, write_json
from stages import run

METRICS = Path("metrics")
PLOTS = Path("plots")


def main() -> None:
    """Reads everything, then writes everything: an error leaves the earlier report as it was."""
    config = load_config(Path("params.yaml"))
    loaded = results.load_results(_depths(), METRICS, PLOTS / "curves")
    comparison = summary.compare(
        loaded, config.model.num_layers, config.study.baseline_num_layers, config.data.model_dump()
    )
    more = supplements.load_supplements(loaded, Path(), config.data.window)
    contents = {
        METRICS / "report.md": report.write_report(comparison, supplements=more).encode(),
        **{PLOTS / name: picture for name, picture in figures.draw_all(comparison, more).items()},
    }
    curves = summary.learning_curves(loaded)
    depths = summary.perplexity_by_depth(loaded)
    with ExitStack() as places:
        write_json(places.enter_context(atomic_path(METRICS / "summary.json")), headline.headline(comparison, more))
        write_csv(places.enter_context(atomic_path(PLOTS / "learning_curves.csv")), curves)
        write_csv(places.enter_context(atomic_path(PLOTS / "perplexity_by_depth.csv")), depths)
        for path, content in contents.items():
            places.enter_context(atomic_path(path)).write_bytes(content)


def _depths() -> list[int]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-layers", type=int, nargs="+", required=True, metavar="DEPTH", help="the depths to report, from dvc.yaml"
    )
    depths: list[int] = parser.parse_args().num_layers
    return depths


if __name__ == "__main__":
    run(main)
