"""Stage build_vocabulary: data/raw/train.txt → data/vocabulary.json and its checksum."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.text import read_split
from newllm.data.vocabulary import SPECIAL_TOKENS, build_vocabulary
from newllm.files import check_sha256, write_checksum
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    raw, path = Path("data/raw"), Path("data/vocabulary.json")
    check_sha256(raw / "train.txt", "download")
    vocabulary = build_vocabulary(read_split(raw, "train"), config.data.vocabulary_size)
    vocabulary.save(path)
    write_checksum(path)
    words = vocabulary.tokens[len(SPECIAL_TOKENS) :]
    print(f"{len(vocabulary):,} ids; first words: {' '.join(words[:6])}; last: {' '.join(words[-4:])}")


if __name__ == "__main__":
    run(main)
