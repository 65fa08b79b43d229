"""Growth keeps the function, tells new entries from old ones, and lets gradients reach all of the new."""

import pytest
import torch

from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.gradients import losses_and_gradients
from newllm.studies.expansion import grow, grown_shape, is_new

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
    assert (gradients["hidden.1.weight"][:, :, 10:] != 0).any((1, 2)).all()
