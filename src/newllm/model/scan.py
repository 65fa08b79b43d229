"""The recurrence alone, with a backward through time written by hand.

Only what depends on the context c is computed position by position; the token half of W1 (a table of one row a
word), the output layer and every weight gradient are products over all positions at once. Autograd's own graph of the
recurrence, some 63 x (3 L + 10) small nodes, would cost more than the arithmetic.

Tensors that are kept for the backward pass lie as [S, T, B, ...]: one position of all seeds is a strided batch for a
batched product, and all positions of one seed are a plain matrix, so neither needs a copy.

The pieces (a product with what follows it, the gates, sums) are those of `plain` or, on CUDA, those of `kernels`. On
CUDA each seed's recurrence is a lane, a stream of its own: one seed's small kernels fill what the others leave idle.
"""

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from newllm.model import plain
from newllm.model.definition import Parameters, num_hidden_layers
from newllm.model.streams import Dropout

KERNEL_CAPABILITY = (8, 0)  # the first GPUs with asynchronous copies and enough shared memory for the tiles


def has_triton() -> bool:
    """Whether Triton is there to compile the kernels."""
    return importlib.util.find_spec("triton") is not None


@cache
def can_run_kernels(device: torch.device) -> bool:
    """Whether a GPU runs the kernels. If not it says why, once: the plain path is much slower."""
    major, minor = torch.cuda.get_device_capability(device)
    if not has_triton():
        obstacle = "Triton is not installed (CUDA builds of torch for Linux bring it)"
    elif (major, minor) < KERNEL_CAPABILITY:
        obstacle = (
            f"the GPU's compute capability is {major}.{minor}, and the kernels need "
            f"{'.'.join(map(str, KERNEL_CAPABILITY))}"
        )
    elif failure := _failure_of_triton(device):
        obstacle = (
            f"Triton cannot compile and launch them here ({failure}). It needs a C compiler (gcc or clang, or what CC "
            "names), the headers of this Python (of the package python3-dev or the like) and a folder to write to and "
            "load programs from (TRITON_CACHE_DIR, else .triton in the home folder)"
        )
    else:
        return True
    warnings.warn(f"training by plain torch operations, several times slower than by kernels: {obstacle}", stacklevel=2)
    return False


def _failure_of_triton(device: torch.device) -> str | None:
    """Why Triton cannot compile and launch a kernel on a GPU, on one line; None if it can.

    Nothing but a try tells: the compiler, what it includes and links, the cache and the driver all have a say. What an
    earlier run has left in Triton's cache is used and not compiled again.
    """
    with tempfile.TemporaryFile() as said:
        standard_error = os.dup(2)
        os.dup2(said.fileno(), 2)  # the compiler says there what it lacks
        try:
            from newllm.model import trial  # noqa: PLC0415 (imports Triton)

            trial.launch(device)
            return None
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line or "cannot find" in line), failure)[:300]


def has_triton_for(tensor: Tensor) -> bool:
    """Whether Triton's kernels run where a tensor lies.

    With Triton's interpreter (TRITON_INTERPRET=1) they run on a CPU too, very slowly, to be tested.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return has_triton()
    return tensor.is_cuda and can_run_kernels(tensor.device)


def pieces_for(tensor: Tensor) -> ModuleType:
    """The module with the pieces for a tensor's device and type."""
    if tensor.dtype in (torch.float16, torch.bfloat16) and has_triton_for(tensor):
        from newllm.model import kernels  # noqa: PLC0415 (imports Triton)

        return kernels
    return plain


def padded(windows: Tensor, ignored: int, dtype: torch.dtype) -> Tensor:
    """Windows [S, B, T + 1] with rows of a target that counts nowhere, up to a batch that the pieces can take."""
    missing = -windows.shape[1] % pieces_for(windows.new_empty(0, dtype=dtype)).ROW_MULTIPLE
    return pad(windows, (0, 0, 0, missing), value=ignored) if missing else windows


def rows_needed(windows: Tensor, ignored: int) -> list[int]:
    """How many windows of a batch, from the first to the last that has a target at a position or after it.

    The others need not be computed there. The fewest are needed if the longest windows come first. The host waits for
    the device.

    Args:
        windows: ids [S, B, T + 1].
        ignored: the target that counts nowhere.

    Returns:
        For each of the T positions the largest count of all seeds.
    """
    places = torch.arange(1, windows.shape[1] + 1, dtype=torch.int32, device=windows.device)
    last = torch.where(windows[:, :, 1:] != ignored, places[:, None], 0).amax((0, 1))
    counts: list[int] = last.flip(0).cummax(0).values.flip(0).tolist()
    return counts


