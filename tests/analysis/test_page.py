"""The page: self-contained, and in a browser without an error, wide and narrow."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from newllm.analysis.figures import draw_all
from newllm.analysis.report import render, write_page
from stages.report import load

ROOT = Path(__file__).parents[2]
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")


@pytest.fixture(scope="module")
def page() -> str:
    study = load(ROOT, list(range(1, 9)))
    figures = draw_all(study)
    return write_page(*render(study, figures, ["report", "appendix"], "../plots/pictures"), figures)


def test_it_needs_nothing_from_outside(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"<script[^>]* src=", page)
    without = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"<link [^>]*>", without) == ['<link rel="icon" href="data:,">']
    assert not re.search(r"<(img|iframe|object|video)|url\(", without), "each picture is a chart"


def test_every_link_leads_somewhere(page: str) -> None:
    ids = set(re.findall(r' id="([^"]+)"', page))
    links = re.findall(r'<a href="([^"]+)"', page)
    assert [link for link in links if link.startswith("#") and link != "#" and link[1:] not in ids] == []
    paths = [link for link in links if not link.startswith(("#", "http"))]
    assert paths
    folder = ROOT / "build/report"
    assert [link for link in paths if not (folder / link).resolve().exists()] == []


def test_every_chart_has_its_place_and_its_numbers(page: str) -> None:
    places = re.findall(r'data-chart="([^"]+)"', page)
    specifications = dict(re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL))
    assert sorted(places) == sorted(specifications)
    assert len(places) >= 6
    assert all(json.loads(text)["width"] == "container" for text in specifications.values())


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium on the PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: str, width: int, tmp_path: Path) -> None:
    """No message on the console, among which a request that the page's policy forbids would be; charts are drawn."""
    probe = (
        "<script>setTimeout(() => { const wide = document.documentElement.scrollWidth;"
        "const head = document.querySelector('th'); head.click(); head.click(); const first ="
        " head.closest('table').tBodies[0].rows[0].cells[0].textContent;"
        "document.title = [document.querySelectorAll('.chart svg').length, wide, first].join(' ') }, 8000)</script>"
    )
    (tmp_path / "probe.html").write_text(page.rpartition("</body>")[0] + probe, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000", "--virtual-time-budget=15000",
        "--enable-logging=stderr", "--dump-dom", f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>([^<]*)</title>", done.stdout)
    assert title
    charts, wide, first = title[1].split()
    assert int(charts) == page.count("data-chart=")
    assert int(wide) <= max(width, 500), "nothing sticks out; a browser window has a least width"
    assert first == "8", "two clicks on a column sort it downwards"
