"""Stage build_vocabulary: data/raw/train.txt → data/tokenizer.json and its checksum."""

from pathlib import Path

from newllm.config import load_config
from newllm.data.text import read_split
from newllm.data.vocabulary import SPECIAL_TOKENS, build_tokenizer, save_tokenizer
from newllm.files import check_sha256, write_checksum
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    raw, path = Path("data/raw"), Path("data/tokenizer.json")
    check_sha256(raw / "train.txt", "download")
    tokenizer = build_tokenizer(read_split(raw, "train"), config.data.vocabulary_size)
    save_tokenizer(tokenizer, path)
    write_checksum(path)
    size = tokenizer.get_vocab_size()
    words = range(len(SPECIAL_TOKENS), size)
    print(f"{size:,} ids; first words: {tokenizer.decode(words[:6])}; last: {tokenizer.decode(words[-4:])}")


if __name__ == "__main__":
    run(main)
