"""Stage tokenize: data/raw/*.txt, data/vocabulary.json → data/windows/*.npy, metrics/data.json."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.vocabulary import Vocabulary
from newllm.data.windows import write_windows
from newllm.files import write_json
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    vocabulary = Vocabulary.load(Path("data/vocabulary.json"))
    counts = write_windows(Path("data/raw"), vocabulary, config.data, Path("data/windows"))
    metrics = {split: split_counts.as_metrics() for split, split_counts in counts.items()}
    write_json(Path("metrics/data.json"), {"vocabulary_size": len(vocabulary), **metrics})
    for split, figures in metrics.items():
        print(
            f"{split}: {figures['windows']:,} windows of {figures['tokens']:,} tokens, from {figures['rows']:,} rows "
            f"of {figures['words']:,} words, {figures['unk_share_pct']:.2f} % <unk>"
        )


if __name__ == "__main__":
    run(main)
