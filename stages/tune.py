"""Searches for one depth's best recipe: metrics/tuning/<depth>.json and plots/tuning/<depth>.csv.

With --replay it only tells what the pruning rule of params.yaml would have done in a search without it.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from newllm.config import Config, load_config
from newllm.errors import UserError
from newllm.files import atomic_path, sha256, write_csv, write_json
from newllm.model.definition import ModelShape
from newllm.runtime.device import choose_device, describe
from newllm.runtime.gpus import take_gpu
from newllm.runtime.provenance import identity, provenance
from newllm.runtime.resume import StateStore, folder_of_states
from newllm.studies.search import chosen
from newllm.studies.tuning import (
    Trainings,
    load_split,
    load_tuning,
    margins_of,
    parameters_of,
    plan_of,
    replayed,
    run_search,
    shape_of,
    trial_curves,
)
from stages import run

FILES = [Path(f"data/windows/{split}.npy") for split in ("train", "validation")]
NOT_OF_A_SEARCH = {"depths", "equal_parameters", "confirm_seeds", "equal_seeds"}


def main() -> None:
    """Reads params.yaml and the windows of the training and validation splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, required=True)
    parser.add_argument("--replay", action="store_true")
    options = parser.parse_args()
    num_layers = options.num_layers
    if num_layers < 1:
        raise UserError(f"search.depths: found {num_layers}, expected 1 or more")
    config = load_config(Path("params.yaml"))
    metrics, curves = Path(f"metrics/tuning/{num_layers}.json"), Path(f"plots/tuning/{num_layers}.csv")
    if options.replay:
        tuning = load_tuning(metrics, num_layers, config, sha256(FILES[0]))
        print(replayed(tuning, curves, margins_of(config.search)))
    else:
        _search(config, num_layers, metrics, curves)


def _search(config: Config, num_layers: int, metrics: Path, curves: Path) -> None:
    splits = [load_split(path, config.data.vocabulary_size) for path in FILES]
    take_gpu()
    device = choose_device(config.train.precision)
    shape, plan = shape_of(config, num_layers, residual=False), plan_of(config.search, num_layers)
    print(
        f"search at depth {num_layers}: {plan.trials} trials, {shape.num_params:,} parameters, "
        f"{config.train.precision}, {describe(device)}"
    )
    parameters = parameters_of(config)
    searched = {"search": config.search.model_dump(exclude=NOT_OF_A_SEARCH), "optuna": optuna.__version__}

    def make_store(name: str, shape: ModelShape, about: Mapping[str, Any], every: int | None = None) -> StateStore:
        about = identity({**parameters, **about}, shape, FILES, device)
        return StateStore(folder_of_states(os.environ, Path.cwd()), name, about, every or config.checkpoint.every)

    about = provenance(Path.cwd(), device)
    # fails now if it must, not at the end
    with (
        make_store(f"tune@{num_layers}", shape, searched, every=1) as store,
        atomic_path(metrics) as new_metrics,
        atomic_path(curves) as new_curves,
    ):
        trainings = Trainings(config, num_layers, (splits[0].to(device), splits[1].to(device)), store, make_store)
        found = run_search(config.search, num_layers, trainings)
        winner = chosen(found.space, found.finalists)
        record = {
            "num_layers": num_layers,
            "num_params": shape.num_params,
            "seed": plan.seed,
            "space": found.space,
            "trials": [asdict(trial) for trial in found.trials],
            "finalists": [asdict(one) for one in found.finalists],
            "chosen": winner,
            **about,
            "data_sha256": sha256(FILES[0]),
            "precision": config.train.precision,
            "parameters": parameters,
        }
        write_json(new_metrics, {"tuning": [record]})  # in a list, which DVC does not take for figures to compare
        write_csv(new_curves, trial_curves(found.trials, found.outcomes))
    print(f"best recipe at depth {num_layers}: {winner['recipe']}, {winner['why']}")
    for knob in winner["at_end_of_range"]:
        values = found.space[knob]
        print(
            f"warning: the best {knob}, {winner['recipe'][knob]}, is still at the end of its range {values[0]} to "
            f"{values[-1]}; raise search.widenings, or give search.space.{knob} values beyond it, and search again"
        )


if __name__ == "__main__":
    run(main)
