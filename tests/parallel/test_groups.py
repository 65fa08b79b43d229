"""Groups of stages, from graphs as DVC has them: an edge from each stage to each that it depends on."""

import networkx as nx
import yaml

from newllm.parallel.groups import Group, needed, split
from tests.test_pipeline_definition import ROOT


def graph(**dependencies: str) -> nx.DiGraph:
    """Stages with what they depend on; `_at_` stands for @ in a name."""
    edges = {name.replace("_at_", "@"): needed.split() for name, needed in dependencies.items()}
    return nx.DiGraph([(name, other) for name, others in edges.items() for other in others])


STUDY = graph(
    words="text",
    windows="words",
    train_at_1="windows",
    train_at_2="windows",
    evaluate_at_1="train@1 windows",
    evaluate_at_2="train@2 windows",
    expand_at_1="train@1",
    lstm="windows",
    report="evaluate@1 evaluate@2 expand@1 lstm",
)


def test_what_many_need_runs_first_and_what_needs_many_last() -> None:
    common, groups = split(STUDY)
    assert common == ["text", "words", "windows"]
    assert sorted(group.stages for group in groups) == [
        ("lstm",),
        ("train@1", "evaluate@1", "expand@1"),
        ("train@2", "evaluate@2"),
    ]
    assert groups[0] == Group(("train@1", "evaluate@1", "expand@1"), ("evaluate@1", "expand@1"))


def test_a_group_runs_from_the_first_change_on() -> None:
    group = Group(("train@1", "evaluate@1", "tune@1", "confirm@1"), ("evaluate@1", "confirm@1"))
    assert group.of({"tune@1", "train@2"}) == Group(("tune@1", "confirm@1"), ("confirm@1",))
    assert group.of({"train@1", "confirm@1"}) == group
    assert group.of({"train@2"}) is None


def test_only_what_targets_need() -> None:
    common, groups = split(needed(STUDY, ["evaluate@2"]))
    assert common == ["text", "words", "windows"]
    assert groups == [Group(("train@2", "evaluate@2"), ("evaluate@2",))]


def test_a_search_comes_with_what_confirms_it_and_a_stage_between_many_joins_them() -> None:
    _, groups = split(graph(tune_at_1="data", tune_at_2="data", confirm_at_1="tune@1", confirm_at_2="tune@2"))
    assert [group.stages for group in groups] == [("tune@2", "confirm@2"), ("tune@1", "confirm@1")]
    _, groups = split(graph(tune_at_1="data", tune_at_2="data", choose="tune@1 tune@2", train_at_1="choose"))
    assert [group.stages for group in groups] == [("tune@1", "tune@2", "choose", "train@1")]


def test_the_longest_come_first() -> None:
    depths = graph(**{f"train_at_{depth}": "data" for depth in (2, 10, 9)}, expand_at_2="train@2", other_at_x="data")
    assert [group.name for group in split(depths)[1]] == ["train@10", "train@9", "train@2", "other@x"]


def test_each_recipe_is_a_group_of_its_own_and_deep_ones_come_first() -> None:
    names = ("residual_4", "he_8", "notebook_6", "mine")
    recipes = graph(windows="words", **{f"recipes_at_{name}": "windows" for name in names}, report="recipes@he_8")
    assert split(recipes)[0] == ["words", "windows"]
    assert [group.stages for group in split(recipes)[1]] == [
        ("recipes@he_8",),
        ("recipes@notebook_6",),
        ("recipes@residual_4",),
        ("recipes@mine",),
    ]


def test_the_pipeline_has_a_group_for_each_depth() -> None:
    """What `foreach` and `matrix` make is there to be told apart by its @."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    many = {name for name, stage in stages.items() if {"foreach", "matrix"} & stage.keys()}
    assert {"train", "evaluate", "diagnose", "expand", "recipes"} <= many
    assert "report" not in many
