"""Stage build_vocabulary: data/raw/train.txt → data/vocabulary.json."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.text import read_split
from newllm.data.vocabulary import SPECIAL_TOKENS, build_vocabulary
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    vocabulary = build_vocabulary(read_split(Path("data/raw"), "train"), config.data.vocabulary_size)
    vocabulary.save(Path("data/vocabulary.json"))
    words = vocabulary.tokens[len(SPECIAL_TOKENS) :]
    print(f"{len(vocabulary):,} ids; first words: {' '.join(words[:6])}; last: {' '.join(words[-4:])}")


if __name__ == "__main__":
    run(main)
