"""Stage download: the hub, a folder or the generator → data/raw/{train,validation,test}.txt and their checksums."""

import os
from pathlib import Path

from newllm.config import load_config
from newllm.corpus.corpus import fetch_corpus
from newllm.data.text import SPLITS
from newllm.files import write_checksum
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    folder = Path("data/raw")
    for summary in fetch_corpus(config.data, os.environ, folder):
        print(summary)
    for split in SPLITS:
        write_checksum(folder / f"{split}.txt")


if __name__ == "__main__":
    run(main)
