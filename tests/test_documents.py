"""What the documents name is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in ("benchmarks", "docs") for path in (ROOT / folder).glob("*.md")),
]
CODE = ("src/", "stages/", "tests/", "docs/", "benchmarks/", "demo/", "tools/")


def names(text: str) -> list[str]:
    """What stands between backticks outside of blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def outputs() -> set[str]:
    """Of all stages, as a document names those of a depth and of a pattern."""
    stages: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    found = set()
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots"):
            for output in stage.get("do", stage).get(kind, []):
                name = output if isinstance(output, str) else next(iter(output))
                name = name.replace("${item}", "<depth>").replace("${item.depth}", "<depth>")
                name = name.replace("${item.pattern}", "<pattern>")
                found |= {name.replace("${key}", "<depth>"), name.replace("${key}", "<name>")}
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_of_code_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    paths = [name.split()[0] for name in names(text) if name.startswith(CODE)]
    assert [name for name in paths if "<" not in name and not (ROOT / name).exists()] == []


def test_every_path_of_the_architecture_exists() -> None:
    """Or is an output of the pipeline."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    paths = [name for name in names(text) if " " not in name and re.search(r"[/.]|^stages$", name)]
    assert len(paths) > 40
    made = outputs()
    assert [name for name in paths if name not in made and not (ROOT / name).exists()] == []


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `src/newllm/(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rooms) == sorted(path.parent.name for path in (ROOT / "src/newllm").glob("*/__init__.py"))
