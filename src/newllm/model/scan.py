"""The recurrence alone, with a backward through time written by hand.

Only what depends on the context c is computed position by position; the token half of W1 (a table of one row a
word), the output layer and every weight gradient are products over all positions at once. Autograd's own graph of the
recurrence, some 63 x (3 L + 10) small nodes, would cost more than the arithmetic.

Tensors that are kept for the backward pass lie as [S, T, B, ...]: one position of all seeds is a strided batch for a
batched product, and all positions of one seed are a plain matrix, so neither needs a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newllm.model.definition import CONTEXT_LIMIT, LAYER_NORM_EPS, Parameters, num_hidden_layers


@dataclass(frozen=True)
class _Dropout:
    keep: Sequence[Tensor] | None
    scale: float

    def apply_(self, hidden: Tensor, layer: int, t: int) -> None:
        if self.keep is not None:
            hidden.mul_(self.keep[layer][:, t]).mul_(self.scale)


def hidden_states(
    parameters: Parameters,
    tokens: Tensor,
    keep: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The last hidden layer h^L at every position; the definition's `logits` without the output layer.

    Args:
        parameters: stacked parameters [S, ...].
        tokens: ids [S, B, T].
        keep: for each layer which hidden units dropout keeps [S, T, B, H]; None: no dropout.
        dropout: the probability with which `keep` was drawn.
        dtype: type of the matrix products; the context, gates and LayerNorm stay in the parameters' own type.

    Returns:
        Hidden states [S, T, B, H] of type `dtype`.
    """
    num_layers = num_hidden_layers(parameters)
    embedding = parameters["embedding.weight"].to(dtype)
    first = parameters["hidden.1.weight"].to(dtype)
    width = embedding.shape[-1]
    table = torch.baddbmm(parameters["hidden.1.bias"][:, None].to(dtype), embedding, first[:, :, :width].mT)
    weights = [first[:, :, width:]]
    biases = []
    for layer in range(2, num_layers + 1):
        weights.append(parameters[f"hidden.{layer}.weight"].to(dtype))
        biases.append(parameters[f"hidden.{layer}.bias"].to(dtype))
    gates = ("update", "forget", "input")
    weights.append(torch.cat([parameters[f"{gate}.weight"] for gate in gates], dim=1).to(dtype))
    biases.append(torch.cat([parameters[f"{gate}.bias"] for gate in gates], dim=1).to(dtype))
    regularisation = _Dropout(keep, 1 / (1 - dropout))
    result: Tensor = _Scan.apply(
        regularisation, tokens, table, parameters["norm.weight"], parameters["norm.bias"], *weights, *biases
    )
    return result


