"""A step a word gives what the definition gives for whole texts."""

import pytest
import torch

from newllm.model.definition import ModelShape, Parameters, logits
from newllm.usage.recurrence import Recurrence
from tests.usage.conftest import random_parameters


def read(parameters: Parameters, tokens: torch.Tensor, residual: bool = False) -> torch.Tensor:
    """Logits [B, T, V] of a step after another."""
    model = Recurrence(parameters, residual)
    context, found = model.start(len(tokens)), []
    for column in tokens.T:
        last, context = model.step(context, column)
        found.append(last)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm_blocks", [1, 2])
def test_steps_are_the_definition(num_layers: int, residual: bool, norm_blocks: int) -> None:
    shape = ModelShape(11, 5, 6, 7, num_layers, norm_blocks, residual)
    parameters = random_parameters(shape, (3,))
    parameters["norm.weight"] *= 8  # so that the context is clamped here and there
    tokens = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(0))
    expected = logits(parameters, tokens[None], residual=residual)[0]
    torch.testing.assert_close(read(parameters, tokens, residual), expected, rtol=1e-5, atol=1e-5)


def test_the_context_is_clamped_in_that_test() -> None:
    parameters = random_parameters(ModelShape(11, 5, 6, 7, 2), (3,))
    parameters["norm.weight"] *= 8
    model = Recurrence(parameters)
    _, context = model.step(model.start(11), torch.arange(11))
    assert context.abs().max() == 10


def test_texts_do_not_meet() -> None:
    parameters = random_parameters(ModelShape(11, 5, 6, 7, 3), (3,))
    tokens = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([read(parameters, text[None]) for text in tokens])
    torch.testing.assert_close(read(parameters, tokens), alone, rtol=1e-5, atol=1e-6)


def test_one_model_only() -> None:
    with pytest.raises(ValueError, match="2 stacked models"):
        Recurrence(random_parameters(ModelShape(11, 5, 6, 7, 1), (3, 4)))
