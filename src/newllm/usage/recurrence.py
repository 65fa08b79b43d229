"""One trained model a word at a time: all that it remembers of a text is its context vector."""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from newllm.model.definition import CONTEXT_LIMIT, LAYER_NORM_EPS, Parameters, num_hidden_layers


class Recurrence:
    """The equations of `newllm.model.definition` for one position, without dropout, in float32 on the CPU.

    What does not depend on the context is computed once: W1's half for the token, as a table of one row a token. The
    output and the three gates read the same hidden state and are one product.
    """

    def __init__(self, parameters: Parameters, residual: bool = False) -> None:
        """Takes the parameters of one model, stacked [1, ...]; `residual`: hidden layers after the first add."""
        if len(parameters["norm.weight"]) != 1:
            raise ValueError(f"found {len(parameters['norm.weight'])} stacked models, expected one")
        one = {name: value[0] for name, value in parameters.items()}
        embedding, first = one["embedding.weight"], one["hidden.1.weight"]
        width = embedding.shape[1]
        self._token_table = linear(embedding, first[:, :width], one["hidden.1.bias"])  # [V, H]
        self._first = first[:, width:].contiguous()  # [H, C]
        self._hidden = [
            (one[f"hidden.{layer}.weight"], one[f"hidden.{layer}.bias"])
            for layer in range(2, num_hidden_layers(parameters) + 1)
        ]
        heads = ("output", "update", "forget", "input")
        self._heads = torch.cat([one[f"{name}.weight"] for name in heads])  # [V + 3C, H]
        self._head_biases = torch.cat([one[f"{name}.bias"] for name in heads])
        self._gain, self._shift = one["norm.weight"], one["norm.bias"]  # [C] or [blocks, C / blocks]
        self._residual = residual
        self._sizes = [len(one[f"{name}.bias"]) for name in heads]

    def start(self, num_texts: int) -> Tensor:
        """The context before the first word of each text: zeros [B, C]."""
        return self._gain.new_zeros(num_texts, self._gain.numel())

    @torch.no_grad()
    def step(self, context: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Reads one token of each text.

        Args:
            context: what came before, c_{t-1} [B, C].
            tokens: ids [B].

        Returns:
            Logits [B, V] of the token that follows, and the context c_t [B, C].
        """
        hidden = (self._token_table[tokens] + linear(context, self._first)).relu()
        for weight, bias in self._hidden:
            active = linear(hidden, weight, bias).relu()
            hidden = hidden + active if self._residual else active
        logits, update, forget, input_ = linear(hidden, self._heads, self._head_biases).split(self._sizes, dim=-1)
        mixed = forget.sigmoid() * context + input_.sigmoid() * update
        blocks = self._gain.shape
        normed = layer_norm(mixed.unflatten(-1, blocks), blocks[-1:], eps=LAYER_NORM_EPS)
        return logits, (normed * self._gain + self._shift).flatten(1).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
