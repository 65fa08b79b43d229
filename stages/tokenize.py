"""Stage tokenize: data/raw/*.txt, data/vocabulary.json → data/windows/*.npy and their checksums, metrics/data.json."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.text import SPLITS
from newllm.data.vocabulary import Vocabulary
from newllm.data.windows import write_windows
from newllm.files import check_sha256, write_checksum, write_json
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    raw, vocabulary_path, folder = Path("data/raw"), Path("data/vocabulary.json"), Path("data/windows")
    vocabulary = Vocabulary.load(vocabulary_path)
    check_sha256(vocabulary_path, "build_vocabulary")  # after what can say more
    for split in SPLITS:
        check_sha256(raw / f"{split}.txt", "download")
    counts = write_windows(raw, vocabulary, config.data, folder)
    for split in SPLITS:
        write_checksum(folder / f"{split}.npy")
    metrics = {split: split_counts.as_metrics() for split, split_counts in counts.items()}
    # in a list, which DVC does not take for figures to compare
    write_json(Path("metrics/data.json"), {"data": [{"vocabulary_size": len(vocabulary), **metrics}]})
    for split, figures in metrics.items():
        print(
            f"{split}: {figures['windows']:,} windows of {figures['tokens']:,} tokens, from {figures['rows']:,} rows "
            f"of {figures['words']:,} words, {figures['unk_share_pct']:.2f} % <unk>"
        )


if __name__ == "__main__":
    run(main)
