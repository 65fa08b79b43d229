"""Growth keeps the function, tells new entries from old ones, and lets gradients reach all of the new."""

import math

import pytest
import torch

from newllm.config import ExpandConfig
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.gradients import losses_and_gradients
from newllm.model.streams import random_stream
from newllm.studies.expansion import PATTERNS, begin, check_frozen, grow, grown_shape, is_new, seed_figures
from newllm.training.records import EpochRow, RowResult, Training
from newllm.training.rows import Recipe, Row
from newllm.training.stack import Start

SHAPE = ModelShape(vocabulary_size=30, embedding_dim=6, context_dim=4, hidden_size=10, num_layers=3)
SEEDS = [5, 0]


def trained(shape: ModelShape = SHAPE) -> Parameters:
    """Parameters far from their initial values, LayerNorm's too."""
    generator = torch.Generator().manual_seed(1)
    fresh = initial_parameters(shape, SEEDS)
    return {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def windows() -> torch.Tensor:
    return torch.randint(1, 30, (2, 7, 12), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_grown_model_is_the_same_function(factor: int, num_layers: int) -> None:
    shape = ModelShape(30, 6, 4, 10, num_layers)
    grown = grown_shape(shape, factor, joint_norm=False)
    assert (grown.context_dim, grown.norm_blocks) == (4 * factor, factor)
    parameters = trained(shape)
    result = grow(parameters, shape, grown, SEEDS)
    assert {name: tuple(value.shape[1:]) for name, value in result.items()} == grown.parameter_shapes()
    torch.testing.assert_close(logits(result, windows()), logits(parameters, windows()), rtol=1e-5, atol=1e-6)


def test_a_joint_norm_changes_the_function() -> None:
    grown = grown_shape(SHAPE, 2, joint_norm=True)
    result = grow(trained(), SHAPE, grown, SEEDS)
    assert (logits(result, windows()) - logits(trained(), windows())).abs().max() > 1e-2


def test_new_entries_are_what_growth_has_added() -> None:
    grown = grown_shape(SHAPE, 2, joint_norm=False)
    masks = is_new(SHAPE, grown)
    assert sum(int(mask.sum()) for mask in masks.values()) == grown.num_params - SHAPE.num_params
    parameters = trained()
    result = grow(parameters, SHAPE, grown, SEEDS)
    for name, mask in masks.items():
        old = result[name][~mask.expand_as(result[name])]
        assert torch.equal(old, parameters[name].flatten()), name
    assert masks["hidden.1.weight"][0, :, 10:].all()
    assert not masks["hidden.1.weight"][0, :, :10].any()
    assert masks["forget.weight"][0, 4:].all()


def test_new_entries_are_zero_but_for_the_rows_that_write_the_new_context_and_the_norms_factor() -> None:
    grown = grown_shape(SHAPE, 3, joint_norm=False)
    result = grow(trained(), SHAPE, grown, SEEDS)
    streams = [random_stream(seed, "growth", 0) for seed in SEEDS]
    for name, mask in is_new(SHAPE, grown).items():
        found = torch.stack([value[mask[0]] for value in result[name]])
        expected = torch.full_like(found, float(name == "norm.weight"))
        if name in ("update.weight", "forget.weight", "input.weight"):
            for one, stream in zip(expected, streams, strict=True):
                one.view(8, 10).normal_(0, 0.02, generator=stream)
        assert torch.equal(found, expected), name


def test_a_seed_grows_alike_whatever_its_neighbours() -> None:
    grown = grown_shape(SHAPE, 2, joint_norm=False)
    together = grow(trained(), SHAPE, grown, SEEDS)
    alone = grow({name: value[1:] for name, value in trained().items()}, SHAPE, grown, SEEDS[1:])
    assert all(torch.equal(together[name][1:], value) for name, value in alone.items())
    assert not torch.equal(together["update.weight"][0, 4:], together["update.weight"][1, 4:])


def test_gradients_reach_the_columns_that_read_the_new_context() -> None:
    grown = grown_shape(SHAPE, 2, joint_norm=False)
    result = grow(trained(), SHAPE, grown, SEEDS)
    _, gradients = losses_and_gradients(result, windows().int(), 0, torch.ones(2))
    assert (gradients["hidden.1.weight"][:, :, 10:] != 0).any(1).all()


def rows() -> list[Row]:
    return [Row(seed, Recipe(0.1, 0.0, ((1, 0.5),), kind)) for seed, kind in zip(SEEDS, ("he", "normal"), strict=True)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("joint_norm", [False, True])
def test_what_a_pattern_begins_with(pattern: str, joint_norm: bool) -> None:
    config = ExpandConfig(context_factor=2, joint_norm=joint_norm)
    shape, start = begin(pattern, trained(), SHAPE, rows(), config)
    grown = grown_shape(SHAPE, 2, joint_norm)
    expected = {
        "freeze": grow(trained(), SHAPE, grown, SEEDS),
        "finetune": grow(trained(), SHAPE, grown, SEEDS),
        "longer": trained(),
        "scratch": initial_parameters(grown, SEEDS, ["he", "normal"]),
    }[pattern]
    assert shape == (SHAPE if pattern == "longer" else grown)
    assert start.phase == (0 if pattern == "scratch" else 1)
    assert start.parameters.keys() == expected.keys()
    assert all(torch.equal(start.parameters[name], value) for name, value in expected.items())
    assert (start.learns is not None) is (pattern == "freeze")
    for name, mask in (start.learns or {}).items():
        assert torch.equal(mask, is_new(SHAPE, grown)[name])


def test_a_frozen_entry_that_changes_is_found_in_any_row() -> None:
    before = trained()
    learns = {name: torch.zeros(1, *value.shape[1:], dtype=torch.bool) for name, value in before.items()}
    learns["output.bias"][0, 3] = True
    after = {name: value.clone() for name, value in before.items()}
    after["output.bias"][:, 3] += 1
    check_frozen(Start(before, learns), after)
    after["output.bias"][1, 29] += 1
    with pytest.raises(RuntimeError, match=r"output\.bias"):
        check_frozen(Start(before, learns), after)
    check_frozen(Start(before), after)


def test_figures_are_those_of_each_seeds_best_epoch() -> None:
    def row(seed: int, epoch: int, val_ppl: float) -> EpochRow:
        return EpochRow(3, seed, epoch, 3.0, 2.9, val_ppl, val_ppl / 100, 0.5, 1.0, 1.5)

    def result(seed: int, best_epoch: int, val_loss: float) -> RowResult:
        return RowResult(seed, best_epoch, 2, False, 3.0, val_loss, 3.0, 100.0)

    curves = [row(5, 1, 20.0), row(5, 2, 21.0), row(0, 1, 24.0), row(0, 2, 22.0)]
    results = [result(5, 1, 2.5), result(0, 2, 2.6)]
    base = [result(5, 1, 2.7), result(0, 1, 2.8)]
    found = seed_figures(Training({}, curves, results), [(3.1, 0.1), (3.2, 0.2)], base, [(2.0, 0.3), (2.1, 0.4)])
    names = ("start_val_loss", "base_val_loss", "val_loss", "val_ppl", "val_accuracy", "test_loss", "test_accuracy")
    assert [[seed[name] for name in ("seed", *names)] for seed in found] == [
        [5, 3.1, 2.7, 2.5, 20.0, 0.2, 2.0, 0.3],
        [0, 3.2, 2.8, 2.6, 22.0, 0.22, 2.1, 0.4],
    ]
    assert [seed["test_ppl"] for seed in found] == pytest.approx([math.exp(2.0), math.exp(2.1)])
