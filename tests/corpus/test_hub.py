"""The hub route: against a stand-in server that answers as the hub does, and without a connection."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from newllm.corpus.corpus import fetch_corpus
from newllm.corpus.sources import hub_sources
from newllm.errors import UserError

ROOT = Path(__file__).parents[2]
REPOSITORY = "datasets/Salesforce/wikitext"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"

# In a process of its own, because the hub client reads its settings when it is imported.
PROGRAM = """
import json, os, sys
from newllm.config import DataConfig
from newllm.corpus.sources import hub_sources
from newllm.errors import UserError
try:
    sources = hub_sources(DataConfig(**json.loads(sys.argv[1])), os.environ)
    print(json.dumps({split: list(source.rows) for split, source in sources.items()}))
except UserError as error:
    sys.exit(f"error: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """The few answers that `datasets` asks of the hub for a repository of parquet files."""

    files: Mapping[str, bytes] = {}

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.strip("/").partition("?")
        if path.startswith(f"{REPOSITORY}/resolve/{REVISION}/"):
            return self.answer(self.files.get(path.split(f"{REVISION}/")[1]))
        if path == f"api/{REPOSITORY}/revision/{REVISION}":
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer({"id": "Salesforce/wikitext", "sha": REVISION, "private": False, "siblings": siblings})
        if path.startswith(f"api/{REPOSITORY}/tree/{REVISION}"):
            below = path.split(REVISION)[1].strip("/")
            return self.answer(self.tree(below, recursive="recursive=true" in query.lower()))
        return self.answer(None)

    do_HEAD = do_GET

    def tree(self, below: str, recursive: bool) -> list[dict[str, Any]]:
        entries = []
        for name, data in self.files.items():
            if name.startswith(below) and (recursive or "/" not in name):
                entries.append(
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}
                )
        folders = {name.split("/")[0] for name in self.files if "/" in name and not recursive}
        return entries + [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]

    def answer(self, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:40]}"')
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(hub_folder: Path) -> Iterator[ThreadingHTTPServer]:
    files = {str(path.relative_to(hub_folder)): path.read_bytes() for path in hub_folder.rglob("*") if path.is_file()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(config: Any, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    settings = {"PYTHONPATH": str(ROOT / "src"), "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    command = [sys.executable, "-c", PROGRAM, config.model_dump_json()]
    return subprocess.run(
        command, env=inherited | settings, capture_output=True, text=True, encoding="utf-8", timeout=90, check=False
    )


def test_rows_come_from_the_hub_and_then_from_its_cache(
    make_config: Any, hub: ThreadingHTTPServer, tmp_path: Path, corpus_rows: dict[str, list[str]]
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    first = ask(make_config(), endpoint, tmp_path / "home")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == corpus_rows
    assert first.stderr == ""
    without_connection = ask(make_config(), "http://127.0.0.1:9", tmp_path / "home")
    assert without_connection.returncode == 0, without_connection.stderr
    assert json.loads(without_connection.stdout) == corpus_rows


@pytest.mark.parametrize("changes", [{"repository": "nobody/nothing"}, {"config": "wikitext-2-raw-v1"}])
def test_what_the_hub_does_not_have_is_named(
    make_config: Any, hub: ThreadingHTTPServer, tmp_path: Path, changes: dict[str, str]
) -> None:
    ended = ask(make_config(**changes), f"http://127.0.0.1:{hub.server_port}", tmp_path / "home")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot load data.repository")
    for name, value in changes.items():
        assert f"data.{name} {value}" in ended.stderr


def test_no_network_ends_soon_with_one_message(make_config: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    ended = ask(make_config(), "http://127.0.0.1:9", tmp_path / "home")
    assert time.monotonic() - began < 30
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no connection to the Hugging Face hub")
    assert "WIKITEXT2_DIR" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_bad_endpoint_is_named(make_config: Any) -> None:
    with pytest.raises(UserError, match="environment variable HF_ENDPOINT: found 'hub', expected a URL"):
        hub_sources(make_config(), {"HF_ENDPOINT": "hub"})


def test_a_repository_without_a_split_or_configuration_is_named(
    make_config: Any, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets  # noqa: PLC0415 (slow)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    readme = hub_folder / "README.md"
    readme.write_text(readme.read_text().replace("- split: test", "- split: extra"))
    with pytest.raises(UserError, match=r"no split test with a column text; correct data\.repository"):
        fetch_corpus(make_config(repository=str(hub_folder)), {}, tmp_path / "raw")
    with pytest.raises(UserError, match=r"data\.config wikitext-2-raw-v1"):
        fetch_corpus(make_config(repository=str(hub_folder), config="wikitext-2-raw-v1"), {}, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
