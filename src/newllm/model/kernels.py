"""Triton kernels for the scan and the head on CUDA; `plain` has the same functions in torch operations.

Each kernel reads and writes every element once: what follows a product (bias, table rows, relu, dropout, masks) happens
on its accumulators. Arithmetic is float32 whatever the type of the operands.
"""

from collections.abc import Callable
from functools import cache
from math import log
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from newllm.model.definition import CONTEXT_LIMIT, LAYER_NORM_EPS
from newllm.model.streams import Dropout

CHUNK = 131_072  # positions whose logits exist at once: the study's largest batch of one seed
ROW_MULTIPLE = 128  # of windows in a batch: no tile has an edge among its rows, so half as many variants are compiled
ALIGNMENT = 64  # the width of the logits is rounded up to a multiple, so that every row starts aligned
# measured best on an H200: benchmarks/NOTES.md
# of a product: height, width and depth of a tile, warps, stages of the pipeline
TILES = {  # by the least number of lanes that share the GPU: many want the least traffic, one the least latency
    4: (128, 128, 64, 4, 3),
    2: (64, 128, 64, 4, 3),
    1: (64, 64, 64, 4, 4),
}
GATE_ROWS = {1: 2, 2: 4}  # windows that one program of the gates' backward handles, by the least number of lanes
GATE_WARPS = 1
HEAD_ROWS, HEAD_WARPS = 32, 4  # rows of logits that one program handles


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
def _dropped(keys, steps, thresholds, seed, place, row, column, first_column, width):
    """Whether dropout takes the units at these rows and columns: [rows, columns].

    Keyed by the seed's two words, the step and the place (layer and position), so that it depends on nothing else. One
    hash decides two neighbours with 16 bits each; `column` counts from `first_column`, which is even, so that the
    compiler sees that neighbours share the hash and computes it once.
    """
    count, place = tl.load(steps + seed).to(tl.uint32), place.to(tl.uint32)
    first = _mix(tl.load(keys + 2 * seed).to(tl.uint32) ^ _mix(count * 0x9E3779B9 + place))
    second = _mix(tl.load(keys + 2 * seed + 1).to(tl.uint32) ^ _mix(count + place * 0x85EBCA6B + first))
    pair = (row * ((width + 1) // 2))[:, None] + (first_column // 2 + (column >> 1))[None, :]
    x = pair.to(tl.uint32) * 0x9E3779B9 + first
    x ^= x >> 16
    x = x * 0x7FEB352D + second
    x ^= x >> 15
    x *= 0x846CA68B
    bits = tl.where((column & 1)[None, :] == 0, x << 16, x)  # the upper half counts; what lies below is 2^-16 of it
    return bits < (tl.load(thresholds + seed) << 16).to(tl.uint32)


# positions and seeds are not multiples of anything: without this there would be a variant for each way to be aligned
@triton.jit(
    do_not_specialize=["place", "needed"],
    do_not_specialize_on_alignment=["tokens", "tokens_row", "keys", "steps", "thresholds", "scales"],
)
def _linear_kernel(
    x, w, out, addend, table, tokens, positive, sums, before, second, keys, steps, thresholds, scales,
    width, depth,
    x_seed, x_row, w_seed, w_k, w_n, out_seed, out_row, addend_seed, addend_row,
    table_seed, tokens_seed, tokens_row, positive_seed, positive_row, sums_seed,
    before_seed, before_row, second_seed, second_row,
    needed, place,
    ADDEND: tl.constexpr, ROWS: tl.constexpr, RELU: tl.constexpr, DROPOUT: tl.constexpr, POSITIVE: tl.constexpr,
    SCALED: tl.constexpr, SUMS: tl.constexpr, RESIDUAL: tl.constexpr, UNMASKED: tl.constexpr, SKIPS: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1).to(tl.int64)
    tiles_n = tl.cdiv(width, BLOCK_N)
    tile_m, tile_n = tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    inside = (column < width)[None, :]
    target = out + seed * out_seed + (row[:, None] * out_row + column[None, :])
    second_target = second + seed * second_seed + (row[:, None] * second_row + column[None, :])
    if SKIPS:
        if tile_m * BLOCK_M >= needed:
            nothing = tl.zeros((BLOCK_M, BLOCK_N), dtype=out.dtype.element_ty)
            tl.store(target, nothing, mask=inside)
            if RESIDUAL or UNMASKED:
                tl.store(second_target, nothing, mask=inside)
            return
    # loads beyond the edge read something else; what comes of it is not stored
    safe_column = column if EVEN_N else tl.minimum(column, width - 1)
    x_tile = x + seed * x_seed + (row[:, None] * x_row + k[None, :])
    w_tile = w + seed * w_seed + (k[:, None] * w_k + safe_column[None, :] * w_n)
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
    if ADDEND == 1:
        total += tl.load(addend + seed * addend_seed + safe_column).to(tl.float32)[None, :]
    if ADDEND == 2:
        place_of_addend = addend + seed * addend_seed + (row[:, None] * addend_row + safe_column[None, :])
        total += tl.load(place_of_addend).to(tl.float32)
    if ROWS:
        token = tl.load(tokens + seed * tokens_seed + row * tokens_row)
        total += tl.load(table + seed * table_seed + (token[:, None] * width + safe_column[None, :])).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0)
    if DROPOUT:
        first_column = tile_n * BLOCK_N
        dropped = _dropped(keys, steps, thresholds, seed, place, row, tl.arange(0, BLOCK_N), first_column, width)
        total = tl.where(dropped, 0.0, total * tl.load(scales + seed))
    if RESIDUAL:
        below = tl.load(before + seed * before_seed + (row[:, None] * before_row + safe_column[None, :]))
        # of the rounded value, as the sum of two stored tensors
        total_sum = total.to(out.dtype.element_ty).to(tl.float32) + below.to(tl.float32)
        tl.store(second_target, total_sum.to(out.dtype.element_ty), mask=inside)
    if UNMASKED:
        tl.store(second_target, total.to(out.dtype.element_ty), mask=inside)
    if POSITIVE:
        hidden = tl.load(positive + seed * positive_seed + (row[:, None] * positive_row + safe_column[None, :]))
        if SCALED:
            total *= tl.load(scales + seed)
        total = tl.where(hidden > 0, total, 0.0)
    if SUMS:
        # each tile has its own sums and adds to them at every position: no atomics, so no random order
        place_of_sums = sums + seed * sums_seed + tile_m * width + column
        so_far = tl.load(place_of_sums, mask=column < width, other=0.0)
        tl.store(place_of_sums, so_far + tl.sum(total, 0), mask=column < width)
    value = total.to(out.dtype.element_ty)
    if EVEN_N:
        tl.store(target, value)
    else:
        tl.store(target, value, mask=inside)


def linear(
    x: Tensor,
    w: Tensor,
    out: Tensor,
    addend: Tensor | None = None,
    rows: tuple[Tensor, Tensor] | None = None,
    relu: bool = False,
    dropout: tuple[Dropout, int] | None = None,
    positive: tuple[Tensor, Dropout | None] | None = None,
    sums: Tensor | None = None,
    residual: tuple[Tensor, Tensor] | None = None,
    unmasked: Tensor | None = None,
    needed: int | None = None,
    lanes: int = 1,
) -> None:
    """out = x @ w + addend + rows, through relu and dropout, or masked.

    Args:
        x: [S, B, K], contiguous in K, B a multiple of `ROW_MULTIPLE`.
        w: [S, K, N], of any strides.
        out: [S, B, N], contiguous in N.
        addend: [S, B, N] or, a bias, [S, N].
        rows: a table [S, V, N] and the tokens [S, B] whose rows are added.
        relu: whether negative sums become 0.
        dropout: the dropout and the place (layer and position) that it is drawn for.
        positive: hidden units [S, B, N] and their dropout: what is not positive there becomes 0, the rest is scaled.
        sums: added to, the sums of `out` over B before it is rounded; made by `linear_sums`.
        residual: hidden units [S, B, N], and where their sum with `out` is written, both contiguous in N.
        unmasked: written [S, B, N], what `positive` masks.
        needed: how many rows to compute; in tiles beyond, `out` and its likes become 0. None: all.
        lanes: how many lanes share the GPU.
    """
    num_seeds, batch, depth = x.shape
    width = out.shape[-1]
    none: Any = x  # stands for pointers that the kernel does not follow
    table, tokens = rows or (none, none)
    drawn, place = dropout or (None, 0)
    hidden, scaling = positive or (none, None)
    before, second = residual or (none, none if unmasked is None else unmasked)
    applied = scaling if drawn is None else drawn
    keys, steps, thresholds, scales = (
        (applied.keys, applied.steps, applied.thresholds, applied.scales) if applied else (none,) * 4
    )
    block_m, block_n, block_k, warps, stages = _for_lanes(TILES, lanes)
    grid = (batch // block_m * triton.cdiv(width, block_n), num_seeds)
    _linear_kernel[grid](
        x, w, out, none if addend is None else addend, table, tokens, hidden, none if sums is None else sums,
        before, second,
        keys, steps, thresholds, scales,
        width, depth,
        _apart(x), x.stride(1), _apart(w), w.stride(1), w.stride(2), _apart(out), out.stride(1),
        0 if addend is None else _apart(addend), 0 if addend is None else addend.stride(1),
        _apart(table), _apart(tokens), tokens.stride(1), _apart(hidden), hidden.stride(1),
        0 if sums is None else _apart(sums),
        _apart(before), before.stride(1), _apart(second), second.stride(1),
        needed or 0, place,
        ADDEND=0 if addend is None else addend.dim() - 1, ROWS=rows is not None, RELU=relu, DROPOUT=drawn is not None,
        POSITIVE=positive is not None, SCALED=scaling is not None, SUMS=sums is not None, RESIDUAL=residual is not None,
        UNMASKED=unmasked is not None, SKIPS=needed is not None,
        EVEN_N=width % block_n == 0, EVEN_K=depth % block_k == 0,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def _apart(stacked: Tensor) -> int:
    """Elements from one seed to the next; 0 for a single one, so that no odd number hides that its rows are aligned."""
    return stacked.stride(0) if stacked.shape[0] > 1 else 0


def in_lanes(num_seeds: int, lane: Callable[[slice], None]) -> None:
    """Does the work of each seed on a stream of its own; what follows on the current stream waits for all.

    What outlives the work must be allocated before: memory belongs to the stream that it was allocated on.
    """
    lanes = [slice(seed, seed + 1) for seed in range(num_seeds)]
    if not torch.cuda.is_available() or num_seeds == 1:
        for seeds in lanes:
            lane(seeds)
        return
    current = torch.cuda.current_stream()
    streams = _streams(num_seeds, current.device)
    for seeds, stream in zip(lanes, streams, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            lane(seeds)
    for stream in streams:
        current.wait_stream(stream)


@cache
def _streams(count: int, device: torch.device) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(count)]


def linear_sums(batch: int, width: int, like: Tensor) -> Tensor:
    """Zeros [S, tiles, N] for the sums of `linear` in S lanes, in the type of `like` [S, ...]."""
    return like.new_zeros(like.shape[0], batch // _for_lanes(TILES, len(like))[0], width)


def _for_lanes(choices: dict[int, Any], lanes: int) -> Any:
    """The choice for so many lanes, by the least number of lanes that each is for."""
    return choices[max(least for least in choices if least <= lanes)]


@triton.jit(do_not_specialize=["needed"])
def _gates_forward_kernel(
    gates, previous, gamma, beta, context, state,
    width, context_dim, gates_seed, gates_row, context_seed, state_seed, gamma_seed, beta_seed, needed,
    LIMIT: tl.constexpr, EPS: tl.constexpr, SKIPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seed, row = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    column += tl.program_id(2) * width  # each block is normalised on its own
    gate = gates + seed * gates_seed + row * gates_row + column
    place = seed * context_seed + row * context_dim + column
    state_place = state + seed * state_seed + row * context_dim + column
    if SKIPS:
        if row >= needed:
            nothing = tl.zeros((BLOCK,), dtype=tl.float32)
            tl.store(context + place, nothing, mask=inside)
            tl.store(state_place, nothing.to(state.dtype.element_ty), mask=inside)
            return
    _, _, _, _, normed, _ = _mix_and_norm(gate, previous + place, width, context_dim, inside, EPS)
    scale = tl.load(gamma + seed * gamma_seed + column, mask=inside, other=0.0)
    shift = tl.load(beta + seed * beta_seed + column, mask=inside, other=0.0)
    new = tl.minimum(tl.maximum(normed * scale + shift, -LIMIT), LIMIT)
    tl.store(context + place, new, mask=inside)
    tl.store(state_place, new.to(state.dtype.element_ty), mask=inside)


@triton.jit
def _mix_and_norm(gate, previous, width, context_dim, inside, EPS: tl.constexpr):
    """d, f, i, c, LayerNorm of f * c + i * d without gain and shift, its inverse deviation: one block of one row."""
    update = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
    forget_gate = tl.sigmoid(tl.load(gate + context_dim, mask=inside, other=0.0).to(tl.float32))
    input_gate = tl.sigmoid(tl.load(gate + 2 * context_dim, mask=inside, other=0.0).to(tl.float32))
    old = tl.load(previous, mask=inside, other=0.0)
    mixed = tl.where(inside, forget_gate * old + input_gate * update, 0.0)
    centred = tl.where(inside, mixed - tl.sum(mixed, 0) / width, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 0) / width + EPS)
    return update, forget_gate, input_gate, old, centred * rstd, rstd


def gates_forward(
    gates: Tensor,
    previous: Tensor,
    gamma: Tensor,
    beta: Tensor,
    context: Tensor,
    state: Tensor,
    needed: int | None = None,
) -> None:
    """context = clamp(LayerNorm(f * previous + i * d)), and its copy in the type of the products.

    Args:
        gates: d, f and i before the sigmoid [S, B, 3C].
        previous: the context before [S, B, C].
        gamma, beta: LayerNorm's parameters [S, C], or [S, blocks, -] where each block is normalised on its own.
        context: written [S, B, C], with the strides of `previous`.
        state: written [S, B, C].
        needed: how many rows to compute, the others become 0; None: all.
    """
    num_seeds, batch, context_dim = previous.shape
    width = gamma.shape[-1]
    _gates_forward_kernel[(batch, num_seeds, context_dim // width)](
        gates, previous, gamma, beta, context, state,
        width, context_dim, gates.stride(0), gates.stride(1), context.stride(0), state.stride(0),
        gamma.stride(0), beta.stride(0), needed or 0,
        LIMIT=CONTEXT_LIMIT, EPS=LAYER_NORM_EPS, SKIPS=needed is not None, BLOCK=triton.next_power_of_2(width),
        num_warps=GATE_WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["needed"])
def _gates_backward_kernel(
    d_context, gates, previous, gamma, beta, d_gates, carry, sums,
    width, context_dim, gates_seed, gates_row, context_seed, d_context_seed, gamma_seed, beta_seed, sums_seed,
    needed, LIMIT: tl.constexpr, EPS: tl.constexpr, ROWS: tl.constexpr, SKIPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    column += tl.program_id(2) * width
    scale = tl.load(gamma + seed * gamma_seed + column, mask=inside, other=0.0)
    shift = tl.load(beta + seed * beta_seed + column, mask=inside, other=0.0)
    kind = d_gates.dtype.element_ty
    first = tl.program_id(0) * ROWS
    if SKIPS:
        if first >= needed:
            nothing = tl.zeros((BLOCK,), dtype=tl.float32)
            for index in range(ROWS):
                row = first.to(tl.int64) + index
                d_gate = d_gates + seed * gates_seed + row * gates_row + column
                tl.store(d_gate, nothing.to(kind), mask=inside)
                tl.store(d_gate + context_dim, nothing.to(kind), mask=inside)
                tl.store(d_gate + 2 * context_dim, nothing.to(kind), mask=inside)
                tl.store(carry + seed * d_context_seed + row * context_dim + column, nothing, mask=inside)
            return
    # each program has its own sums and adds to them at every position: no atomics, so no random order
    total = sums + seed * sums_seed + tl.program_id(0) * 5 * context_dim + column
    sum_gamma = tl.load(total, mask=inside, other=0.0)
    sum_beta = tl.load(total + context_dim, mask=inside, other=0.0)
    sum_update = tl.load(total + 2 * context_dim, mask=inside, other=0.0)
    sum_forget = tl.load(total + 3 * context_dim, mask=inside, other=0.0)
    sum_input = tl.load(total + 4 * context_dim, mask=inside, other=0.0)
    for index in range(ROWS):
        row = first.to(tl.int64) + index
        gate_place = seed * gates_seed + row * gates_row + column
        update, forget_gate, input_gate, old, normed, rstd = _mix_and_norm(
            gates + gate_place,
            previous + seed * context_seed + row * context_dim + column,
            width,
            context_dim,
            inside,
            EPS,
        )
        place = seed * d_context_seed + row * context_dim + column
        d_new = tl.load(d_context + place, mask=inside, other=0.0)
        d_scaled = tl.where(tl.abs(normed * scale + shift) <= LIMIT, d_new, 0.0)
        d_normed = d_scaled * scale
        mean = tl.sum(d_normed, 0) / width
        projection = tl.sum(d_normed * normed, 0) / width
        d_mixed = rstd * (d_normed - mean - normed * projection)
        d_update = d_mixed * input_gate
        d_forget = d_mixed * old * forget_gate * (1 - forget_gate)
        d_input = d_mixed * update * input_gate * (1 - input_gate)
        tl.store(d_gates + gate_place, d_update.to(kind), mask=inside)
        tl.store(d_gates + gate_place + context_dim, d_forget.to(kind), mask=inside)
        tl.store(d_gates + gate_place + 2 * context_dim, d_input.to(kind), mask=inside)
        tl.store(carry + place, d_mixed * forget_gate, mask=inside)
        sum_gamma += d_scaled * normed
        sum_beta += d_scaled
        sum_update += d_update
        sum_forget += d_forget
        sum_input += d_input
    tl.store(total, sum_gamma, mask=inside)
    tl.store(total + context_dim, sum_beta, mask=inside)
    tl.store(total + 2 * context_dim, sum_update, mask=inside)
    tl.store(total + 3 * context_dim, sum_forget, mask=inside)
    tl.store(total + 4 * context_dim, sum_input, mask=inside)


def gates_backward(
    d_context: Tensor,
    gates: Tensor,
    previous: Tensor,
    gamma: Tensor,
    beta: Tensor,
    d_gates: Tensor,
    carry: Tensor,
    sums: Tensor,
    needed: int | None = None,
) -> None:
    """The way back through `gates_forward`.

    Args:
        d_context: gradient of the new context [S, B, C].
        gates, previous, gamma, beta: as they went forward.
        d_gates: written, the gradient of `gates`, with its strides.
        carry: written [S, B, C], the gradient that reaches the previous context through the forget gate, with the
            strides of `d_context`.
        sums: added to, the gradients of gamma, beta and the three gates' biases; made by `gate_sums`.
        needed: how many rows to compute, rounded up to whole programs; the others become 0. None: all.
    """
    num_seeds, batch, context_dim = previous.shape
    width, programs = gamma.shape[-1], sums.shape[1]
    _gates_backward_kernel[(programs, num_seeds, context_dim // width)](
        d_context, gates, previous, gamma, beta, d_gates, carry, sums,
        width, context_dim, gates.stride(0), gates.stride(1), previous.stride(0), d_context.stride(0),
        gamma.stride(0), beta.stride(0), sums.stride(0), needed or 0,
        LIMIT=CONTEXT_LIMIT, EPS=LAYER_NORM_EPS, ROWS=batch // programs, SKIPS=needed is not None,
        BLOCK=triton.next_power_of_2(width), num_warps=GATE_WARPS,
    )  # fmt: skip


def gate_sums(batch: int, gamma: Tensor) -> Tensor:
    """Zeros [S, programs, 5, C] for the sums of `gates_backward` in S lanes."""
    return gamma.new_zeros(gamma.shape[0], batch // _for_lanes(GATE_ROWS, len(gamma)), 5, gamma.shape[1:].numel())


def table_gradient(d_rows: Tensor, tokens: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient [S, V, N] of a table whose rows were taken by `tokens` [S, B, T], from that of the rows [S, T, B, N].

    A product with the one-hot matrix: atomic additions are slower, and their order is not fixed.
    """
    gradient = d_rows.new_empty(d_rows.shape[0], vocabulary_size, d_rows.shape[-1])
    flat = d_rows.flatten(1, 2)
    one_hot = flat.new_zeros(flat.shape[1], vocabulary_size)
    for seed, rows in enumerate(flat):
        ids = tokens[seed].mT.flatten().long()[:, None]
        one_hot.scatter_(1, ids, 1)
        torch.mm(one_hot.mT, rows, out=gradient[seed])
        one_hot.scatter_(1, ids, 0)  # far less to write than a matrix of zeros
    return gradient


@triton.jit(do_not_specialize=["count", "ignored"], do_not_specialize_on_alignment=["scale"])
def _cross_entropy_kernel(
    logits, bias, targets, losses, hits, scale, sums,
    count, width, ignored, LOG2E: tl.constexpr, GRADIENT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    inside = column < width
    shift = tl.load(bias + column, mask=inside, other=float("-inf")) * LOG2E
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    first = tl.program_id(0) * ROWS
    for index in range(0, tl.minimum(ROWS, count - first)):
        row = first.to(tl.int64) + index
        place = logits + row * width + column
        target = tl.load(targets + row)
        counts = target != ignored
        picked = tl.load(logits + row * width + target).to(tl.float32) + tl.load(bias + target)
        value = tl.load(place, mask=inside, other=0.0).to(tl.float32) * LOG2E + shift
        largest = tl.max(value, 0)
        powers = tl.exp2(value - largest)
        norm = tl.sum(powers, 0)
        tl.store(losses + row, tl.where(counts, (tl.log2(norm) + largest) / LOG2E - picked, 0.0))
        if GRADIENT:
            factor = tl.where(counts, tl.load(scale), 0.0)
            gradient = powers * (factor / norm) - tl.where(column == target, factor, 0.0)
            tl.store(place, gradient.to(logits.dtype.element_ty), mask=inside)
            total += gradient
        else:
            best = tl.min(tl.where(value == largest, column, BLOCK), 0)
            tl.store(hits + row, tl.where(counts & (best == target), 1.0, 0.0))
    if GRADIENT:
        tl.store(sums + tl.program_id(0).to(tl.int64) * width + column, total, mask=inside)


def losses_and_hits(logits: Tensor, bias: Tensor, targets: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row [R], and 1 where the largest logit is the target's and 0 elsewhere [R].

    Args:
        logits: products without the bias [R, V], contiguous, V a multiple of `ALIGNMENT`.
        bias: [V] in float32.
        targets: [R].
        ignored: the target that counts nowhere.
    """
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    hits = torch.empty_like(losses)
    _cross_entropy(logits, bias, targets, ignored, losses, hits, losses, losses, gradient=False)
    return losses, hits


def losses_and_gradients_(
    logits: Tensor, bias: Tensor, targets: Tensor, ignored: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row [R], and the bias's gradient of scale * loss [V]; the logits become their gradient.

    Args:
        logits: products without the bias [R, V], contiguous, V a multiple of `ALIGNMENT`; overwritten.
        bias: [V] in float32.
        targets: [R].
        ignored: the target that counts nowhere.
        scale: factor of the gradients, one number.
    """
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    sums = losses.new_empty(triton.cdiv(logits.shape[0], HEAD_ROWS), logits.shape[1])
    _cross_entropy(logits, bias, targets, ignored, losses, losses, scale, sums, gradient=True)
    return losses, sums.sum(0)


def _cross_entropy(
    logits: Tensor,
    bias: Tensor,
    targets: Tensor,
    ignored: int,
    losses: Tensor,
    hits: Tensor,
    scale: Tensor,
    sums: Tensor,
    gradient: bool,
) -> None:
    count, width = logits.shape
    _cross_entropy_kernel[(triton.cdiv(count, HEAD_ROWS),)](
        logits, bias, targets, losses, hits, scale, sums,
        count, width, ignored, LOG2E=1 / log(2), GRADIENT=gradient, ROWS=HEAD_ROWS, BLOCK=triton.next_power_of_2(width),
        num_warps=HEAD_WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["place"])
def _keep_kernel(out, keys, steps, thresholds, place, width, BLOCK: tl.constexpr):
    seed, row = tl.program_id(1).to(tl.int64), tl.program_id(0) + tl.arange(0, 1)
    column = tl.arange(0, BLOCK)
    dropped = _dropped(keys, steps, thresholds, seed, place, row, column, 0, width)
    target = out + (seed * tl.num_programs(0) + row)[:, None] * width + column[None, :]
    tl.store(target, tl.where(dropped, 0, 1).to(tl.int8), mask=(column < width)[None, :])


def keep_mask(dropout: Dropout, place: int, batch: int, width: int) -> Tensor:
    """What `linear` keeps [S, B, N] at a place; for tests and for the definition."""
    keys = dropout.keys
    assert keys is not None  # noqa: S101 (the kernels draw for themselves)
    out = torch.empty(len(keys), batch, width, dtype=torch.int8, device=keys.device)
    _keep_kernel[(batch, len(keys))](
        out, keys, dropout.steps, dropout.thresholds, place, width, BLOCK=triton.next_power_of_2(width)
    )
    return out.bool()
