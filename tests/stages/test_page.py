"""`make report` without its browser: the page is written whole, or the earlier one stays."""

import os
import subprocess
import sys
from pathlib import Path

from tests.analysis.metrics_files import write_all
from tests.checkout import ROOT, write_parameters


def call(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.page", "--no-browser", "--num-layers", "1", "4", "6"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_page_is_written_and_an_error_leaves_it(tmp_path: Path) -> None:
    write_parameters(tmp_path)
    write_all(tmp_path)
    done = call(tmp_path)
    page = tmp_path / "build/report/index.html"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{page}\n", "")
    before = page.read_bytes()
    (tmp_path / "metrics/layers/4.json").unlink()
    done = call(tmp_path)
    assert done.returncode == 1
    assert "metrics/layers/4.json: no such file" in done.stderr
    assert page.read_bytes() == before
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
