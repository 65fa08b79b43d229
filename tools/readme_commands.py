"""Runs the commands of README and checks what they show: make readme-commands, after make demo.

Every line of README's blocks of shell code is run, each block in a copy of the project that the demo left, or in a
clone of the checkout if it is about the study's own results. A line has to end well, and to show what a rule below says
of it. What cannot be run stands below as well, with the reason. That programs, make targets, DVC's options, stages and
parameters exist is checked without running anything.
"""

import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.cli.parser import DvcParserError, get_main_parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.run import environment

ROOT = Path(__file__).resolve().parent.parent

# Regular expressions for lines, and why nobody runs them here. The first that is found in a line holds.
NOT_RUN = {
    r"^make (demo|setup)": "makes the project in which the others are run",
    r"^make (test|lint|audit|bench|mutants|readme-commands)": "minutes or hours; checks the checkout, not a project",
    r"/path/|/shared/|ssh://|\burl\b": "names a place that the reader has to choose",
    r"git (push|pull)|dvc (push|pull)": "needs a remote",
    r"train\.epochs=": "trains all depths for minutes",
    r"--queue|queue start": "goes on in the background; tests/test_pipeline.py runs it",
    r"^git clone|^pip |^apt-get": "needs the network",
    r"^(\. |source |cd |export )": "sets up a shell",
}
# What a line has to show, by regular expressions.
SHOWS = {
    r"^dvc exp run -S model\.num_layers=9": r"Running stage 'train@9'",
    r"^dvc exp run --allow-missing": r"^(?!.*Running stage 'train).*Running stage 'report'",
    r"^dvc (metrics|exp) diff": r"metrics/",
    r"^dvc params diff": r"params\.yaml",
    r"^dvc metrics show": r"val_ppl",
    r"^dvc plots": r"index\.html",
    r"^dvc exp show": r"workspace",
    r"^make experiments": r"workspace",
    r"^dvc artifacts get": r"Downloaded",
}
# Blocks that are about the study's own results: they name commits or the demo's folder, or work without weights.
OF_THE_STUDY = re.compile(r"--allow-missing|build/demo|\b(?=\w*\d)[0-9a-f]{7,40}\b")
# Programs that are neither this project's nor DVC's.
PROGRAMS = {
    *("git", "gto", "pip", "pre-commit", "apt-get", "sbatch", "lm_eval"),
    *("cd", ".", "export", "set", "trap", "echo", "cat", "grep", "head", "ls"),
}


