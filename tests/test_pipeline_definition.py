"""dvc.yaml against the code: each stage depends on exactly the modules and parameters that it uses."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from newllm.analysis.records import GROWN_DEPTHS, PATTERNS

ROOT = Path(__file__).parent.parent
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}

# Modules and folders that check, report, raise, or run things on a machine, and cannot change what a stage writes.
WITHOUT_INFLUENCE = ("src/newllm/errors.py", "src/newllm/config.py", "src/newllm/runtime/", "stages/__init__.py")


def imported_modules(path: Path, seen: set[str]) -> set[str]:
    """The project's own modules that a file imports, and those that they import, as paths below the root."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for place in (Path("src", *name.split(".")), Path(*name.split("."))):
                module = place.with_suffix(".py")
                if (ROOT / module).is_file() and str(module) not in seen:
                    seen.add(str(module))
                    imported_modules(ROOT / module, seen)
    return seen


def module_of(stage: str) -> str:
    match = re.search(r"python -m stages\.(\w+)", STAGES[stage]["cmd"])
    assert match
    return f"stages/{match[1]}.py"


def is_within(module: str, dependency: str) -> bool:
    return module == dependency or module.startswith(f"{dependency}/")


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_imports(stage: str) -> None:
    """Every module that can change what a stage writes is one of its dependencies, or in a folder that is one."""
    script = module_of(stage)
    used = {script, *imported_modules(ROOT / script, set())}
    if stage != "check_parameters":
        used = {module for module in used if not module.startswith(WITHOUT_INFLUENCE)}
    used -= {"src/newllm/errors.py", "stages/__init__.py"}
    declared = [dependency for dependency in STAGES[stage]["deps"] if dependency.startswith(("src/", "stages/"))]
    missing = [module for module in used if not any(is_within(module, dependency) for dependency in declared)]
    assert not missing
    needless = [dependency for dependency in declared if not any(is_within(module, dependency) for module in used)]
    assert not needless


