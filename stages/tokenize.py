"""Stage tokenize: data/raw/*.txt, data/tokenizer.json → data/windows/*.npy and their checksums, metrics/data.json."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.text import SPLITS
from newllm.data.vocabulary import load_tokenizer
from newllm.data.windows import write_windows
from newllm.files import check_sha256, write_checksum, write_json
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    raw, tokenizer_path, folder = Path("data/raw"), Path("data/tokenizer.json"), Path("data/windows")
    tokenizer = load_tokenizer(tokenizer_path)
    check_sha256(tokenizer_path, "build_vocabulary")  # after what can say more
    for split in SPLITS:
        check_sha256(raw / f"{split}.txt", "download")
    counts = write_windows(raw, tokenizer, config.data, folder)
    for split in SPLITS:
        write_checksum(folder / f"{split}.npy")
    metrics = {split: split_counts.as_metrics() for split, split_counts in counts.items()}
    # in a list, which DVC does not take for figures to compare
    write_json(Path("metrics/data.json"), {"data": [{"vocabulary_size": tokenizer.get_vocab_size(), **metrics}]})
    for split, figures in metrics.items():
        print(
            f"{split}: {figures['windows']:,} windows of {figures['tokens']:,} tokens, from {figures['rows']:,} rows "
            f"of {figures['words']:,} words, {figures['unk_share_pct']:.2f} % <unk>"
        )


if __name__ == "__main__":
    run(main)