class _Scan(torch.autograd.Function):
    """h^L from the token table [S, V, H] and the recurrent weights.

    Weights: context half of W1 [S, H, C], W2..WL [S, H, H], the three gates in one [S, 3C, H]; biases: b2..bL
    [S, H] and the gates' [S, 3C] (b1 is in the table).
    """

    @staticmethod
    def forward(
        ctx: Any, dropout: _Dropout, tokens: Tensor, table: Tensor, gamma: Tensor, beta: Tensor, *layers: Tensor
    ) -> Tensor:
        num_layers = len(layers) // 2
        weights, biases = layers[: num_layers + 1], layers[num_layers + 1 :]
        num_seeds, batch, length = tokens.shape
        context_dim = gamma.shape[-1]
        first = _gather(table, tokens)
        hidden = [torch.empty_like(first) for _ in range(num_layers)]
        gates = first.new_empty(num_seeds, length, batch, 3 * context_dim)
        contexts = gamma.new_zeros(num_seeds, length + 1, batch, context_dim)
        for t in range(length):
            state = contexts[:, t].to(table.dtype)
            torch.baddbmm(first[:, t], state, weights[0].mT, out=hidden[0][:, t])
            dropout.apply_(hidden[0][:, t].relu_(), 0, t)
            for layer in range(1, num_layers):
                torch.baddbmm(
                    biases[layer - 1][:, None], hidden[layer - 1][:, t], weights[layer].mT, out=hidden[layer][:, t]
                )
                dropout.apply_(hidden[layer][:, t].relu_(), layer, t)
            torch.baddbmm(biases[-1][:, None], hidden[-1][:, t], weights[-1].mT, out=gates[:, t])
            mixed = _mix(gates[:, t].to(gamma.dtype), contexts[:, t])[0]
            normed = torch.native_layer_norm(mixed, [context_dim], None, None, LAYER_NORM_EPS)[0]
            scaled = torch.addcmul(beta[:, None], normed, gamma[:, None])
            torch.clamp(scaled, -CONTEXT_LIMIT, CONTEXT_LIMIT, out=contexts[:, t + 1])
        ctx.save_for_backward(tokens, gamma, beta, gates, contexts, *weights, *hidden)
        ctx.scale = 1.0 if dropout.keep is None else dropout.scale
        ctx.vocabulary_size = table.shape[1]
        return hidden[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_last,) = gradients
        tokens, gamma, beta, gates, contexts, *rest = ctx.saved_tensors
        num_layers = (len(rest) - 1) // 2
        weights, hidden = rest[: num_layers + 1], rest[num_layers + 1 :]
        length, context_dim = tokens.shape[2], gamma.shape[-1]
        d_pre = [torch.empty_like(h) for h in hidden]  # gradients of the hidden layers before relu
        d_gates = torch.empty_like(gates)
        d_gamma, d_beta = torch.zeros_like(gamma), torch.zeros_like(beta)
        d_context = torch.zeros_like(contexts[:, 0])
        for t in reversed(range(length)):
            mixed, update, forget_gate, input_gate = _mix(gates[:, t].to(gamma.dtype), contexts[:, t])
            normed, mean, rstd = torch.native_layer_norm(mixed, [context_dim], None, None, LAYER_NORM_EPS)
            scaled = torch.addcmul(beta[:, None], normed, gamma[:, None])
            d_scaled = d_context * (scaled.abs() <= CONTEXT_LIMIT)
            d_beta += d_scaled.sum(1)
            d_gamma += (d_scaled * normed).sum(1)
            d_mixed = torch.ops.aten.native_layer_norm_backward(
                d_scaled * gamma[:, None], mixed, [context_dim], mean, rstd, None, None, [True, False, False]
            )[0]
            d_update, d_forget, d_input = d_gates[:, t].split(context_dim, dim=-1)
            d_update.copy_(d_mixed * input_gate)
            d_forget.copy_(d_mixed * contexts[:, t] * forget_gate * (1 - forget_gate))
            d_input.copy_(d_mixed * update * input_gate * (1 - input_gate))
            d_hidden = torch.baddbmm(d_last[:, t], d_gates[:, t], weights[-1])
            for layer in reversed(range(num_layers)):
                # relu and dropout share one mask: a unit is positive where it was both active and kept
                torch.mul(d_hidden, hidden[layer][:, t] > 0, out=d_pre[layer][:, t]).mul_(ctx.scale)
                if layer > 0:
                    d_hidden = torch.bmm(d_pre[layer][:, t], weights[layer])
            d_context = d_mixed * forget_gate + torch.bmm(d_pre[0][:, t], weights[0])
        states = contexts[:, :-1].to(gates.dtype)
        d_weights = [_weight_gradient(d, x) for d, x in zip([*d_pre, d_gates], [states, *hidden], strict=True)]
        d_biases = [d.sum((1, 2), dtype=gamma.dtype).to(d.dtype) for d in [*d_pre[1:], d_gates]]
        d_table = _table_gradient(d_pre[0], tokens, ctx.vocabulary_size)
        return None, None, d_table, d_gamma, d_beta, *d_weights, *d_biases


def _mix(gates: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f * c + i * d, and d, f, i; gates [S, B, 3C] before the sigmoid, context [S, B, C]."""
    update, forget_gate, input_gate = gates.chunk(3, dim=-1)
    forget_gate, input_gate = forget_gate.sigmoid(), input_gate.sigmoid()
    return torch.addcmul(forget_gate * context, input_gate, update), update, forget_gate, input_gate


def _gather(table: Tensor, tokens: Tensor) -> Tensor:
    """Rows of each seed's table [S, V, H] by tokens [S, B, T]: [S, T, B, H]."""
    seed_index = torch.arange(tokens.shape[0], device=tokens.device)[:, None, None]
    return table[seed_index, tokens.mT.contiguous()]  # the result takes the index's memory order


def _weight_gradient(d_outputs: Tensor, inputs: Tensor) -> Tensor:
    """Gradient [S, N, K] of a weight from its outputs' gradients [S, T, B, N] and its inputs [S, T, B, K]."""
    return torch.bmm(d_outputs.flatten(1, 2).mT, inputs.flatten(1, 2))


def _table_gradient(d_rows: Tensor, tokens: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient [S, V, H] of the table from that of its gathered rows [S, T, B, H]."""
    flat_tokens = tokens.mT.flatten(1)
    gradient = d_rows.new_empty(d_rows.shape[0], vocabulary_size, d_rows.shape[-1])
    for seed in range(d_rows.shape[0]):
        rows, ids = d_rows[seed].flatten(0, 1), flat_tokens[seed]
        if d_rows.is_cuda:  # atomic additions are slow there, and their order is not fixed
            one_hot = torch.nn.functional.one_hot(ids.long(), vocabulary_size).to(rows.dtype)
            gradient[seed] = one_hot.mT @ rows
        else:
            wide = torch.promote_types(rows.dtype, torch.float32)
            sums = torch.zeros(vocabulary_size, rows.shape[-1], dtype=wide)
            gradient[seed] = sums.index_add_(0, ids.long(), rows.to(wide))
    return gradient