def hidden_states(
    parameters: Parameters,
    tokens: Tensor,
    dropout: Dropout | None = None,
    dtype: torch.dtype = torch.float32,
    residual: bool = False,
    needed: Sequence[int] | None = None,
) -> Tensor:
    """The last hidden layer h^L at every position; the definition's `logits` without the output layer.

    Args:
        parameters: stacked parameters [S, ...].
        tokens: ids [S, B, T], of windows that are `padded`.
        dropout: which hidden units to drop; None: no dropout.
        dtype: type of the matrix products; the context, gates and LayerNorm stay in the parameters' own type.
        residual: whether hidden layers from the second on add to the one before.
        needed: for each position as many as `rows_needed` or more; beyond them hidden states are any finite numbers.
            None: all.

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
    norm = parameters["norm.weight"], parameters["norm.bias"]
    arguments: Any = (dropout, residual, tokens, needed, table, *norm, *weights, *biases)
    if torch.is_grad_enabled() and any(value.requires_grad for value in parameters.values()):
        apply: Callable[..., Tensor] = _Scan.apply
        return apply(*arguments)
    return _forward(*arguments, keeps_all=False)[0]


def _forward(
    dropout: Dropout | None,
    residual: bool,
    tokens: Tensor,
    needed: Sequence[int] | None,
    table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *layers: Tensor,
    keeps_all: bool,
) -> tuple[Tensor, list[Tensor]]:
    """h^L [S, T, B, H], and what the backward pass needs, at every position if `keeps_all`.

    That is gates, contexts, states, what each layer computes, and with residual connections its sums from the second
    layer on.
    """
    pieces = pieces_for(table)
    num_layers = len(layers) // 2
    weights, biases = layers[: num_layers + 1], layers[num_layers + 1 :]
    num_seeds, batch, length = tokens.shape
    hidden_size, context_dim = table.shape[-1], gamma.shape[1:].numel()
    kept = length if keeps_all else 1

    def units(layer: int) -> Tensor:
        positions = length if layer == num_layers - 1 else kept
        return table.new_empty(num_seeds, positions, batch, hidden_size)

    active = [units(layer) for layer in range(num_layers)]  # what a layer computes
    hidden = [active[0], *map(units, range(1, num_layers))] if residual else active  # with what it is added to
    gates = table.new_empty(num_seeds, kept, batch, 3 * context_dim)
    contexts = gamma.new_empty(num_seeds, length + 1 if keeps_all else 1, batch, context_dim)
    states = contexts if gamma.dtype == table.dtype else torch.empty_like(contexts, dtype=table.dtype)
    contexts[:, 0] = 0
    states[:, 0] = 0

    def lane(seeds: slice) -> None:
        # what does not depend on the position is looked up before the loop, which a capture runs through on the host
        shared: Any = {"lanes": num_seeds}
        own = dropout.of(seeds) if dropout else None
        matrices = [weight[seeds].mT for weight in weights]
        addends = [bias[seeds] for bias in biases]
        ids, rows = tokens[seeds].unbind(2), table[seeds]
        outputs, sums = ([_positions(h[seeds], length) for h in hs] for hs in (active, hidden))
        gate, context, state = (_positions(x[seeds], length) for x in (gates, contexts, states))
        gain, shift = gamma[seeds], beta[seeds]
        for t in range(length):
            count = needed[t] if needed else None
            draws = [(own, layer * length + t) if own else None for layer in range(num_layers)]
            pieces.linear(
                state[t],
                matrices[0],
                outputs[0][t],
                rows=(rows, ids[t]),
                relu=True,
                dropout=draws[0],
                needed=count,
                **shared,
            )
            for layer in range(1, num_layers):
                pieces.linear(
                    sums[layer - 1][t],
                    matrices[layer],
                    outputs[layer][t],
                    addend=addends[layer - 1],
                    relu=True,
                    dropout=draws[layer],
                    residual=(sums[layer - 1][t], sums[layer][t]) if residual else None,
                    needed=count,
                    **shared,
                )
            pieces.linear(sums[-1][t], matrices[-1], gate[t], addend=addends[-1], needed=count, **shared)
            pieces.gates_forward(gate[t], context[t], gain, shift, context[t + 1], state[t + 1], count)

    pieces.in_lanes(num_seeds, lane)
    return hidden[-1], [gates, contexts, states, *active, *(hidden[1:] if residual else [])]


def _positions(kept: Tensor, length: int) -> Sequence[Tensor]:
    """The positions of a tensor [S, T, ...]; a single one stands for all of `length` and for what follows the last."""
    views = kept.unbind(1)
    return views if len(views) > 1 else views * (length + 1)


class _Scan(torch.autograd.Function):
    """h^L from the token table [S, V, H] and the recurrent weights.

    Weights: context half of W1 [S, H, C], W2..WL [S, H, H], the three gates in one [S, 3C, H]; biases: b2..bL
    [S, H] and the gates' [S, 3C] (b1 is in the table).
    """

    @staticmethod
    def forward(
        ctx: Any,
        dropout: Dropout | None,
        residual: bool,
        tokens: Tensor,
        needed: Sequence[int] | None,
        table: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        last, kept = _forward(dropout, residual, tokens, needed, table, *rest, keeps_all=True)
        ctx.num_layers = len(rest[2:]) // 2
        ctx.needed = needed
        ctx.save_for_backward(tokens, *rest[: 3 + ctx.num_layers], *kept)
        ctx.residual = residual
        ctx.dropout = dropout
        ctx.vocabulary_size = table.shape[1]
        return last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_last,) = gradients
        tokens, gamma, beta, *rest = ctx.saved_tensors
        num_layers = ctx.num_layers
        weights, (gates, contexts, states, *kept) = rest[: num_layers + 1], rest[num_layers + 1 :]
        active = kept[:num_layers]
        hidden = [active[0], *kept[num_layers:]] if ctx.residual else active
        pieces = pieces_for(gates)
        num_seeds, batch, length = tokens.shape
        d_pre = [torch.empty_like(h) for h in active]  # gradients of the hidden layers before relu
        # gradients of the hidden layers themselves, with residual connections: of one and of the one above it
        d_hidden = [torch.empty_like(active[0][:, 0]) for _ in range(2)] if ctx.residual else [None, None]
        d_gates = torch.empty_like(gates)
        d_context = contexts.new_zeros(num_seeds, batch, contexts.shape[-1])
        carry = torch.empty_like(d_context)
        gate_sums = pieces.gate_sums(batch, gamma)
        sums = [pieces.linear_sums(batch, h.shape[-1], gamma) for h in active[1:]]  # the first bias is in the table

        def lane(seeds: slice) -> None:
            shared: Any = {"lanes": num_seeds}
            dropout = ctx.dropout.of(seeds) if ctx.dropout else None
            of_one, of_above = [None if d is None else d[seeds] for d in d_hidden]
            matrices = [weight[seeds] for weight in weights]
            units, d_units = ([h[seeds].unbind(1) for h in hs] for hs in (active, d_pre))
            gate, context, d_gate, d_output_units = (x[seeds].unbind(1) for x in (gates, contexts, d_gates, d_last))
            d_state, carried, own_gate_sums = d_context[seeds], carry[seeds], gate_sums[seeds]
            own_sums = [None, *(s[seeds] for s in sums)]
            gain, shift = gamma[seeds], beta[seeds]
            for t in reversed(range(length)):
                count = ctx.needed[t] if ctx.needed else None
                pieces.gates_backward(
                    d_state, gate[t], context[t], gain, shift, d_gate[t], carried, own_gate_sums, count
                )
                d_output = d_gate[t]
                for layer in reversed(range(num_layers)):
                    pieces.linear(
                        d_output,
                        matrices[layer + 1],
                        d_units[layer][t],
                        addend=d_output_units[t] if layer == num_layers - 1 else of_above,
                        # relu and dropout share one mask: a unit is positive where it was both active and kept
                        positive=(units[layer][t], dropout),
                        sums=own_sums[layer],
                        unmasked=of_one if layer else None,
                        needed=count,
                        **shared,
                    )
                    of_one, of_above = of_above, of_one
                    d_output = d_units[layer][t]
                pieces.linear(d_output, matrices[0], d_state, addend=carried, needed=count, **shared)

        pieces.in_lanes(num_seeds, lane)
        d_gamma, d_beta, *d_gate_biases = gate_sums.sum(1).unbind(1)
        d_weights = [
            torch.bmm(d.flatten(1, 2).mT, x.flatten(1, 2))
            for d, x in zip([*d_pre, d_gates], [states[:, :-1], *hidden], strict=True)
        ]
        d_biases = [s.sum(1).to(gates.dtype) for s in sums] + [torch.cat(d_gate_biases, dim=1).to(gates.dtype)]
        d_table = pieces.table_gradient(d_pre[0], tokens, ctx.vocabulary_size)
        d_norm = d_gamma.view_as(gamma), d_beta.view_as(gamma)
        return None, None, None, None, d_table, *d_norm, *d_weights, *d_biases