def blocks(text: str) -> list[list[str]]:
    """The lines of each block of shell code; a line that ends with a backslash goes on in the next."""
    found = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    joined = (block.replace("\\\n", " ").splitlines() for block in found)
    return [[line.strip() for line in block if line.strip() and not line.strip().startswith("#")] for block in joined]


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, without comments, assignments and the words of loops."""
    line = re.sub(r"\w+=\$\([^)]*\)", "", line)  # a variable that is set to what another command says
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) <= set("&;|"):
            if words and words[0] != "for" and words != ["done"]:
                yield words
            words = []
        elif words or (token not in ("do", "then") and not re.match(r"\w+=", token)):
            words.append(token)


@dataclass(frozen=True)
class Names:
    """What a project has that a command may name."""

    targets: set[str]
    stages: set[str]
    parameters: dict[str, Any]
    programs: set[str]

    @classmethod
    def of(cls, root: Path) -> "Names":
        """Reads Makefile, dvc.yaml, params.yaml and pyproject.toml."""
        makefile = (root / "Makefile").read_text(encoding="utf-8")
        stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        names = set(stages)
        for name, stage in stages.items():
            each = stage.get("foreach", [])
            members = ["*"] if isinstance(each, str) else [str(item) for item in each]  # any, if a parameter lists them
            members += ["-".join(map(str, values)) for values in itertools.product(*stage.get("matrix", {}).values())]
            names |= {f"{name}@{member}" for member in members}
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return cls(
            set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)),
            names,
            yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")),
            PROGRAMS | set(project.get("scripts", {})),
        )

    def unknown(self, words: list[str]) -> list[str]:
        """What a simple command names that does not exist; what a shell variable stands for is not asked."""
        program, *arguments = words
        if program == "make":
            targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
            return [f"make {target}" for target in targets if target not in self.targets]
        if program == "dvc":
            return self._unknown_to_dvc(arguments)
        if program in ("python", "python3"):
            name = arguments[1] if arguments[0] == "-m" else arguments[0]
            return [] if _exists(name, is_module=arguments[0] == "-m") else [name]
        return [] if program in self.programs else [program]

    def _unknown_to_dvc(self, arguments: list[str]) -> list[str]:
        try:
            options = get_main_parser().parse_args(arguments)
        except (DvcParserError, SystemExit):
            return [f"dvc {shlex.join(arguments)}"]
        found = []
        if arguments[0] == "repro" or arguments[:2] == ["exp", "run"]:
            targets = options.targets or []
            names = [target for target in targets if "$" not in target]
            found += [name for name in names if not {name, f"{name.split('@', 1)[0]}@*"} & self.stages]
        for change in getattr(options, "set_param", None) or []:
            if change.startswith("+"):  # adds what is not there
                continue
            values: Any = self.parameters
            for part in change.split("=")[0].split("."):
                values = values.get(part, NotImplemented) if isinstance(values, dict) else NotImplemented
            found += [change] if values is NotImplemented else []
        return found


def _exists(name: str, is_module: bool) -> bool:
    try:
        return importlib.util.find_spec(name) is not None if is_module else (ROOT / name).is_file()
    except ModuleNotFoundError:  # a package that it would be in
        return False


def unknown_names(text: str, names: Names) -> list[str]:
    """What the shell code of a document names that does not exist."""
    lines = [line for block in blocks(text) for line in block]
    return [found for line in lines for words in commands(line) for found in names.unknown(words)]


def reason_not_to_run(line: str) -> str | None:
    """Why a line cannot be run in a copy of the demo, if so."""
    code = line.split(" #", maxsplit=1)[0]
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, code)), None)


def failure(line: str, folder: Path) -> str | None:
    """Runs a line in a project; what is wrong with what it shows, if anything is."""
    variables = environment() | {"COLUMNS": "200", "PAGER": "cat"}
    command = ["bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    output = done.stdout + done.stderr
    if done.returncode:
        return f"ended with status {done.returncode}:\n{output}"
    for pattern, expected in SHOWS.items():
        if re.search(pattern, line) and not re.search(expected, output, re.DOTALL):
            return f"does not show {expected!r}, but:\n{output}"
    return None


def run_blocks(text: str, demo: Path, clone: Path) -> list[str]:
    """Runs the lines of a document, each block in a project that is as it was committed.

    Args:
        text: of the document.
        demo: a copy of the finished demo, with weights.
        clone: of the checkout, with the study's results and without weights.

    Returns:
        A description of each failure.
    """
    failures = []
    for block in blocks(text):
        folder = clone if OF_THE_STUDY.search("\n".join(block)) else demo
        if any(reason_not_to_run(line) is None for line in block):
            restore(folder)
        for line in block:
            if reason := reason_not_to_run(line):
                print(f"not run: {line}\n         ({reason})", flush=True)
                continue
            began = time.monotonic()
            problem = failure(line, folder)
            print(f"{'FAILED' if problem else 'ok'}, {time.monotonic() - began:.0f} s: {line}", flush=True)
            if problem:
                failures.append(f"{line}\n{problem}")
    return failures


def restore(folder: Path) -> None:
    """Takes a project back to what is committed, and its weights, if they are in DVC's cache."""
    # git status notices first that copied files are what they were; else they would be written anew, and make would
    # take requirements.lock for a newer one than that of the environment
    for command in (
        *("git status --porcelain", "git reset --quiet --hard", "git clean --quiet -fd"),
        "dvc checkout --quiet --allow-missing",
    ):
        subprocess.run(shlex.split(command), cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Checks names, then runs README's commands in build/readme."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    failures = unknown_names(text, Names.of(ROOT))
    finished, folder = ROOT / "build" / "demo", ROOT / "build" / "readme"
    if not (finished / "dvc.lock").is_file():
        sys.exit(f"error: {finished}: no finished demo; run `make demo` first")
    shutil.rmtree(folder, ignore_errors=True)
    clone, demo = folder / "clone", folder / "clone" / "build" / "demo"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], env=environment(), check=True)
    shutil.copytree(finished, demo, symlinks=True)
    for project in (clone, demo):
        if not (project / ".venv").exists():
            (project / ".venv").mkdir()
            (project / ".venv" / "installed").touch()  # for make: the packages are those of this environment
    failures += run_blocks(text, demo, clone)
    if failures:
        sys.exit("\n\n".join(["error: README's commands fail:", *failures]))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
