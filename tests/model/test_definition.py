"""The definition against the study's parameter counts and a straight transcription of its equations."""

import numpy as np
import pytest
import torch

from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.streams import dropout_masks, random_stream

COUNTS = {
    1: 1_426_152,
    2: 1_688_808,
    3: 1_951_464,
    4: 2_214_120,
    5: 2_476_776,
    6: 2_739_432,
    7: 3_002_088,
    8: 3_264_744,
}


def study_shape(num_layers: int) -> ModelShape:
    return ModelShape(1000, 256, 256, 512, num_layers)


@pytest.mark.parametrize(("num_layers", "count"), COUNTS.items())
def test_parameter_counts_of_the_study(num_layers: int, count: int) -> None:
    shape = study_shape(num_layers)
    assert shape.num_params == count
    assert sum(p[0].numel() for p in initial_parameters(shape, [0]).values()) == count


def test_training_flops_of_the_study() -> None:
    for num_layers in COUNTS:
        assert study_shape(num_layers).flops_per_position == 6 * (1_036_288 + (num_layers - 1) * 262_144)
    assert ModelShape(11, 5, 4, 6, 3).flops_per_position == 6 * (4 * 6 + 2 * 6 * 6 + (11 + 3 * 4) * 6)


def test_initialisation() -> None:
    shape = study_shape(4)
    parameters = initial_parameters(shape, [0, 7])
    assert list(parameters) == list(shape.parameter_shapes())
    for index, seed in enumerate((0, 7)):
        stream = random_stream(seed, "initialisation", 0)
        for name, size in shape.parameter_shapes().items():
            expected = torch.zeros(size)
            if name == "norm.weight":
                expected += 1
            elif name.endswith("weight"):
                expected.normal_(0, 0.02, generator=stream)
            assert torch.equal(parameters[name][index], expected), name


def one_sequence(
    p: dict[str, np.ndarray], ids: list[int], num_layers: int, masks: np.ndarray | None, residual: bool
) -> np.ndarray:
    """The equations of study.md for one model and one sequence, in NumPy: logits [T, V]."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return np.exp(-np.logaddexp(0, -x))

    c = np.zeros(p["norm.weight"].shape)
    out = []
    for t, token in enumerate(ids):
        h = np.concatenate([p["embedding.weight"][token], c])
        for layer in range(1, num_layers + 1):
            below = h
            h = np.maximum(p[f"hidden.{layer}.weight"] @ h + p[f"hidden.{layer}.bias"], 0)
            if masks is not None:
                h = h * masks[layer - 1, t] / 0.75
            if residual and layer > 1:
                h = below + h
        out.append(p["output.weight"] @ h + p["output.bias"])
        d = p["update.weight"] @ h + p["update.bias"]
        f = sigmoid(p["forget.weight"] @ h + p["forget.bias"])
        i = sigmoid(p["input.weight"] @ h + p["input.bias"])
        m = f * c + i * d
        y = (m - m.mean()) / np.sqrt(m.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
        c = np.clip(y, -10, 10)
    return np.array(out)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 8])
@pytest.mark.parametrize(("with_dropout", "residual"), [(False, False), (True, False), (True, True)])
def test_against_a_straight_transcription(num_layers: int, with_dropout: bool, residual: bool) -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=num_layers)
    generator = torch.Generator().manual_seed(num_layers)
    parameters: Parameters = {
        name: torch.randn(2, *size, generator=generator, dtype=torch.float64)
        for name, size in shape.parameter_shapes().items()
    }
    parameters["norm.weight"] *= 8  # so that some contexts reach the clamp
    tokens = torch.randint(0, 11, (2, 3, 7), generator=generator)
    keep = (
        dropout_masks([0, 1], [0, 0], (num_layers, 7, 3, 6), [0.25] * 2, torch.device("cpu")) if with_dropout else None
    )
    result = logits(parameters, tokens, keep, 0.25 if with_dropout else 0.0, residual)
    for s in range(2):
        p = {name: value[s].numpy() for name, value in parameters.items()}
        for b in range(3):
            masks = None if keep is None else torch.stack([k[s, :, b] for k in keep]).numpy()
            expected = one_sequence(p, tokens[s, b].tolist(), num_layers, masks, residual)
            np.testing.assert_allclose(result[s, b].numpy(), expected, rtol=1e-9, atol=1e-9)
