"""The hub route: against stand-in servers that answer as the hub does or fail as it may, and without a connection."""

import datetime
import gzip
import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import newllm.corpus.hub
from newllm.corpus.corpus import fetch_corpus
from newllm.corpus.hub import _Client, _Failures, _GaveUp, hub_sources
from newllm.errors import UserError

ROOT = Path(__file__).parents[2]
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"

# In a process of its own, because the hub client reads its settings when it is imported. One process for many cases,
# because that import is slow: each is a configuration and variables of the environment. The clock runs on over the
# waits between retries, but nobody waits.
PROGRAM = """
import json, os, sys, time
from newllm.config import DataConfig
from newllm.corpus import hub
from newllm.errors import UserError
waited = 0.0
def sleep(seconds):
    global waited
    waited += seconds
time.sleep, clock = sleep, time.monotonic
time.monotonic = lambda: clock() + waited
hub.TIMEOUT_SECONDS, cases = json.load(sys.stdin)
before = dict(os.environ)
for config, variables in cases:
    os.environ.clear()
    os.environ.update(before | variables)
    began = time.monotonic()
    try:
        sources = hub.hub_sources(DataConfig(**config), os.environ)
        found = {split: list(source.rows) for split, source in sources.items()}
    except UserError as error:
        found = str(error)
    print(json.dumps([found, time.monotonic() - began]), flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """The few answers that `datasets` asks of the hub for repositories of parquet files.

    The name of a repository says how it fails: `all/503` answers everything with this status, `twice/503` the first two
    questions, `tree/503` the one for the list of files, `files/503` those for parquet files. Others do not fail.
    """

    files: Mapping[str, bytes] = {}
    asked: Counter[str]
    closing: threading.Event

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.strip("/").partition("?")[0].removeprefix("api/").removeprefix("datasets/")
        owner, name, *rest = [*path.split("/"), "", ""]
        repository = f"{owner}/{name}"
        self.asked[repository] += 1
        is_file = path.endswith(".parquet")
        fails = owner == "all" or (owner == "files" and is_file) or (owner == "tree" and rest[0] == "tree")
        if fails or (owner == "twice" and self.asked[repository] <= 2):
            return self.fail(name)
        if rest[:2] == ["resolve", REVISION]:
            return self.answer(self.files.get("/".join(rest[2:]).rstrip("/")))
        if rest[:2] == ["revision", REVISION]:
            siblings = [{"rfilename": file} for file in self.files]
            return self.answer({"id": repository, "sha": REVISION, "private": False, "siblings": siblings})
        if rest[:2] == ["tree", REVISION]:
            return self.answer(
                self.tree("/".join(rest[2:]).strip("/"), recursive="recursive=true" in self.path.lower())
            )
        return self.answer(None)

    do_HEAD = do_GET

    def fail(self, how: str) -> None:
        """Answers with a status, or fails in another way."""
        status, _, seconds = how.partition("-")
        if status.isdigit():
            wait = {"Retry-After": seconds} if seconds else {}
            return self.send({"error": "no"}, int(status), {"X-Error-Message": "the stand-in says no", **wait})
        if how == "unknown":  # the hub's answer to who is not logged in
            return self.send({}, 401, {"X-Error-Code": "RepoNotFound"})
        if how == "revision":
            return self.send({}, 404, {"X-Error-Code": "RevisionNotFound"})
        if how == "page":
            return self.send(b"<html>Please log in</html>", 200, {"Content-Type": "text/html"})
        if how == "loop":
            return self.send({}, 302, {"Location": self.path})
        if how == "portal":
            return self.send({}, 302, {"Location": "http://portal.invalid/login"})
        if how == "gzip":  # a file that was compressed once more
            return self.answer(gzip.compress(self.files["wikitext-2-v1/test-00000-of-00001.parquet"]))
        if how == "cut":
            return None
        if how == "hang":
            self.closing.wait()
            return None
        assert how in ("cut-within", "hang-within")
        self.send_response(200)
        for name, value in {"Content-Length": "10000", "X-Repo-Commit": REVISION, "ETag": f'"{"0" * 40}"'}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and how == "hang-within":
            self.closing.wait()
        return None

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
        if content is None:
            return self.send({}, 404, {"X-Error-Code": "EntryNotFound"})
        return self.send(content, 200, {})

    def send(self, content: Any, status: int, headers: Mapping[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        always = {"Content-Length": str(len(data)), "X-Repo-Commit": REVISION}
        if headers.get("Location") or headers.get("Content-Type"):
            del always["X-Repo-Commit"]
        self.send_response(status)
        for name, value in {**always, "ETag": f'"{hashlib.sha256(data).hexdigest()[:40]}"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(hub_folder: Path) -> Iterator[ThreadingHTTPServer]:
    files = {str(path.relative_to(hub_folder)): path.read_bytes() for path in hub_folder.rglob("*") if path.is_file()}
    served = type("Served", (Hub,), {"files": files, "asked": Counter(), "closing": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    served.closing.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def with_certificate(hub: ThreadingHTTPServer, tmp_path: Path) -> ThreadingHTTPServer:
    """The stand-in by HTTPS, with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=9999))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    hub.socket = context.wrap_socket(hub.socket, server_side=True)
    return hub


