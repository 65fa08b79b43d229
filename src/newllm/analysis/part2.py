"""What part 2 of the study wrote, where params.yaml says that it ran: searches, and the models that they led to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from newllm.analysis.records import Group, Source, mean_norms, trained
from newllm.analysis.schemas import Confirmed, Search
from newllm.config import Config

NAMES = {"tuned": "tuned", "equal": "equal parameters", "lstm": "LSTM, {}", "recipes": "{}"}
"""What models are called, by the folder of their files; with the key of the file."""


@dataclass(frozen=True)
class Planned:
    """What of part 2 params.yaml asks for; nothing by default."""

    tuned: Sequence[int] = ()
    equal: Mapping[int, int] = field(default_factory=dict)  # hidden size by depth
    recipes: Sequence[str] = ()
    lstm: Sequence[int] = ()

    @classmethod
    def of(cls, config: Config) -> "Planned":
        """From params.yaml."""
        equal = sorted((int(depth), size) for depth, size in config.search.equal_parameters.items())
        return cls(tuple(config.search.depths), dict(equal), tuple(config.recipes), tuple(config.lstm.hidden_sizes))


@dataclass(frozen=True)
class PartTwo:
    """All of it may be missing: searches and confirmed models by depth, changed recipes, LSTMs by hidden size."""

    tuning: Mapping[int, Search] = field(default_factory=dict)
    tuned: Mapping[int, Group] = field(default_factory=dict)
    equal: Mapping[int, Group] = field(default_factory=dict)
    recipes: Sequence[Group] = ()
    lstm: Mapping[int, Group] = field(default_factory=dict)
    lstm_searches: Mapping[int, Search] = field(default_factory=dict)


def load_part_two(root: Path, planned: Planned, data_sha256: str) -> PartTwo:
    """Everything that is planned, from below `root`.

    Raises:
        UserError: a file is missing, damaged, contradicts another, or is of other windows than the study's.
    """
    return PartTwo(
        {depth: _load_search(root, f"tuning/{depth}", f"tune@{depth}", "tuning", depth) for depth in planned.tuned},
        {depth: _load_confirmed(root, "tuned", depth, data_sha256) for depth in planned.tuned},
        {depth: _load_confirmed(root, "equal", depth, data_sha256, size) for depth, size in planned.equal.items()},
        [_load_confirmed(root, "recipes", name, data_sha256) for name in planned.recipes],
        {size: _load_confirmed(root, "lstm", size, data_sha256) for size in planned.lstm},
        {size: _load_search(root, f"lstm/{size}", f"lstm@{size}", "details") for size in planned.lstm},
    )


def _load_search(root: Path, name: str, stage: str, key: str, depth: int = 1) -> Search:
    source = Source.of(root / f"metrics/{name}.json", stage)
    found = source.record(key, Search)
    source.check(num_layers=(found.num_layers, depth))
    return found


def _load_confirmed(root: Path, kind: str, key: int | str, data_sha256: str, hidden_size: int | None = None) -> Group:
    """A model of a kind; a hidden size that is given must be its own."""
    paths = (root / f"metrics/{kind}/{key}.json", root / f"plots/{kind}/{key}.csv")
    source, curves = (Source.of(path, f"{'confirm' if kind == 'tuned' else kind}@{key}") for path in paths)
    metrics = source.record("details", Confirmed)
    run = metrics.runs[0]
    if kind != "recipes":
        name = "hidden_size" if kind == "lstm" else "num_layers"
        source.check(**{name: (getattr(metrics, name), key)})
    if hidden_size is not None:
        source.check(hidden_size=(metrics.hidden_size, hidden_size))
    recipe = metrics.recipe and metrics.recipe.model_dump(exclude_unset=True)
    changes = metrics.changes if kind == "recipes" else recipe
    if changes is None:
        raise source.problem(f"key {'changes' if kind == 'recipes' else 'recipe'} is missing")
    norms = [seed.initial_norms for seed in run.seeds if seed.initial_norms]
    source.check(
        data_sha256=(run.data_sha256, data_sha256),
        initial_norms=([len(one) for one in norms], [metrics.num_layers] * len(norms)),
    )
    more = {
        "about": run.model_dump(exclude={"seeds", "parameters"}),
        "parameters": run.parameters | ({"model.hidden_size": metrics.hidden_size} if metrics.hidden_size else {}),
        "changes": changes,
        "norms": {"initial": mean_norms(norms)} if len(norms) == len(run.seeds) else {},
    }
    group = "changed" if kind == "recipes" else kind
    return trained(group, NAMES[kind].format(key), metrics, run.seeds, (source, curves), **more)
