"""The recurrence alone, with a backward through time written by hand.

Only what depends on the context c is computed position by position; the token half of W1 (a table of one row a
word), the output layer and every weight gradient are products over all positions at once. Autograd's own graph of the
recurrence, some 63 x (3 L + 10) small nodes, would cost more than the arithmetic.

Tensors that are kept for the backward pass lie as [S, T, B, ...]: one position of all seeds is a strided batch for a
batched product, and all positions of one seed are a plain matrix, so neither needs a copy.

The pieces (a product with what follows it, the gates, sums) are those of `plain` or, on CUDA, those of `kernels`.
"""

import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from newllm.model import plain
from newllm.model.definition import Parameters, num_hidden_layers
from newllm.model.streams import Dropout


@cache
def has_kernels() -> bool:
    """Whether Triton is there to compile the kernels."""
    try:
        import triton  # noqa: F401, PLC0415 (only CUDA builds of torch bring it)
    except ImportError:
        return False
    return True


def pieces_for(tensor: Tensor) -> ModuleType:
    """The module with the pieces for a tensor's device and type.

    With Triton's interpreter (TRITON_INTERPRET=1) the kernels run on a CPU too, very slowly, to be tested.
    """
    somewhere = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    if somewhere and tensor.dtype in (torch.float16, torch.bfloat16) and has_kernels():
        from newllm.model import kernels  # noqa: PLC0415 (imports Triton)

        return kernels
    return plain


def hidden_states(
    parameters: Parameters, tokens: Tensor, dropout: Dropout | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The last hidden layer h^L at every position; the definition's `logits` without the output layer.

    Args:
        parameters: stacked parameters [S, ...].
        tokens: ids [S, B, T].
        dropout: which hidden units to drop; None: no dropout.
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
    arguments: Any = (dropout, tokens, table, parameters["norm.weight"], parameters["norm.bias"], *weights, *biases)
    if torch.is_grad_enabled() and any(value.requires_grad for value in parameters.values()):
        apply: Callable[..., Tensor] = _Scan.apply
        return apply(*arguments)
    return _forward(*arguments, keeps_all=False)[0]


def _forward(
    dropout: Dropout | None,
    tokens: Tensor,
    table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *layers: Tensor,
    keeps_all: bool,
) -> tuple[Tensor, list[Tensor]]:
    """h^L [S, T, B, H], and gates, contexts, states and hidden layers at every position if `keeps_all`."""
    pieces = pieces_for(table)
    num_layers = len(layers) // 2
    weights, biases = layers[: num_layers + 1], layers[num_layers + 1 :]
    num_seeds, batch, length = tokens.shape
    hidden_size, context_dim = table.shape[-1], gamma.shape[-1]
    kept = length if keeps_all else 1
    hidden = [table.new_empty(num_seeds, kept, batch, hidden_size) for _ in range(num_layers - 1)]
    hidden.append(table.new_empty(num_seeds, length, batch, hidden_size))
    gates = table.new_empty(num_seeds, kept, batch, 3 * context_dim)
    contexts = gamma.new_zeros(num_seeds, kept + 1, batch, context_dim)
    states = contexts if gamma.dtype == table.dtype else torch.zeros_like(contexts, dtype=table.dtype)
    for t in range(length):
        now, then = (t, t + 1) if keeps_all else (0, 0)
        outputs = [h[:, now] for h in hidden[:-1]] + [hidden[-1][:, t]]
        draws = [(dropout, layer * length + t) if dropout else None for layer in range(num_layers)]
        state, rows = states[:, now], (table, tokens[:, :, t])
        pieces.linear(state, weights[0].mT, outputs[0], rows=rows, relu=True, dropout=draws[0])
        for layer in range(1, num_layers):
            pieces.linear(
                outputs[layer - 1],
                weights[layer].mT,
                outputs[layer],
                addend=biases[layer - 1],
                relu=True,
                dropout=draws[layer],
            )
        pieces.linear(outputs[-1], weights[-1].mT, gates[:, now], addend=biases[-1])
        pieces.gates_forward(gates[:, now], contexts[:, now], gamma, beta, contexts[:, then], states[:, then])
    return hidden[-1], [gates, contexts, states, *hidden]


class _Scan(torch.autograd.Function):
    """h^L from the token table [S, V, H] and the recurrent weights.

    Weights: context half of W1 [S, H, C], W2..WL [S, H, H], the three gates in one [S, 3C, H]; biases: b2..bL
    [S, H] and the gates' [S, 3C] (b1 is in the table).
    """

    @staticmethod
    def forward(ctx: Any, dropout: Dropout | None, tokens: Tensor, table: Tensor, *rest: Tensor) -> Tensor:
        last, kept = _forward(dropout, tokens, table, *rest, keeps_all=True)
        num_weights = len(rest[2:]) // 2 + 1
        ctx.save_for_backward(tokens, *rest[: 2 + num_weights], *kept)
        ctx.scale = dropout.scale if dropout else 1.0
        ctx.vocabulary_size = table.shape[1]
        return last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_last,) = gradients
        tokens, gamma, beta, *rest = ctx.saved_tensors
        num_layers = (len(rest) - 4) // 2
        weights, (gates, contexts, states, *hidden) = rest[: num_layers + 1], rest[num_layers + 1 :]
        pieces = pieces_for(gates)
        batch, length = tokens.shape[1:]
        d_pre = [torch.empty_like(h) for h in hidden]  # gradients of the hidden layers before relu
        d_gates = torch.empty_like(gates)
        sums = pieces.gate_sums(gamma, batch)
        d_context = gamma.new_zeros(gamma.shape[0], batch, gamma.shape[1])
        carry = torch.empty_like(d_context)
        for t in reversed(range(length)):
            pieces.gates_backward(d_context, gates[:, t], contexts[:, t], gamma, beta, d_gates[:, t], carry, sums)
            # relu and dropout share one mask: a unit is positive where it was both active and kept
            positive = [(h[:, t], ctx.scale) for h in hidden]
            outputs = [d[:, t] for d in d_pre]
            pieces.linear(d_gates[:, t], weights[-1], outputs[-1], addend=d_last[:, t], positive=positive[-1])
            for layer in reversed(range(1, num_layers)):
                pieces.linear(outputs[layer], weights[layer], outputs[layer - 1], positive=positive[layer - 1])
            pieces.linear(outputs[0], weights[0], d_context, addend=carry)
        d_gamma, d_beta = sums.sum(1).unbind(1)
        d_outputs = [*d_pre, d_gates]
        d_weights = [
            torch.bmm(d.flatten(1, 2).mT, x.flatten(1, 2))
            for d, x in zip(d_outputs, [states[:, :-1], *hidden], strict=True)
        ]
        d_biases = [pieces.column_sums(d, gamma.dtype).to(d.dtype) for d in d_outputs[1:]]
        d_table = pieces.table_gradient(d_pre[0], tokens, ctx.vocabulary_size)
        return None, None, d_table, d_gamma, d_beta, *d_weights, *d_biases
