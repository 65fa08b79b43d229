"""Runs the whole pipeline on a small generated corpus in a copy of the project: python demo/run.py.

The copy, build/demo, is a git and DVC project of its own, to look at and to play with; the checkout itself
stays as it is.
"""

import copy
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml
from dulwich.ignore import IgnoreFilterManager
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from demo.baselines import baseline_perplexities
from newllm.files import read_json
from newllm.runtime.git import git, isolated
from stages import run

ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """The environment for git and DVC in the copy: `python` is this interpreter, and nobody is told about the run.

    One thread, unless said otherwise: products this small gain little from more, and waiting threads are in the way of
    whatever else the machine does.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"OMP_NUM_THREADS": "1"} | isolated(os.environ) | {"PATH": path}


def copy_project(folder: Path, parameters: Mapping[str, Any], pipeline: Mapping[str, Any] | None = None) -> None:
    """Copies what git does not ignore into `folder` as a new project, with changed parameters, and commits it.

    Args:
        folder: of the copy.
        parameters: what to change in params.yaml.
        pipeline: what to change in dvc.yaml, such as the depths. Default: nothing.

    Committed results (dvc.lock, metrics, plots) are left out: they are those of other parameters.
    Folders that the report depends on, whatever lies there, stay. Without git the copy is a DVC project alone.

    Raises:
        UserError: git fails.
    """
    for name in files():
        if name == "dvc.lock" or (name.startswith(("metrics/", "plots/")) and not name.endswith("/.gitkeep")):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)  # without its mode: the original may be read-only
    with modify_yaml(folder / "params.yaml") as values:  # as `dvc exp run -S` does, with all comments
        change(values, parameters)
    if pipeline:
        layout = YAML()
        layout.width, layout.preserve_quotes = 160, True
        layout.indent(mapping=2, sequence=4, offset=2)
        stages = layout.load(folder / "dvc.yaml")
        change(stages, pipeline)
        layout.dump(stages, folder / "dvc.yaml")
    if has_git():
        git(folder, "init", "--quiet", environment=environment())
    else:
        (folder / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    commit(folder, "Copy of the project")


def change(values: MutableMapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Sets values in nested mappings, and removes those for which there is None; an empty mapping empties one.

    A list is changed where it is, for all that share it by a YAML anchor.
    """
    for name, value in changes.items():
        if value is None:
            del values[name]
        elif isinstance(value, Mapping) and value and isinstance(values.get(name), MutableMapping):
            change(values[name], value)
        elif isinstance(value, list) and isinstance(values.get(name), list):
            values[name][:] = copy.deepcopy(value)
        else:
            values[name] = copy.deepcopy(value)


def files() -> Iterator[str]:
    """The project's files that no .gitignore names, relative to the root; folders behind links are none of it."""
    ignored = IgnoreFilterManager(str(ROOT), [], ignorecase=False)
    for folder, folders, names in os.walk(ROOT):
        relative = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if name != ".git" and not ignored.is_ignored(f"{relative / name}/")]
        for name in names:
            if name != ".git" and (Path(folder) / name).is_file() and not ignored.is_ignored(str(relative / name)):
                yield (relative / name).as_posix()


def has_git() -> bool:
    """Whether there is a git to be run."""
    return shutil.which("git") is not None


def commit(folder: Path, message: str) -> None:
    """Commits all that git does not ignore, if there is a git.

    Raises:
        UserError: git fails.
    """
    if has_git():
        git(folder, "add", "--all", environment=environment())
        git(folder, "commit", "--quiet", "--message", message, environment=environment())


def share_environment(folder: Path) -> None:
    """Lets make in the copy use the environment that runs the demo, if make has set that up, and install nothing."""
    if not (Path(sys.prefix) / "installed").is_file():
        return
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    time_ns = (ROOT / "requirements.lock").stat().st_mtime_ns  # which make compares with that of the environment
    os.utime(folder / "requirements.lock", ns=(time_ns, time_ns))
    if has_git():  # .gitignore names a folder, which a link is not
        with (folder / ".git" / "info" / "exclude").open("a", encoding="utf-8") as exclude:
            exclude.write("/.venv\n")


