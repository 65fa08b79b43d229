"""Fetches the corpus by any route, verifies it and writes its canonical text.

Canonical form: each row stripped of surrounding white space, rows joined by "\\n" and ended by "\\n", UTF-8. Only
"\\n" ends a row: a "\\r" before it is white space, and other Unicode line separators are characters like any other.
Rows are read and written one at a time, so memory does not grow with the corpus.
"""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from newllm.config import DataConfig
from newllm.corpus.hub import hub_sources
from newllm.corpus.sources import Source, folder_sources
from newllm.corpus.synthetic import synthetic_rows
from newllm.data.text import SPLITS
from newllm.errors import UserError
from newllm.files import atomic_path


@dataclass(frozen=True)
class Pin:
    """What a split is known to be: its number of rows and, where known, the SHA-256 of its canonical form."""

    rows: int
    sha256: str | None


# The specification's table. Both configurations have as many rows; the raw one's checksums are not known.
PINS: dict[str, dict[str, Pin]] = {
    "wikitext-2-v1": {
        "train": Pin(36_718, "f7ee69acf5cc3fd2321929d3e32dd6defd8199abe0cb95063b2b9f092584f96f"),
        "validation": Pin(3_760, "4427e8fc24d5ceaaff4f1d9ee42f4e82172572b107d6a4e1f32d84fa7913c3ff"),
        "test": Pin(4_358, "f68796e87c3250872a5a82da5027c4f75494ca617fbad67e36acce8a057ff3e8"),
    },
    "wikitext-2-raw-v1": {"train": Pin(36_718, None), "validation": Pin(3_760, None), "test": Pin(4_358, None)},
}


@dataclass(frozen=True)
class SplitSummary:
    """What was written for one split; `route` says where it came from, `verified` what it was checked against."""

    split: str
    rows: int
    nonblank_rows: int
    num_bytes: int
    sha256: str
    route: str
    verified: str = "no pinned values"

    def __str__(self) -> str:
        return (
            f"{self.split}: {self.rows:,} rows, {self.nonblank_rows:,} non-blank, {self.num_bytes:,} bytes, "
            f"sha256 {self.sha256} ({self.verified}), from {self.route}"
        )


def fetch_corpus(config: DataConfig, environment: Mapping[str, str], folder: Path) -> list[SplitSummary]:
    """Writes `folder`/{train,validation,test}.txt in canonical form: all three or, on any error, none.

    Source `wikitext` reads the folder named by WIKITEXT2_DIR in `environment`, or else the Hugging Face hub, and is
    verified against `PINS`; `folder` reads `config.folder`; `synthetic` generates.

    Raises:
        UserError: the hub does not answer as it should; a file missing, unreadable or not UTF-8; a split that is empty
            or not what is pinned.
    """
    sources = _sources(config, environment)
    summaries = []
    with ExitStack() as outputs:
        beside = {split: outputs.enter_context(atomic_path(folder / f"{split}.txt")) for split in SPLITS}
        for split in SPLITS:
            summary = _write_canonical(split, sources[split], beside[split])
            summaries.append(_verify(summary, config.config) if config.source == "wikitext" else summary)
    return summaries


def _sources(config: DataConfig, environment: Mapping[str, str]) -> dict[str, Source]:
    if config.source == "synthetic":
        route = f"the generator, seed {config.synthetic.seed}"
        return {split: Source(route, synthetic_rows(config.synthetic, split)) for split in SPLITS}
    if config.source == "folder":
        return folder_sources(Path(config.folder or "").expanduser(), config.config, "parameter data.folder")
    named = environment.get("WIKITEXT2_DIR")
    if named:
        return folder_sources(Path(named).expanduser(), config.config, "environment variable WIKITEXT2_DIR")
    return hub_sources(config, environment)


def _write_canonical(split: str, source: Source, path: Path) -> SplitSummary:
    digest = hashlib.sha256()
    rows = nonblank_rows = num_bytes = 0
    with path.open("wb") as file:
        for text in source.rows:
            for row in text.strip().split("\n"):  # a row of a parquet file may hold several lines
                line = row.strip().encode() + b"\n"
                digest.update(line)
                file.write(line)
                rows += 1
                nonblank_rows += len(line) > 1
                num_bytes += len(line)
    if not nonblank_rows:
        raise UserError(f"split {split}: empty, found {rows} rows without a word in {source.route}; give it text")
    return SplitSummary(split, rows, nonblank_rows, num_bytes, digest.hexdigest(), source.route)


def _verify(found: SplitSummary, configuration: str) -> SplitSummary:
    pin = PINS[configuration][found.split]
    what = f"split {found.split} from {found.route}"
    remedy = "fetch the corpus again, or set data.source: folder for one of your own"
    if found.rows != pin.rows:
        raise UserError(f"{what}: found {found.rows:,} rows, expected {pin.rows:,} as in {configuration}; {remedy}")
    if pin.sha256 is None:
        for other, pins in PINS.items():
            if pins[found.split].sha256 == found.sha256:
                raise UserError(
                    f"{what}: found the text of {other}, expected that of data.config {configuration}; "
                    f"set data.config: {other}, or fetch the other text"
                )
        return replace(found, verified="row count verified; this configuration's checksum is not known")
    if found.sha256 != pin.sha256:
        raise UserError(
            f"{what}: found sha256 {found.sha256} of the canonical form, expected {pin.sha256} as in {configuration}; "
            f"{remedy}"
        )
    return replace(found, verified="verified")
