"""The corpus from the Hugging Face hub, through `datasets`; and where that fails, what answered and what to do.

The libraries between this module and the network retry, hide and rename failures: an answer of 503 comes out as "no
such file". So the HTTP client that they share is one of ours, which remembers the last failure and ends the retries.
"""

import errno
import logging
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import httpx

from newllm.config import DataConfig
from newllm.corpus.sources import Source
from newllm.data.text import SPLITS
from newllm.errors import UserError

TIMEOUT_SECONDS = 10.0  # that a connection may be silent
PATIENCE_SECONDS = 60.0  # of failures without an answer of use, then no more retries
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG, errno.EIO}
_LOCAL = "set the environment variable WIKITEXT2_DIR to a folder that holds the corpus as text or parquet files"


def hub_sources(config: DataConfig, environment: Mapping[str, str]) -> dict[str, Source]:
    """Loads the dataset through Hugging Face `datasets`, which keeps it in its own cache.

    `config.repository` may also be a local folder in the hub's layout. Sets the HF_HUB_* variables that silence the
    client and keep it to HTTP, and HF_HUB_OFFLINE if the hub cannot be reached: a cached copy then still loads.

    Raises:
        UserError: the hub cannot be reached or does not answer as it should, or it has no such repository, revision,
            configuration, split or column.
    """
    where = f"{config.repository} ({config.config}, revision {config.revision[:8]})"
    dataset = _load(config, environment)
    missing = [split for split in SPLITS if split not in dataset or "text" not in dataset[split].column_names]
    if missing:
        raise UserError(f"{where}: no split {missing[0]} with a column text; correct data.repository or data.config")
    return {split: Source(f"Hugging Face datasets {where}", _rows(dataset[split], where)) for split in SPLITS}


class _GaveUp(Exception):
    """Ends the retries of the hub client, which retries none but its own kinds of error."""


class _Failures:
    """What went wrong last, if nothing has gone well since."""

    def __init__(self, endpoint: httpx.URL) -> None:
        self.endpoint = endpoint
        self.last: httpx.Response | httpx.TransportError | None = None
        self._since: float | None = None

    def add(self, failure: httpx.Response | httpx.TransportError, wait: float = 0.0) -> None:
        """Raises _GaveUp if `wait` seconds from now there will have been nothing but failures for too long."""
        now = time.monotonic()
        self.last, self._since = failure, self._since or now
        if now + wait - self._since > PATIENCE_SECONDS:
            raise _GaveUp

    def judge(self, response: httpx.Response) -> None:
        """An answer came, be it a failure or not."""
        status = response.status_code
        if status < 400 and not self._is_foreign(response):
            self.last = self._since = None
        elif status != 404:  # `datasets` asks for files that a repository need not have
            self.add(response, _seconds_to_wait(response) or 0)

    def _is_foreign(self, response: httpx.Response) -> bool:
        """Whether some other server, such as the login page of a network, answered in the hub's place."""
        if response.request.url.host != self.endpoint.host:
            return False  # a redirect to where the hub keeps its files
        is_file = "/resolve/" in response.request.url.path
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        return is_page or (is_file and "X-Repo-Commit" not in response.headers)


class _Client(httpx.Client):
    """The hub's HTTP client, with bounds on silence and on retries."""

    def __init__(self, failures: _Failures) -> None:
        super().__init__(follow_redirects=True)
        self._failures = failures

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        from huggingface_hub import errors, is_offline_mode  # noqa: PLC0415 (reads the environment when it is imported)

        if is_offline_mode():
            raise errors.OfflineModeIsEnabled
        request.extensions["timeout"] = httpx.Timeout(TIMEOUT_SECONDS).as_dict()  # the hub's own may be none at all
        try:
            response = super().send(request, **options)
        except httpx.TransportError as error:
            self._failures.add(error)
            raise
        self._failures.judge(response)
        return response


def _load(config: DataConfig, environment: Mapping[str, str]) -> Any:
    failures = _Failures(_endpoint(environment))
    switch = next((name for name in OFFLINE_SWITCHES if _is_on(environment.get(name))), None)
    is_local = Path(config.repository).is_dir()
    if not is_local and not switch:
        _go_offline_if_unreachable(failures)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # a second way to fetch files, with retries of its own
    try:
        import datasets  # noqa: PLC0415 (slow to import, and reads the environment when it is imported)
        import huggingface_hub  # noqa: PLC0415

        datasets.disable_progress_bars()
        for library in (datasets, huggingface_hub):  # what they say of a failure is in the error
            library.logging.set_verbosity(logging.CRITICAL)
        huggingface_hub.set_client_factory(partial(_Client, failures))
        return datasets.load_dataset(config.repository, config.config, revision=config.revision)
    except Exception as error:
        _raise(error, config, failures, switch)


def _is_on(value: str | None) -> bool:
    return (value or "").upper() in ("1", "ON", "YES", "TRUE")


def _endpoint(environment: Mapping[str, str]) -> httpx.URL:
    named = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        url = httpx.URL(named)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"environment variable HF_ENDPOINT: found {named!r}, expected a URL such as https://host")
    return url


def _go_offline_if_unreachable(failures: _Failures) -> None:
    """Spares the hub client its minutes of retries where there is no network."""
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            client.head(failures.endpoint)  # an answer of any kind is a connection
    except httpx.TransportError as error:
        failures.add(error)
        os.environ["HF_HUB_OFFLINE"] = "1"
    except (ValueError, ImportError, OSError, httpx.HTTPError) as error:
        raise UserError(
            f"cannot set up a connection to {failures.endpoint}: {error}; correct the environment variables "
            f"HTTPS_PROXY, HTTP_PROXY, ALL_PROXY (http://host:port) or SSL_CERT_FILE (certificates), or {_LOCAL}"
        ) from None