def test_wings_import_only_those_before_them() -> None:
    """Each wing of the library uses itself and those before it, and no wing reads params.yaml or the stages."""
    wings = [
        *("data", "corpus", "model", "runtime", "training", "measurement", "studies", "analysis", "parallel", "usage")
    ]
    assert sorted(wings) == sorted(path.parent.name for path in (ROOT / "src/newllm").glob("*/__init__.py"))
    for place, wing in enumerate(wings):
        allowed = {*wings[: place + 1], "config", "errors", "files"}
        for path in (ROOT / "src/newllm" / wing).glob("*.py"):
            imported = {module.removesuffix(".py") for module in imported_modules(path, set())}
            assert {Path(module).relative_to("src/newllm").parts[0] for module in imported} <= allowed, path


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_its_gpu_before_it_chooses_a_device(stage: str) -> None:
    tree = ast.parse((ROOT / module_of(stage)).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    lines = {name: [c.lineno for c in calls if ast.unparse(c.func) == name] for name in ("take_gpu", "choose_device")}
    assert len(lines["take_gpu"]) == bool(lines["choose_device"])
    assert all(lines["take_gpu"][0] < line for line in lines["choose_device"])


def test_every_writer_is_one() -> None:
    outputs = []
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            for output in stage.get(kind, []):
                outputs.append(output if isinstance(output, str) else next(iter(output)))
    assert len(outputs) == len(set(outputs))


def test_depths_are_the_same_everywhere() -> None:
    depths = PIPELINE["stages"]["train"]["foreach"]
    assert depths == [1, 2, 3, 4, 5, 6, 7, 8, "${model.num_layers}"]
    assert PIPELINE["vars"][0] == {"sweep": " ".join(map(str, depths[:-1]))}
    for name in ("evaluate", "diagnose"):
        assert PIPELINE["stages"][name]["foreach"] == depths
    for name in ("check_parameters", "report"):
        assert STAGES[name]["cmd"].endswith(" --num-layers ${sweep} ${model.num_layers}")


def test_an_entry_of_recipes_is_a_stage_that_depends_on_it_alone() -> None:
    assert PIPELINE["stages"]["recipes"]["foreach"] == "${recipes}"
    stage = STAGES["recipes"]
    assert stage["cmd"].endswith(" --name ${key}")
    assert {*parameters_of(stage)} == {*parameters_of(STAGES["train"]), "recipes.${key}"}


def test_artifacts_are_the_models_of_every_depth_and_the_best() -> None:
    depths = PIPELINE["stages"]["train"]["foreach"][:-1]
    expected = {f"depth-{depth}": f"models/{depth}" for depth in depths} | {"new-llm": "models/${best}"}
    assert {name: artifact["path"] for name, artifact in PIPELINE["artifacts"].items()} == expected
    assert {artifact["type"] for artifact in PIPELINE["artifacts"].values()} == {"model"}
    measured = {str(depth): f"layers/{depth}" for depth in depths} | {
        f"tuned/{depth}": f"tuned/{depth}" for depth in depths
    }
    found = {
        name: json.loads((ROOT / f"metrics/{file}.json").read_text())["val_ppl"] for name, file in measured.items()
    }
    assert PIPELINE["vars"][1:] == [{"best": min(found, key=lambda name: float(found[name]))}]


def test_the_report_looks_for_what_expand_writes() -> None:
    matrix = PIPELINE["stages"]["expand"]["matrix"]
    assert matrix == {"depth": list(GROWN_DEPTHS), "pattern": list(PATTERNS)}


def test_the_report_waits_for_everything_that_it_reads() -> None:
    """All folders in which other stages write results, but that of the trials' curves; each is there, maybe empty."""
    outputs = [next(iter(out)) for one in STAGES.values() for out in [*one.get("metrics", []), *one.get("plots", [])]]
    written = {str(Path(output).parent) for output in outputs if "${" in output}
    folders = {name for name in STAGES["report"]["deps"] if name.startswith(("metrics/", "plots/")) and "." not in name}
    assert folders == written - {"plots/tuning"}
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []
    assert "metrics/data.json" in STAGES["report"]["deps"]


def listed_by(stage: dict[str, Any]) -> str | None:
    """The parameter that lists what a stage is made for."""
    foreach = stage.get("foreach")
    return foreach[2:-1] if isinstance(foreach, str) else None


def parameters_of(stage: dict[str, Any]) -> list[str]:
    """The parameters that a stage names; of a file, in a list of their own, or as they are."""
    return [
        parameter
        for entry in stage.get("params", [])
        for parameter in (entry["params.yaml"] if isinstance(entry, dict) else [entry])
    ]


def test_parameters_are_those_of_the_file() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in STAGES.items():
        for parameter in parameters_of(stage):
            value = values
            for part in parameter.removesuffix(".${key}").split("."):  # of entries there may be none
                assert part in value, f"{name}: {parameter}"
                value = value[part]


def test_parameters_used_are_declared() -> None:
    """Every parameter of params.yaml is a dependency of some stage or lists stages; training's are those of train."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    declared = {parameter for stage in STAGES.values() for parameter in parameters_of(stage)}
    declared |= {listed_by(stage) for stage in PIPELINE["stages"].values()}
    del values["checkpoint"]  # changes no result
    del values["recipes"]  # entries, each a stage of its own
    for section, entries in values.items():
        for name in entries:
            assert section in declared or f"{section}.{name}" in declared, f"{section}.{name}"
    assert "model.num_layers" not in parameters_of(STAGES["train"]), (
        "a new depth under study must not retrain the others"
    )


def test_study_defaults() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert values["model"] == {
        "num_layers": 6,
        "embedding_dim": 256,
        "context_dim": 256,
        "hidden_size": 512,
        "dropout": 0.1,
        "residual": False,
        "initialisation": "normal",
    }
    assert values["train"]["seeds"] == [0, 1, 2, 3, 4]
    assert values["train"]["gradient_clipping"] == [[1, 0.5], [11, 1.0], [31, 2.0]]
    expected = {
        "epochs": 150,
        "batch_size": 2048,
        "base_learning_rate": 1e-4,
        "base_batch_size": 32,
        "schedule": "constant",
        "warmup_epochs": 0,
        "precision": "fp16",
        "patience": 30,
        "min_improvement": 0.001,
    }
    assert values["train"].items() >= expected.items()
    expected_data = {"config": "wikitext-2-v1", "vocabulary_size": 1000, "window": 64, "stride": 32, "min_words": 5}
    assert values["data"].items() >= expected_data.items()
    assert values["study"] == {"baseline_num_layers": 6}
