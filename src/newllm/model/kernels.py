"""Triton kernels for the scan and the head on CUDA; `plain` has the same functions in torch operations.

Each kernel reads and writes every element once: what follows a product (bias, table rows, relu, dropout, masks) happens
on its accumulators. Arithmetic is float32 whatever the type of the operands.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from newllm.model.definition import CONTEXT_LIMIT, LAYER_NORM_EPS
from newllm.model.streams import Dropout

CHUNK = 131_072  # positions whose logits exist at once: the study's largest batch of one seed
GATE_ROWS = 1  # windows that one program of the gate kernels handles
GATE_WARPS = 1
ROW_WARPS = 2  # of a row of logits


@triton.jit
def _mix(x):
    """A 32-bit integer hash of low bias (constants: C. Wellons, "hash-prospector", lowbias32)."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _dropped(keys, step, seed, place, index, threshold):
    """Whether dropout takes the units with these indices; one hash decides two neighbours with 16 bits each.

    Keyed by the seed's two words, the step and the place (layer and position), so that it depends on nothing else.
    """
    count, place = tl.load(step).to(tl.uint32), place.to(tl.uint32)
    first = _mix(tl.load(keys + 2 * seed).to(tl.uint32) ^ _mix(count * 0x9E3779B9 + place))
    second = _mix(tl.load(keys + 2 * seed + 1).to(tl.uint32) ^ _mix(count + place * 0x85EBCA6B + first))
    x = (index >> 1).to(tl.uint32) * 0x9E3779B9 + first
    x ^= x >> 16
    x = x * 0x7FEB352D + second
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    bits = tl.where((index & 1) == 0, x & 0xFFFF, x >> 16)
    return bits < threshold


@triton.jit(do_not_specialize=["place", "batch"])
def _linear_kernel(
    x, w, out, addend, table, tokens, positive, keys, step,
    batch, width, depth,
    x_seed, x_row, w_seed, w_k, w_n, out_seed, out_row, addend_seed, addend_row,
    table_seed, tokens_seed, tokens_row, positive_seed, positive_row,
    place, threshold, scale,
    ADDEND: tl.constexpr, ROWS: tl.constexpr, RELU: tl.constexpr, DROPOUT: tl.constexpr, POSITIVE: tl.constexpr,
    EVEN_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1).to(tl.int64)
    tiles_n = tl.cdiv(width, BLOCK_N)
    row = (tl.program_id(0) // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (tl.program_id(0) % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    safe_row, safe_column = row % batch, column % width  # loads beyond the edge read something; nothing is stored there
    x_tile = x + seed * x_seed + safe_row[:, None].to(tl.int64) * x_row + k[None, :]
    w_tile = w + seed * w_seed + k[:, None] * w_k + safe_column[None, :] * w_n
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, depth, BLOCK_K):
        if EVEN_K:
            left, right = tl.load(x_tile), tl.load(w_tile)
        else:
            left = tl.load(x_tile, mask=k[None, :] + start < depth, other=0.0)
            right = tl.load(w_tile, mask=k[:, None] + start < depth, other=0.0)
        total = tl.dot(left, right, total)
        x_tile += BLOCK_K
        w_tile += BLOCK_K * w_k
    inside = (row[:, None] < batch) & (column[None, :] < width)
    if ADDEND:
        total += tl.load(
            addend + seed * addend_seed + row[:, None].to(tl.int64) * addend_row + column[None, :],
            mask=inside,
            other=0.0,
        ).to(tl.float32)
    if ROWS:
        token = tl.load(tokens + seed * tokens_seed + safe_row.to(tl.int64) * tokens_row).to(tl.int64)
        total += tl.load(
            table + seed * table_seed + token[:, None] * width + column[None, :], mask=inside, other=0.0
        ).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0)
    if DROPOUT:
        index = row[:, None] * width + column[None, :]
        total = tl.where(_dropped(keys, step, seed, place, index, threshold), 0.0, total * scale)
    if POSITIVE:
        hidden = tl.load(
            positive + seed * positive_seed + row[:, None].to(tl.int64) * positive_row + column[None, :],
            mask=inside,
            other=0.0,
        )
        total = tl.where(hidden > 0, total * scale, 0.0)
    target = out + seed * out_seed + row[:, None].to(tl.int64) * out_row + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


