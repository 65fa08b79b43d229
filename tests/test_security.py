"""What SECURITY.md promises, read from the code: nothing unpickled or executed, and no network but in one module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "stages", "benchmarks", "demo", "tools")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NETWORK = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "datasets", "huggingface_hub"}
MAY_USE_NETWORK = ROOT / "src" / "newllm" / "corpus" / "hub.py"


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level names of all modules that are imported anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def loaders_under_another_name(tree: ast.AST) -> Iterator[str]:
    """Imports that would hide an unsafe loader from `unsafe_calls`, which knows it by its module's name."""
    loaders = {"torch": {"load"}, "numpy": {"load"}, "yaml": {"load", "unsafe_load"}, "os": {"system"}}
    usual = {"torch": "torch", "numpy": "np", "yaml": "yaml", "os": "os"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            hidden = loaders.get(node.module or "", set()) & {alias.name for alias in node.names}
            yield from (f"line {node.lineno}: {node.module}.{name}" for name in hidden)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname not in (None, usual.get(alias.name, alias.asname)):
                    yield f"line {node.lineno}: {alias.name} as {alias.asname}"


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that can run code from data: eval and its like, a shell, and loaders without their safe switch."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        switches = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        safe = {
            "torch.load": switches.get("weights_only") == "True",  # that is, torch.load(..., weights_only=True)
            "np.load": switches.get("allow_pickle") == "False",
            "numpy.load": switches.get("allow_pickle") == "False",
            "yaml.load": switches.get("Loader") == "_Loader",  # of newllm.config, a SafeLoader
            "yaml.unsafe_load": False,
            "os.system": False,
        }
        is_builtin = name in ("eval", "exec", "compile", "__import__")
        if is_builtin or not safe.get(name, True) or switches.get("shell") == "True":
            yield f"line {node.lineno}: {name}"


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_from_data_and_no_network(path: Path) -> None:
    tree = parsed(path)
    modules = set(imported(tree))
    assert not modules & UNPICKLING
    assert path == MAY_USE_NETWORK or not modules & NETWORK
    assert list(unsafe_calls(tree)) == []
    assert list(loaders_under_another_name(tree)) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "torch.load(path)",  # safe with weights_only=True
        "torch.load(path, weights_only=False)",  # safe with weights_only=True
        "np.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_reader_sees_what_is_unsafe(code: str) -> None:
    assert list(unsafe_calls(ast.parse(code)))


@pytest.mark.parametrize("code", ["from torch import load", "import torch as t", "from os import system as run"])
def test_the_reader_sees_loaders_under_another_name(code: str) -> None:
    assert list(loaders_under_another_name(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["import numpy as np", "from safetensors.torch import load", "from torch import Tensor"]
)
def test_the_reader_allows_the_usual_imports(code: str) -> None:
    assert list(loaders_under_another_name(ast.parse(code))) == []


def test_unpickling_and_network_are_seen_wherever_they_are_imported() -> None:
    tree = ast.parse("def f():\n    import pickle\n    from urllib.request import urlopen")
    assert set(imported(tree)) == {"pickle", "urllib"}


def test_every_dependency_is_pinned_exactly() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if line.count("==") != 1] == []


def test_dvc_reports_nothing() -> None:
    config = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "check_update = false" in config
