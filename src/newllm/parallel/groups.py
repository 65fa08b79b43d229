"""Which stages run first, which belong together, and which run last, from DVC's graph of the pipeline."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import dropwhile

import networkx as nx


@dataclass(frozen=True)
class Group:
    """Stages that belong together, such as a depth's training, evaluation and diagnosis.

    Attributes:
        stages: their names, each after those that it depends on.
        targets: those of them that no other one depends on.
    """

    stages: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """That of its first stage."""
        return self.stages[0]

    def of(self, changed: Collection[str]) -> "Group | None":
        """What of it may run: everything from the first changed stage on; None if none has changed."""
        stages = tuple(dropwhile(lambda stage: stage not in changed, self.stages))
        return Group(stages, tuple(stage for stage in self.targets if stage in stages)) if stages else None


def needed(graph: nx.DiGraph, targets: Collection[str]) -> nx.DiGraph:
    """The part of the graph that some stages and all that they depend on make up; all of it without targets."""
    if not targets:
        return graph
    return graph.subgraph({*targets, *(stage for target in targets for stage in nx.descendants(graph, target))})


def split(graph: nx.DiGraph) -> tuple[list[str], list[Group]]:
    """The stages that many depend on, and groups that can run beside one another, the longest first.

    Stages that DVC makes from a `foreach` or `matrix`, with an @ in their names, are the many. What only they depend on
    runs before them, what only depends on them after them; of the rest, whatever is connected is a group.

    Args:
        graph: of names, with an edge from each stage to each that it depends on.
    """
    many = {stage for stage in graph if "@" in stage}
    before, after = set(), set()
    for stage in set(graph) - many:
        is_needed, needs = (
            not many.isdisjoint(nx.ancestors(graph, stage)),
            not many.isdisjoint(nx.descendants(graph, stage)),
        )
        if is_needed and not needs:
            before.add(stage)
        elif needs and not is_needed:
            after.add(stage)
    rest = graph.subgraph(set(graph) - before - after)
    groups = [_group(rest.subgraph(stages)) for stages in nx.weakly_connected_components(rest)]
    return in_order(graph.subgraph(before)), sorted(groups, key=lambda group: (-_length(group.stages), group.name))


def _group(graph: nx.DiGraph) -> Group:
    stages = in_order(graph)
    return Group(tuple(stages), tuple(stage for stage in stages if not graph.in_degree(stage)))


def in_order(graph: nx.DiGraph) -> list[str]:
    """Stages, each after those that it depends on."""
    return list(nx.lexicographical_topological_sort(graph.reverse()))


def _length(stages: Iterable[str]) -> int:
    """How long stages may take, in no unit: the first number in a name is a depth. A wrong guess costs time alone."""
    numbers = (re.search(r"@\D*(\d+)", stage) for stage in stages)
    return sum(1 + int(number[1]) if number else 1 for number in numbers)