@dataclass(frozen=True)
class Case:
    """What `data` to ask for, with which variables of the environment."""

    config: Any
    variables: Mapping[str, str] = field(default_factory=dict)


def ask(cases: Sequence[Case], endpoint: str, home: Path, timeout: float = 10) -> list[tuple[Any, float]]:
    """For each case the rows of the splits, or the error's text, and how many seconds it took."""
    hidden = ("proxy", "hf_", "ssl_cert")
    inherited = {key: value for key, value in os.environ.items() if not any(part in key.lower() for part in hidden)}
    settings = {"PYTHONPATH": str(ROOT / "src"), "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([timeout, [(case.config.model_dump(), case.variables) for case in cases]]),
        env=inherited | settings,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=90,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]


def test_rows_come_from_the_hub_and_then_from_its_cache(
    make_config: Any, with_certificate: ThreadingHTTPServer, tmp_path: Path, corpus_rows: dict[str, list[str]]
) -> None:
    endpoint, home = f"https://localhost:{with_certificate.server_port}", tmp_path / "home"
    trusted = {"SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
    cases = [Case(make_config(), trusted), Case(make_config(repository="twice/503"), trusted)]
    assert [found for found, _ in ask(cases, endpoint, home)] == [corpus_rows, corpus_rows]
    # no connection, and none wanted
    cases = [Case(make_config()), Case(make_config(), {"HF_HUB_OFFLINE": "1"})]
    assert [found for found, _ in ask(cases, "http://127.0.0.1:9", home)] == [corpus_rows, corpus_rows]


# Repository, and what its error says: what answered, and what to do.
ANSWERS = {
    "all/401": ("401 Unauthorized (the stand-in says no)", "hf auth login", "correct data.repository"),
    "all/unknown": ("401 Unauthorized", "hf auth login", "correct data.repository"),
    "all/403": ("403 Forbidden (the stand-in says no)", "ask for access"),
    "all/407": ("407", "HTTPS_PROXY"),
    "all/429": ("429 Too Many Requests (the stand-in says no)", "wait some minutes", "hf auth login"),
    "all/429-5": ("429 Too Many Requests", "wait 5 seconds"),
    "all/429-3600": ("429 Too Many Requests", "wait 3,600 seconds"),
    "all/500": ("500 Internal Server Error", "wait some minutes"),
    "all/503": ("503 Service Unavailable (the stand-in says no)", "wait some minutes"),
    "tree/503": ("503 Service Unavailable (the stand-in says no)", "wait some minutes"),
    "files/503": ("503 Service Unavailable", "wait some minutes"),
    "files/503-3600": ("503 Service Unavailable", "wait 3,600 seconds"),
    "all/page": ("not the hub's (200, text/html)", "log in"),
    "tree/page": ("not the hub's (200, text/html)", "log in"),
    "all/portal": ("not the hub's (302, http://portal.invalid/login)", "log in"),
    "all/loop": ("not the hub's (302", "log in"),
    "all/cut": ("no connection, or one that broke", "check the network"),
    "files/cut-within": ("no connection, or one that broke (peer closed connection", "check the network"),
    "all/hang": ("silence for 0.2 seconds", "check the network"),
    "tree/hang": ("silence for 0.2 seconds", "check the network"),
    "files/hang-within": ("silence for 0.2 seconds", "check the network"),
    "files/gzip": ("not a parquet file", "remove its copy from the cache (HF_HOME"),
}
# What the hub does not have, and what its error names.
NOT_THERE = {
    "nobody/404": ({"repository": "all/404"}, "data.repository all/404"),
    "revision": ({"repository": "all/revision"}, "data.revision b08601e0"),
    "configuration": ({"config": "wikitext-2-raw-v1"}, "data.config wikitext-2-raw-v1"),
    "name": ({"repository": "not/a/name"}, "data.repository not/a/name"),
}


def test_what_answered_and_what_to_do(make_config: Any, hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    cases = [Case(make_config(repository=name)) for name in ANSWERS]
    cases += [Case(make_config(repository="all/401"), {"HF_TOKEN": "hf_wrong"})]
    cases += [Case(make_config(**changes)) for changes, _ in NOT_THERE.values()]
    answers = ask(cases, f"http://127.0.0.1:{hub.server_port}", tmp_path / "home", timeout=0.2)
    for name, (found, seconds) in zip(ANSWERS, answers, strict=False):
        for words in (*ANSWERS[name], "WIKITEXT2_DIR", f"data.repository {name}"):
            assert words in found, name
        assert ("correct data." in found) == ("correct data.repository" in ANSWERS[name]), name
        assert "correct the parameter" not in found, name
        assert seconds < 75, name
    asked = hub.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert asked["all/429-3600"] == 1, "so long a wait is not waited for"
    assert asked["all/429-5"] > 3
    [found, _] = answers[len(ANSWERS)]
    assert "the token that was sent is not accepted" in found
    for (_, words), (found, _) in zip(NOT_THERE.values(), answers[len(ANSWERS) + 1 :], strict=True):
        assert words in found
        assert "correct the parameter, or set the environment variable WIKITEXT2_DIR" in found
    assert all("\n" not in found for found, _ in answers)


def test_failures_are_not_retried_for_ever(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    with _Client(_Failures(httpx.URL(endpoint))) as client:
        for name in ("503", "503", "404", "503"):
            assert client.get(f"{endpoint}/all/{name}").status_code == int(name)
        monkeypatch.setattr(newllm.corpus.hub, "PATIENCE_SECONDS", 0.0)
        for name in ("503", "cut"):
            with pytest.raises(_GaveUp):
                client.get(f"{endpoint}/all/{name}")
        client.get(f"{endpoint}/fine/one/resolve/{REVISION}/README.md")
        assert client.get(f"{endpoint}/all/503").status_code == 503, "patience is as before"


def test_without_a_connection_the_error_says_why_and_soon(
    make_config: Any, with_certificate: ThreadingHTTPServer, tmp_path: Path
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
    nowhere, hanging = "http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}"
    https = f"https://localhost:{with_certificate.server_port}"
    expected = [
        ({"HF_ENDPOINT": nowhere}, "no connection, or one that broke (", "check the network"),
        ({"HF_ENDPOINT": hanging}, "silence for 1 seconds", "check the network"),
        ({"HF_ENDPOINT": "http://nowhere.invalid"}, "no connection, or one that broke (", "check the network"),
        ({"HF_ENDPOINT": https}, "its certificate is not trusted", "SSL_CERT_FILE"),
        ({"HTTPS_PROXY": "http://me:secret@127.0.0.1:9"}, "no connection through the proxy 127.0.0.1:9", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": hanging}, f"silence through the proxy {hanging} for 1 seconds", "check the network"),
        ({"HTTPS_PROXY": "ftp://127.0.0.1:9"}, "cannot set up a connection", "HTTPS_PROXY"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "cannot set up a connection", "ALL_PROXY"),
        ({"SSL_CERT_FILE": str(tmp_path / "missing.pem")}, "cannot set up a connection", "SSL_CERT_FILE"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and the cache has no copy", "unset the variable"),
        ({"HF_DATASETS_OFFLINE": "yes"}, "HF_DATASETS_OFFLINE is set", "unset the variable"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": nowhere}, "no connection", "check the network"),
    ]
    cases = [Case(make_config(), {"HF_ENDPOINT": "https://hub.invalid"} | variables) for variables, *_ in expected]
    answers = ask(cases, https, tmp_path / "home", timeout=1)
    silent.close()
    for (variables, *words), (found, seconds) in zip(expected, answers, strict=True):
        for part in (*words, "WIKITEXT2_DIR"):
            assert part in found, variables
        assert "secret" not in found
        assert "correct the parameter" not in found
        assert seconds < 10, variables


@pytest.mark.parametrize("endpoint", ["hub", "ftp://hub", "https://", "http://[::1"])
def test_a_bad_endpoint_is_named(make_config: Any, endpoint: str) -> None:
    with pytest.raises(UserError, match=f"environment variable HF_ENDPOINT: found '{re.escape(endpoint)}', expected"):
        hub_sources(make_config(), {"HF_ENDPOINT": endpoint})


def test_a_repository_without_a_split_or_configuration_is_named(
    make_config: Any, hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets  # noqa: PLC0415 (slow)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    readme = hub_folder / "README.md"
    readme.write_text(readme.read_text().replace("- split: test", "- split: extra"))
    with pytest.raises(UserError, match=r"no split test with a column text; correct data\.repository"):
        fetch_corpus(make_config(repository=str(hub_folder)), {}, tmp_path / "raw")
    with pytest.raises(UserError, match=r"data\.config wikitext-2-raw-v1.*correct the parameter or the files"):
        fetch_corpus(make_config(repository=str(hub_folder), config="wikitext-2-raw-v1"), {}, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
