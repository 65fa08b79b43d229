"""Tests that need a GPU, the real corpus or git skip where there is none; parameters of the data, and small corpora.

Variables and settings of git and DVC reach no test.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, settings
from pyarrow import parquet

from newllm.config import DataConfig, SyntheticConfig
from newllm.corpus.corpus import fetch_corpus
from newllm.data.text import SPLITS
from newllm.runtime.git import isolated
from tests.strangers import Stranger

MakeConfig = Callable[..., DataConfig]

ENVIRONMENT = isolated(os.environ)  # tests may be run by a hook, by `git rebase --exec` or `git bisect run`
os.environ.clear()
os.environ.update(ENVIRONMENT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # where others work too, drawing an example takes a second now and then


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """A DataConfig with the committed values, changed by keyword."""

    def make(**changes: Any) -> DataConfig:
        values: dict[str, Any] = {
            "source": "wikitext",
            "config": "wikitext-2-v1",
            "repository": "Salesforce/wikitext",
            "revision": "b08601e04326c79dfdd32d625aee71d232d685c3",
            "folder": None,
            "synthetic": SyntheticConfig(seed=0, train_words=1_000),
            "vocabulary_size": 1_000,
            "min_words": 5,
            "window": 64,
            "stride": 32,
        }
        return DataConfig(**{**values, **changes})

    return make


@pytest.fixture
def corpus_rows() -> dict[str, list[str]]:
    """Rows as on the hub: blank, or text between spaces that ends in a line break."""
    article = ["", " = Zürich = \n", "", ' The river \u2028 is " long " , \x85 and <unk> . \n', " \t ", " 二 \r\n"]
    return {"train": article * 3 + [" an end \n"], "validation": article, "test": article[1:3]}


@pytest.fixture
def text_folder(tmp_path: Path, corpus_rows: dict[str, list[str]]) -> Path:
    """The rows as text files, one row a line."""
    folder = tmp_path / "text"
    folder.mkdir()
    for split, rows in corpus_rows.items():
        text = "".join(row.removesuffix("\n") + "\n" for row in rows)
        (folder / f"{split}.txt").write_bytes(text.encode())
    return folder


@pytest.fixture
def hub_folder(tmp_path: Path, corpus_rows: dict[str, list[str]]) -> Path:
    """The rows as a dataset repository: README.md with configurations, a parquet file a split."""
    folder = tmp_path / "hub"
    (folder / "wikitext-2-v1").mkdir(parents=True)
    for split, rows in corpus_rows.items():
        parquet.write_table(pa.table({"text": rows}), folder / "wikitext-2-v1" / f"{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {split}\n    path: wikitext-2-v1/{split}-*\n" for split in SPLITS)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: wikitext-2-v1\n  data_files:\n{files}---\n")
    return folder


@pytest.fixture
def wikitext2(make_config: MakeConfig, tmp_path: Path) -> Path:
    """The canonical text of the real corpus."""
    fetch_corpus(make_config(), os.environ, tmp_path / "wikitext2")
    return tmp_path / "wikitext2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        if item.get_closest_marker("wikitext2") and not os.environ.get("WIKITEXT2_DIR"):
            item.add_marker(pytest.mark.skip(reason="needs WikiText-2 in the folder named by WIKITEXT2_DIR"))
        if (item.get_closest_marker("git") or item.get_closest_marker("pipeline")) and not shutil.which("git"):
            item.add_marker(pytest.mark.skip(reason="needs git, which is not on the PATH"))


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """A hook of another repository, with settings that break what they reach; the variables are set."""
    if not shutil.which("git"):
        pytest.skip("needs git, which is not on the PATH")
    stranger = Stranger(tmp_path_factory.mktemp("stranger"))
    stranger.enter(monkeypatch)
    return stranger
