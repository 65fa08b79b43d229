"""Stage download: the hub, a folder or the generator → data/raw/{train,validation,test}.txt."""

import os
from pathlib import Path

from newllm.config import load_config
from newllm.data.corpus import fetch_corpus
from stages import run


def main() -> None:
    config = load_config(Path("params.yaml"))
    for summary in fetch_corpus(config.data, os.environ, Path("data/raw")):
        print(summary)


if __name__ == "__main__":
    run(main)