def linear(
    x: Tensor,
    w: Tensor,
    out: Tensor,
    addend: Tensor | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
    relu: bool = False,
    dropout: tuple[Dropout, int] | None = None,
    positive: tuple[Tensor, float] | None = None,
) -> None:
    """out = x @ w + addend + rows, through relu and dropout, or masked.

    Args:
        x: [S, B, K], contiguous in K.
        w: [S, K, N], of any strides.
        out: [S, B, N], contiguous in N.
        addend: [S, B, N] or, a bias, [S, N].
        rows: a table [S, V, N] and the tokens [S, B] whose rows are added.
        relu: whether negative sums become 0.
        dropout: the dropout and the place (layer and position) that it is drawn for.
        positive: hidden units [S, B, N] and a factor: what is not positive there becomes 0, the rest is multiplied.
    """
    num_seeds, batch, depth = x.shape
    width = out.shape[-1]
    none: Any = x  # stands for pointers that the kernel does not follow
    table, tokens = rows or (none, none)
    drawn, place = dropout or (None, 0)
    hidden, factor = positive or (none, 1.0)
    if drawn is not None:
        factor = drawn.scale
    block_m, block_n, block_k, warps, stages = _tile(num_seeds * batch, width)
    grid = (triton.cdiv(batch, block_m) * triton.cdiv(width, block_n), num_seeds)
    _linear_kernel[grid](
        x, w, out, none if addend is None else addend, table, tokens, hidden,
        none if drawn is None else drawn.keys, none if drawn is None else drawn.step,
        batch, width, depth,
        x.stride(0), x.stride(1), w.stride(0), w.stride(1), w.stride(2), out.stride(0), out.stride(1),
        0 if addend is None else addend.stride(0), addend.stride(1) if addend is not None and addend.dim() == 3 else 0,
        table.stride(0), tokens.stride(0), tokens.stride(1), hidden.stride(0), hidden.stride(1),
        place, 0 if drawn is None else drawn.threshold, factor,
        ADDEND=addend is not None, ROWS=rows is not None, RELU=relu, DROPOUT=drawn is not None,
        POSITIVE=positive is not None, EVEN_K=depth % block_k == 0,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def _tile(rows: int, width: int) -> tuple[int, int, int, int, int]:
    """Tile height, width and depth, warps and stages, as measured best on an H200 for one seed and for five."""
    return 64, 128, 64, 4, 4 if rows * width <= 2048 * 1024 else 3


@triton.jit(do_not_specialize=["batch"])
def _gates_forward_kernel(
    gates, previous, gamma, beta, context, state,
    batch, width, gates_seed, gates_row, context_seed, state_seed, gamma_seed, beta_seed,
    LIMIT: tl.constexpr, EPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < batch) & (column < width)
    gate = gates + seed * gates_seed + row.to(tl.int64) * gates_row + column
    update = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
    forget_gate = tl.sigmoid(tl.load(gate + width, mask=inside, other=0.0).to(tl.float32))
    input_gate = tl.sigmoid(tl.load(gate + 2 * width, mask=inside, other=0.0).to(tl.float32))
    place = seed * context_seed + row.to(tl.int64) * width + column
    old = tl.load(previous + place, mask=inside, other=0.0)
    mixed = tl.where(inside, forget_gate * old + input_gate * update, 0.0)
    centred = tl.where(inside, mixed - (tl.sum(mixed, 1) / width)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + EPS)[:, None]
    scale = tl.load(gamma + seed * gamma_seed + column, mask=column < width, other=0.0)
    shift = tl.load(beta + seed * beta_seed + column, mask=column < width, other=0.0)
    new = tl.minimum(tl.maximum(centred * rstd * scale + shift, -LIMIT), LIMIT)
    tl.store(context + place, new, mask=inside)
    tl.store(state + seed * state_seed + row.to(tl.int64) * width + column, new.to(state.dtype.element_ty), mask=inside)


def gates_forward(gates: Tensor, previous: Tensor, gamma: Tensor, beta: Tensor, context: Tensor, state: Tensor) -> None:
    """context = clamp(LayerNorm(f * previous + i * d)), and its copy in the type of the products.

    Args:
        gates: d, f and i before the sigmoid [S, B, 3C].
        previous: the context before [S, B, C].
        gamma, beta: LayerNorm's parameters [S, C].
        context: written [S, B, C], with the strides of `previous`.
        state: written [S, B, C].
    """
    num_seeds, batch, width = previous.shape
    _gates_forward_kernel[(triton.cdiv(batch, GATE_ROWS), num_seeds)](
        gates, previous, gamma, beta, context, state,
        batch, width, gates.stride(0), gates.stride(1), context.stride(0), state.stride(0),
        gamma.stride(0), beta.stride(0),
        LIMIT=CONTEXT_LIMIT, EPS=LAYER_NORM_EPS, ROWS=GATE_ROWS, BLOCK=triton.next_power_of_2(width),
        num_warps=GATE_WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def _gates_backward_kernel(
    d_context, gates, previous, gamma, beta, d_gates, carry, sums,
    batch, width, gates_seed, gates_row, context_seed, d_context_seed, gamma_seed, beta_seed,
    LIMIT: tl.constexpr, EPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < batch) & (column < width)
    gate_place = seed * gates_seed + row.to(tl.int64) * gates_row + column
    update = tl.load(gates + gate_place, mask=inside, other=0.0).to(tl.float32)
    forget_gate = tl.sigmoid(tl.load(gates + gate_place + width, mask=inside, other=0.0).to(tl.float32))
    input_gate = tl.sigmoid(tl.load(gates + gate_place + 2 * width, mask=inside, other=0.0).to(tl.float32))
    old = tl.load(previous + seed * context_seed + row.to(tl.int64) * width + column, mask=inside, other=0.0)
    mixed = tl.where(inside, forget_gate * old + input_gate * update, 0.0)
    centred = tl.where(inside, mixed - (tl.sum(mixed, 1) / width)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + EPS)[:, None]
    normed = centred * rstd
    scale = tl.load(gamma + seed * gamma_seed + column, mask=column < width, other=0.0)
    shift = tl.load(beta + seed * beta_seed + column, mask=column < width, other=0.0)
    place = seed * d_context_seed + row.to(tl.int64) * width + column
    d_new = tl.load(d_context + place, mask=inside, other=0.0)
    d_scaled = tl.where(tl.abs(normed * scale + shift) <= LIMIT, d_new, 0.0)
    # each program has its own row of sums and adds to it at every position: no atomics, so no random order
    total = sums + (seed * tl.num_programs(0) + tl.program_id(0)) * 2 * width + tl.arange(0, BLOCK)
    column_inside = tl.arange(0, BLOCK) < width
    tl.store(total, tl.load(total, mask=column_inside) + tl.sum(d_scaled * normed, 0), mask=column_inside)
    tl.store(total + width, tl.load(total + width, mask=column_inside) + tl.sum(d_scaled, 0), mask=column_inside)
    d_normed = d_scaled * scale
    mean = (tl.sum(d_normed, 1) / width)[:, None]
    projection = (tl.sum(d_normed * normed, 1) / width)[:, None]
    d_mixed = rstd * (d_normed - mean - normed * projection)
    kind = d_gates.dtype.element_ty
    tl.store(d_gates + gate_place, (d_mixed * input_gate).to(kind), mask=inside)
    d_forget = d_mixed * old * forget_gate * (1 - forget_gate)
    tl.store(d_gates + gate_place + width, d_forget.to(kind), mask=inside)
    d_input = d_mixed * update * input_gate * (1 - input_gate)
    tl.store(d_gates + gate_place + 2 * width, d_input.to(kind), mask=inside)
    tl.store(carry + place, d_mixed * forget_gate, mask=inside)


def gates_backward(
    d_context: Tensor,
    gates: Tensor,
    previous: Tensor,
    gamma: Tensor,
    beta: Tensor,
    d_gates: Tensor,
    carry: Tensor,
    sums: Tensor,
) -> None:
    """The way back through `gates_forward`.

    Args:
        d_context: gradient of the new context [S, B, C].
        gates, previous, gamma, beta: as they went forward.
        d_gates: written, the gradient of `gates`, with its strides.
        carry: written [S, B, C], the gradient that reaches the previous context through the forget gate, with the
            strides of `d_context`.
        sums: added to [S, programs, 2, C], the gradients of gamma and beta; make it with `gate_sums`.
    """
    num_seeds, batch, width = previous.shape
    _gates_backward_kernel[(triton.cdiv(batch, GATE_ROWS), num_seeds)](
        d_context, gates, previous, gamma, beta, d_gates, carry, sums,
        batch, width, gates.stride(0), gates.stride(1), previous.stride(0), d_context.stride(0),
        gamma.stride(0), beta.stride(0),
        LIMIT=CONTEXT_LIMIT, EPS=LAYER_NORM_EPS, ROWS=GATE_ROWS, BLOCK=triton.next_power_of_2(width),
        num_warps=GATE_WARPS,
    )  # fmt: skip


def gate_sums(gamma: Tensor, batch: int) -> Tensor:
    """Zeros for the sums of `gates_backward`."""
    return gamma.new_zeros(gamma.shape[0], triton.cdiv(batch, GATE_ROWS), 2, gamma.shape[1])


def column_sums(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums [S, N] over all positions of [S, T, B, N], as a product with ones: far faster than a reduction."""
    flat = values.flatten(1, 2)
    ones = torch.ones(flat.shape[0], 1, flat.shape[1], dtype=values.dtype, device=values.device)
    return torch.bmm(ones, flat)[:, 0].to(dtype)


def table_gradient(d_rows: Tensor, tokens: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient [S, V, N] of a table whose rows were taken by `tokens` [S, B, T], from that of the rows [S, T, B, N].

    A product with the one-hot matrix: atomic additions are slower, and their order is not fixed.
    """
    gradient = d_rows.new_empty(d_rows.shape[0], vocabulary_size, d_rows.shape[-1])
    for seed, rows in enumerate(d_rows.flatten(1, 2)):
        one_hot = torch.zeros(rows.shape[0], vocabulary_size, dtype=rows.dtype, device=rows.device)
        one_hot.scatter_(1, tokens[seed].mT.flatten().long()[:, None], 1)
        torch.mm(one_hot.mT, rows, out=gradient[seed])
    return gradient


@triton.jit
def _cross_entropy_kernel(
    logits, bias, targets, losses, hits, scale,
    width, ignored, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = logits + row * width + column
    value = tl.load(place, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + column, mask=inside, other=0.0)
    value = tl.where(inside, value, float("-inf"))
    target = tl.load(targets + row)
    counts = target != ignored
    largest = tl.max(value, 0)
    powers = tl.exp(value - largest)
    total = tl.sum(powers, 0)
    picked = tl.sum(tl.where(column == target, value, 0.0), 0)
    tl.store(losses + row, tl.where(counts, tl.log(total) + largest - picked, 0.0))
    best = tl.min(tl.where(value == largest, column, BLOCK), 0)
    tl.store(hits + row, tl.where(counts & (best == target), 1.0, 0.0))
    if GRADIENT:
        factor = tl.where(counts, tl.load(scale), 0.0)
        gradient = (powers / total - tl.where(column == target, 1.0, 0.0)) * factor
        tl.store(place, gradient.to(logits.dtype.element_ty), mask=inside)


def cross_entropy_rows(
    logits: Tensor, bias: Tensor, targets: Tensor, ignored: int, scale: Tensor, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Loss and hit of every row [R]; with `gradient` the logits become the gradient of scale * loss, in their place.

    Args:
        logits: products without the bias [R, V], contiguous.
        bias: [V] in float32.
        targets: [R].
        ignored: the target that counts nowhere.
        scale: factor of the gradient, one number.
        gradient: whether to overwrite the logits.
    """
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    hits = torch.empty_like(losses)
    block = triton.next_power_of_2(logits.shape[1])
    _cross_entropy_kernel[(logits.shape[0],)](
        logits, bias, targets, losses, hits, scale,
        logits.shape[1], ignored, GRADIENT=gradient, BLOCK=block, num_warps=ROW_WARPS,
    )  # fmt: skip
    return losses, hits


@triton.jit(do_not_specialize=["place"])
def _keep_kernel(out, keys, step, place, count, threshold, BLOCK: tl.constexpr):
    seed = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dropped = _dropped(keys, step, seed, place, index, threshold)
    tl.store(out + seed * count + index, tl.where(dropped, 0, 1).to(tl.int8), mask=index < count)


def keep_mask(dropout: Dropout, place: int, batch: int, width: int) -> Tensor:
    """What `linear` keeps [S, B, N] at a place; for tests and for the definition."""
    num_seeds = dropout.keys.shape[0]
    out = torch.empty(num_seeds, batch, width, dtype=torch.int8, device=dropout.keys.device)
    count = batch * width
    grid = (triton.cdiv(count, 1024), num_seeds)
    _keep_kernel[grid](out, dropout.keys, dropout.step, place, count, dropout.threshold, BLOCK=1024)
    return out.bool()