def _raise(error: Exception, config: DataConfig, failures: _Failures, switch: str | None) -> NoReturn:
    """Says what went wrong and what to do. Only what the hub does not have is the parameters' fault."""
    import pyarrow as pa  # noqa: PLC0415

    chain = _chain(error)
    failure = next((one for one in chain if isinstance(one, httpx.TransportError)), failures.last)
    for one in chain:
        if isinstance(one, OSError) and (one.errno in _DISK_ERRORS or (one.errno and not failure)):
            raise one from None
    reason = next((line for one in reversed(chain) if (line := str(one).strip())), type(error).__name__).splitlines()[0]
    wanted = f"data.repository {config.repository}, data.config {config.config}, data.revision {config.revision}"
    place = f" from {failures.endpoint}"
    if Path(config.repository).is_dir():
        place, what, remedy = "", reason, "correct the parameter or the files"
    elif switch:
        what = f"the environment variable {switch} is set, and the cache has no copy ({reason})"
        remedy = "unset the variable"
    elif isinstance(failure, httpx.Response):
        what, remedy = _of_answer(failure)
    elif failure is not None:
        what, remedy = _of_broken_exchange(failure, failures.endpoint)
    elif isinstance(chain[-1], pa.ArrowException):
        what, remedy = reason, "remove its copy from the cache (HF_HOME, else ~/.cache/huggingface) and run again"
    elif _is_not_there(error):
        what, remedy = reason, "correct the parameter"
    else:
        what, remedy = reason, "correct what this names and run again"
    raise UserError(f"cannot load {wanted}{place}: {what}; {remedy}, or {_LOCAL}") from None


def _is_not_there(error: Exception) -> bool:
    """Whether `datasets` says that the hub has no such repository, revision or configuration, or that no name is so."""
    is_bad_name = type(error).__name__ == "HFValidationError"
    return isinstance(error, FileNotFoundError) or is_bad_name or str(error).startswith("BuilderConfig")


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what it was raised from, and so on."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _of_answer(response: httpx.Response) -> tuple[str, str]:
    """What a server answered, and what to do about it."""
    status, request = response.status_code, response.request
    place = f"{request.method} {request.url.copy_with(query=None)}"
    if status < 400:
        page = response.headers.get("Location") or response.headers.get("Content-Type", "no type")
        return (
            f"the answer to {place} is not the hub's ({status}, {page}), but perhaps a login page of this network",
            "open it in a browser and log in, correct the proxy or HF_ENDPOINT",
        )
    what = f"the answer to {place} was {status} {response.reason_phrase}".rstrip()
    if said := _said(response):
        what += f" ({said})"
    wait = _seconds_to_wait(response)
    again = f"wait {wait:,} seconds and run again" if wait else "wait some minutes and run again"
    log_in = "log in with `hf auth login` or the environment variable HF_TOKEN"
    if status == 401 and "Authorization" in request.headers:
        return what, "the token that was sent is not accepted: log in again with `hf auth login`, or unset HF_TOKEN"
    if status == 401:
        return what, f"the dataset is private, or there is none of this name: {log_in}, correct data.repository"
    if status == 403:
        return what, f"ask for access on the dataset's page and {log_in}, look whether a firewall answered"
    if status == 407:
        return what, "give the proxy a user and a password (HTTPS_PROXY=http://user:password@host:port)"
    if status == 429:
        return what, f"{again}, {log_in}, which allows more requests"
    return what, again


def _said(response: httpx.Response) -> str:
    """The server's own words, on one line."""
    words = response.headers.get("X-Error-Message")
    if not words and response.is_stream_consumed:
        try:
            words = response.json()["error"]
        except (ValueError, LookupError, TypeError):
            words = None
    return " ".join(str(words or "").split())[:200]


def _seconds_to_wait(response: httpx.Response) -> int | None:
    """How long a server asks to wait, if it says so as the hub does."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    after = response.headers.get("Retry-After", "").strip()
    return int(after) if after.isascii() and after.isdigit() else None


def _of_broken_exchange(error: httpx.TransportError, endpoint: httpx.URL) -> tuple[str, str]:
    """Why there was no whole answer, and what to do about it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    proxies = urllib.request.getproxies()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    route = ""
    if proxy and not urllib.request.proxy_bypass(endpoint.host):
        route = f" through the proxy {proxy.rsplit('@')[-1]}"  # without a password
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            f"its certificate{route} is not trusted ({reason})",
            "if this network inspects traffic, set SSL_CERT_FILE to a file with its certificates",
        )
    if isinstance(error, httpx.TimeoutException):
        return f"silence{route} for {TIMEOUT_SECONDS:g} seconds", "check the network or wait, and run again"
    if route:
        return f"no connection{route} ({reason})", "correct or unset the proxy (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"
    return f"no connection, or one that broke ({reason})", "check the network or wait, and run again"


def _rows(split: Any, where: str) -> Iterator[str]:
    for batch in split.select_columns("text").iter(batch_size=1024):
        for row in batch["text"]:
            if not isinstance(row, str):
                raise UserError(f"{where}: found a row of type {type(row).__name__}, expected text")
            yield row