def lessons(folder: Path) -> str:
    """What the models of the finished demo in `folder` came to: a text of the best one, and all beside the baselines.

    Raises:
        UserError: a file of the results is missing.
    """
    layers = [read_json(path, "evaluate") for path in (folder / "metrics" / "layers").glob("*.json")]
    found = sorted((values["details"][0] for values in layers), key=lambda depth: int(depth["num_layers"]))
    best = min(found, key=lambda depth: float(depth["val_ppl"]))
    diagnostics = read_json(folder / f"metrics/diagnostics/{best['num_layers']}.json", "diagnose")["diagnostics"][0]
    text = max(diagnostics["samples"]["texts"], key=lambda text: len(set(text["sampled"].split())))  # the most varied
    size = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["data"]["vocabulary_size"]
    names = ("unigram (how frequent a word is)", "bigram (Witten-Bell; the last word)")
    baselines = zip(names, baseline_perplexities(folder / "data" / "windows", size), strict=True)
    apart = [str(depth["num_layers"]) for depth in found if _bounds(depth)[0] > _bounds(best)[1]]
    lines = [
        f"What the best model, of {_layers(best)}, writes in the demo's invented language, where <unk> is a rare word:",
        f"  {text['prompt']} | {text['sampled']}",
        "",
        f"Perplexity on held-out text, mean of {best['num_seeds']} seeds with its 95 % interval (lower is better):",
        f"  {'model':35} {'validation':>14} {'test':>14} {'accuracy':>9}",
        *(f"  {name:35} {value:14.2f}" for name, value in baselines),
        *(
            f"  {_layers(depth):35} {_interval(depth, 'val_ppl'):>14} {_interval(depth, 'test_ppl'):>14} "
            f"{100 * depth['val_accuracy']:7.1f} %"
            for depth in found
        ),
        f"Depths whose interval lies above that of {_layers(best)}: {', '.join(apart) or 'none'}.",
    ]
    return "\n".join(lines)


def _layers(depth: Mapping[str, Any]) -> str:
    number = depth["num_layers"]
    return f"{number} layer" if number == 1 else f"{number} layers"


def _interval(depth: Mapping[str, Any], name: str) -> str:
    mean, half_width = depth[name], depth.get(f"{name}_ci95")
    return f"{mean:.2f}" if half_width is None else f"{mean:.2f} ± {half_width:.2f}"


def _bounds(depth: Mapping[str, Any]) -> tuple[float, float]:
    """Of the interval of the validation perplexity; one seed tells of none."""
    half_width = depth.get("val_ppl_ci95", math.inf)
    return depth["val_ppl"] - half_width, depth["val_ppl"] + half_width


def main() -> None:
    """Copies, runs `dvc repro`, and shows what the models learnt and where the report is."""
    folder = ROOT / "build" / "demo"
    if folder.exists():
        shutil.rmtree(folder)
    start = time.monotonic()
    settings = yaml.safe_load((ROOT / "demo" / "settings.yaml").read_text(encoding="utf-8"))
    copy_project(folder, settings["params.yaml"], settings["dvc.yaml"])
    share_environment(folder)
    print(
        f"The demo runs in {folder}: four depths, three seeds each, a generated corpus; some three minutes.\n",
        flush=True,
    )
    done = subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), check=False)
    if done.returncode:
        sys.exit(done.returncode)
    commit(folder, "Results of the demo")  # for `dvc metrics diff` to compare with
    print(f"\n{lessons(folder)}\n\nDone in {time.monotonic() - start:.0f} s. The report and its pictures:")
    for path in (*sorted((folder / "metrics").glob("report.*")), *sorted((folder / "plots/pictures").glob("*.png"))):
        print(f"  {path}")
    print("So small models of so small a language say nothing about the order of the depths on WikiText-2.")
    activate = shlex.quote(str(Path(sys.prefix) / "bin" / "activate"))
    print(f"Go on there, for instance:\n  . {activate} && export OMP_NUM_THREADS=1 && cd {shlex.quote(str(folder))}")
    if has_git():
        print("  dvc exp run -S model.num_layers=9 && dvc metrics diff")
    else:
        print("  dvc repro --force report    # DVC's experiments and comparisons need git, which is not installed here")


if __name__ == "__main__":
    run(main)
