"""New-LLM, as the study defines it: a language model with a recurrent context vector instead of attention.

This module is the definition, written to be read beside the equations; `scan` and `head` compute the same function
fast. Parameters of S independently trained models ("seeds") are stacked: every tensor has a leading dimension S.

At position t, with token embedding e_t, context c_{t-1} (c_0 = 0) and depth L::

    h^1 = dropout(relu(W1 [e_t ; c_{t-1}] + b1))
    h^l = dropout(relu(Wl h^{l-1} + bl))            l = 2..L
    logits_t = Wo h^L + bo
    d, f, i = Wd h^L + bd, sigmoid(Wf h^L + bf), sigmoid(Wi h^L + bi)
    c_t = clamp(LayerNorm(f * c_{t-1} + i * d), -10, 10)

With residual connections, which the study does not have, h^l = h^{l-1} + dropout(relu(Wl h^{l-1} + bl)) for l = 2..L.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from newllm.model.streams import random_stream

Parameters = dict[str, Tensor]
Initialisation = Literal["normal", "he"]

INITIAL_STD = 0.02
LAYER_NORM_EPS = 1e-5
CONTEXT_LIMIT = 10.0


@dataclass(frozen=True)
class ModelShape:
    """The sizes that determine the parameters' shapes.

    LayerNorm normalises each of `norm_blocks` equal blocks of the context on its own; `residual` tells whether hidden
    layers add to the one before.
    """

    vocabulary_size: int
    embedding_dim: int
    context_dim: int
    hidden_size: int
    num_layers: int
    norm_blocks: int = 1
    residual: bool = False

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of one model, without the leading S, in the order of the equations."""
        vocabulary, hidden = self.vocabulary_size, self.hidden_size
        embedding, context = self.embedding_dim, self.context_dim
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocabulary, embedding)}
        for layer in range(1, self.num_layers + 1):
            inputs = embedding + context if layer == 1 else hidden
            shapes |= {f"hidden.{layer}.weight": (hidden, inputs), f"hidden.{layer}.bias": (hidden,)}
        shapes |= {"output.weight": (vocabulary, hidden), "output.bias": (vocabulary,)}
        for gate in ("update", "forget", "input"):  # d, f, i
            shapes |= {f"{gate}.weight": (context, hidden), f"{gate}.bias": (context,)}
        norm = (context,) if self.norm_blocks == 1 else (self.norm_blocks, context // self.norm_blocks)
        return shapes | {"norm.weight": norm, "norm.bias": norm}

    @property
    def num_params(self) -> int:
        """Number of parameters of one model."""
        return sum(prod(shape) for shape in self.parameter_shapes().values())

    @property
    def flops_per_position(self) -> int:
        """Floating-point operations to train one position: 6 for each weight that a token meets in a product.

        The token half of W1 counts nothing: it is a table of one row a word, computed once a step.
        """
        first = self.context_dim * self.hidden_size
        hidden = (self.num_layers - 1) * self.hidden_size**2
        heads = (self.vocabulary_size + 3 * self.context_dim) * self.hidden_size
        return 6 * (first + hidden + heads)


def initial_parameters(
    shape: ModelShape, seeds: Sequence[int], initialisations: Sequence[Initialisation] | None = None
) -> Parameters:
    """Fresh parameters on the CPU in float32: weights N(0, 0.02), biases 0, LayerNorm 1 and 0.

    Args:
        shape: the model's sizes.
        seeds: one for each of the S models.
        initialisations: of each model's hidden layers: `normal`, as all other weights, or `he`, N(0, sqrt(2 / inputs))
            (He et al., Delving deep into rectifiers, 2015), which keeps the size of activations from layer to layer.
            Default: all `normal`.

    Returns:
        Tensors [S, ...] by name.
    """
    streams = [random_stream(seed, "initialisation", 0) for seed in seeds]
    kinds = initialisations or ["normal"] * len(seeds)
    parameters = {}
    for name, size in shape.parameter_shapes().items():
        stacked = torch.zeros(len(seeds), *size)
        if name == "norm.weight":
            stacked.fill_(1)
        elif name.endswith("weight"):
            for one, stream, kind in zip(stacked, streams, kinds, strict=True):
                is_he = kind == "he" and name.startswith("hidden.")
                one.normal_(0, sqrt(2 / size[1]) if is_he else INITIAL_STD, generator=stream)
        parameters[name] = stacked
    return parameters


def num_hidden_layers(parameters: Parameters) -> int:
    """The depth L that the parameters were made for."""
    return sum(name.startswith("hidden.") and name.endswith("weight") for name in parameters)


def logits(
    parameters: Parameters,
    tokens: Tensor,
    keep: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
    residual: bool = False,
) -> Tensor:
    """The model's outputs, position by position as in the equations.

    Args:
        parameters: stacked parameters [S, ...].
        tokens: ids [S, B, T].
        keep: for each layer which hidden units dropout keeps [S, T, B, H]; None: no dropout.
        dropout: the probability with which `keep` was drawn; kept units are scaled by 1 / (1 - dropout).
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        Logits [S, B, T, V] of the token after each position.
    """
    num_layers = num_hidden_layers(parameters)
    seed_index = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    gain, shift = parameters["norm.weight"][:, None], parameters["norm.bias"][:, None]  # [S, 1, C] or [S, 1, blocks, -]
    blocks = gain.shape[2:]
    context = gain.new_zeros(*tokens.shape[:2], blocks.numel())
    outputs = []
    for t in range(tokens.shape[2]):
        embedding = parameters["embedding.weight"][seed_index, tokens[:, :, t]]
        hidden = torch.cat([embedding, context], dim=-1)
        for layer in range(1, num_layers + 1):
            active = _linear(parameters, f"hidden.{layer}", hidden).relu()
            if keep is not None:
                active = active * keep[layer - 1][:, t] / (1 - dropout)
            hidden = hidden + active if residual and layer > 1 else active
        outputs.append(_linear(parameters, "output", hidden))
        update = _linear(parameters, "update", hidden)
        forget_gate = _linear(parameters, "forget", hidden).sigmoid()
        input_gate = _linear(parameters, "input", hidden).sigmoid()
        mixed = (forget_gate * context + input_gate * update).unflatten(-1, blocks)
        normed = layer_norm(mixed, blocks[-1:], eps=LAYER_NORM_EPS)
        context = (normed * gain + shift).flatten(2).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    return torch.stack(outputs, dim=2)


def _linear(parameters: Parameters, name: str, inputs: Tensor) -> Tensor:
    # baddbmm and not matmul: autocast knows it, so that the bias does not lift the product back to float32
    return torch.baddbmm(parameters[f"{name}.bias"][:, None], inputs, parameters[f"{name}.weight"].mT)
