"""The pieces of the scan and the head in torch operations, for any device; `kernels` has the same for CUDA."""

from collections.abc import Callable

import torch
from torch import Tensor

from newllm.model.definition import CONTEXT_LIMIT, LAYER_NORM_EPS
from newllm.model.streams import Dropout

CHUNK = 16_384  # positions whose logits exist at once
ALIGNMENT = 1  # of the width of the logits
ROW_MULTIPLE = 1  # of windows in a batch


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
        x: [S, B, K].
        w: [S, K, N].
        out: [S, B, N].
        addend: [S, B, N] or, a bias, [S, N].
        rows: a table [S, V, N] and the tokens [S, B] whose rows are added.
        relu: whether negative sums become 0.
        dropout: the dropout and the place (layer and position) that it is drawn for.
        positive: hidden units [S, B, N] and their dropout: what is not positive there becomes 0, the rest is scaled.
        sums: added to, the sums of `out` over B; made by `linear_sums`.
        residual: hidden units [S, B, N], and where their sum with `out` is written [S, B, N].
        unmasked: written [S, B, N], what `positive` masks.
        needed: how many rows to compute, the others become 0; None: all.
        lanes: of no consequence here.
    """
    count = x.shape[1] if needed is None else needed
    if count < x.shape[1]:
        _zero_beyond(count, out, residual[1] if residual else None, unmasked)
        x, out = x[:, :count], out[:, :count]
        addend = addend[:, :count] if addend is not None and addend.dim() == 3 else addend
        rows = (rows[0], rows[1][:, :count]) if rows else None
        positive = (positive[0][:, :count], positive[1]) if positive else None
        residual = (residual[0][:, :count], residual[1][:, :count]) if residual else None
        unmasked = None if unmasked is None else unmasked[:, :count]
    if rows is not None:
        table, tokens = rows
        addend = table[torch.arange(len(tokens), device=tokens.device)[:, None], tokens]
    if addend is None:
        torch.bmm(x, w, out=out)
    elif addend.dtype == x.dtype == out.dtype:
        torch.baddbmm(addend if addend.dim() == 3 else addend[:, None], x, w, out=out)
    else:
        out.copy_(torch.bmm(x, w) + (addend if addend.dim() == 3 else addend[:, None]))
    if relu:
        out.relu_()
    if dropout is not None:
        drawn, place = dropout
        layer, position = divmod(place, drawn.masks[0].shape[1])
        mask = drawn.masks[layer][:, position, : out.shape[1]]
        # 1 and 0 times the bits of a number are the number and 0; a number of another type is converted first, slowly
        (out.view(mask.dtype) if out.itemsize == mask.itemsize else out).mul_(mask)
        drawn.scale_(out)
    if residual is not None:
        torch.add(residual[0], out, out=residual[1])
    if unmasked is not None:
        unmasked.copy_(out)
    if positive is not None:
        hidden, factor = positive
        # relu's own backward, which makes no mask: comparing and multiplying takes four times as long
        torch.ops.aten.threshold_backward.grad_input(out, hidden, 0, grad_input=out)
        if factor is not None:
            factor.scale_(out)
    if sums is not None:
        sums[:, 0] += out.sum(1, dtype=sums.dtype)


def _zero_beyond(count: int, *written: Tensor | None) -> None:
    for tensor in written:
        if tensor is not None:
            tensor[:, count:] = 0


def in_lanes(num_seeds: int, lane: Callable[[slice], None]) -> None:
    """Does the work of all seeds at once."""
    del num_seeds
    lane(slice(None))


def linear_sums(batch: int, width: int, like: Tensor) -> Tensor:
    """Zeros [S, 1, N] for the sums of `linear` in the type of `like` [S, ...]."""
    del batch
    return like.new_zeros(like.shape[0], 1, width)


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
        gamma: LayerNorm's factor [S, C], or [S, blocks, -] where each block is normalised on its own.
        beta: LayerNorm's shift, like `gamma`.
        context: written [S, B, C].
        state: written [S, B, C]; may be `context` itself.
        needed: how many rows to compute, the others become 0; None: all.
    """
    count = gates.shape[1] if needed is None else needed
    if count < gates.shape[1]:
        _zero_beyond(count, context, state)
        gates, previous, context, state = (x[:, :count] for x in (gates, previous, context, state))
    blocks = gamma.shape[1:]
    mixed = _mix(gates.to(gamma.dtype), previous)[0].unflatten(-1, blocks)
    normed = torch.native_layer_norm(mixed, blocks[-1:], None, None, LAYER_NORM_EPS)[0]
    scaled = torch.addcmul(beta[:, None], normed, gamma[:, None])
    torch.clamp(scaled, -CONTEXT_LIMIT, CONTEXT_LIMIT, out=context.unflatten(-1, blocks))
    if state.data_ptr() != context.data_ptr():
        state.copy_(context)


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
        gates: as they went forward, like `previous`, `gamma` and `beta`.
        previous: [S, B, C].
        gamma: [S, C] or [S, blocks, -].
        beta: like `gamma`.
        d_gates: written, the gradient of `gates` [S, B, 3C].
        carry: written [S, B, C], the gradient that reaches the previous context through the forget gate.
        sums: added to, the gradients of gamma, beta and the three gates' biases; made by `gate_sums`.
        needed: how many rows to compute, the others become 0; None: all.
    """
    count = gates.shape[1] if needed is None else needed
    if count < gates.shape[1]:
        _zero_beyond(count, d_gates, carry)
        d_context, gates, previous = d_context[:, :count], gates[:, :count], previous[:, :count]
        d_gates, carry = d_gates[:, :count], carry[:, :count]
    blocks = gamma.shape[1:]
    mixed, update, forget_gate, input_gate = _mix(gates.to(gamma.dtype), previous)
    mixed = mixed.unflatten(-1, blocks)
    normed, mean, rstd = torch.native_layer_norm(mixed, blocks[-1:], None, None, LAYER_NORM_EPS)
    scaled = torch.addcmul(beta[:, None], normed, gamma[:, None])
    d_scaled = d_context.unflatten(-1, blocks) * (scaled.abs() <= CONTEXT_LIMIT)
    sums[:, 0, 0] += (d_scaled * normed).sum(1).flatten(1)
    sums[:, 0, 1] += d_scaled.sum(1).flatten(1)
    d_mixed = torch.ops.aten.native_layer_norm_backward(
        d_scaled * gamma[:, None], mixed, blocks[-1:], mean, rstd, None, None, [True, False, False]
    )[0].flatten(2)
    d_update, d_forget, d_input = d_gates.chunk(3, dim=-1)
    d_update.copy_(d_mixed * input_gate)
    d_forget.copy_(d_mixed * previous * forget_gate * (1 - forget_gate))
    d_input.copy_(d_mixed * update * input_gate * (1 - input_gate))
    torch.mul(d_mixed, forget_gate, out=carry)
    sums[:, 0, 2:].flatten(1).add_(d_gates.sum(1, dtype=sums.dtype))


def gate_sums(batch: int, gamma: Tensor) -> Tensor:
    """Zeros [S, 1, 5, C] for the sums of `gates_backward`."""
    del batch
    return gamma.new_zeros(gamma.shape[0], 1, 5, gamma.shape[1:].numel())


def _mix(gates: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f * c + i * d, and d, f, i; gates [S, B, 3C] before the sigmoid, context [S, B, C]."""
    update, forget_gate, input_gate = gates.chunk(3, dim=-1)
    forget_gate, input_gate = forget_gate.sigmoid(), input_gate.sigmoid()
    return torch.addcmul(forget_gate * context, input_gate, update), update, forget_gate, input_gate


def table_gradient(d_rows: Tensor, tokens: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient [S, V, N] of a table whose rows were taken by `tokens` [S, B, T], from that of the rows [S, T, B, N]."""
    wide = torch.promote_types(d_rows.dtype, torch.float32)
    sums = torch.zeros(d_rows.shape[0], vocabulary_size, d_rows.shape[-1], dtype=wide, device=d_rows.device)
    for seed, total in enumerate(sums):
        total.index_add_(0, tokens[seed].mT.flatten().long(), d_rows[seed].flatten(0, 1).to(wide))
    return sums.to(d_rows.dtype)


def losses_and_hits(logits: Tensor, bias: Tensor, targets: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row [R], and 1 where the largest logit is the target's and 0 elsewhere [R].

    Args:
        logits: products without the bias [R, V].
        bias: [V].
        targets: [R].
        ignored: the target that counts nowhere.
    """
    log_probabilities = (logits + bias).log_softmax(-1)
    losses = -_at(log_probabilities, targets) * (targets != ignored)
    hits = (log_probabilities.argmax(-1) == targets) & (targets != ignored)
    return losses, hits.to(losses.dtype)


def losses_and_gradients_(
    logits: Tensor, bias: Tensor, targets: Tensor, ignored: int, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row [R], and the bias's gradient of scale * loss [V]; the logits become their gradient.

    Args:
        logits: products without the bias [R, V]; overwritten.
        bias: [V].
        targets: [R].
        ignored: the target that counts nowhere.
        scale: factor of the gradients, one number.
    """
    counts = targets != ignored
    log_probabilities = (logits + bias).log_softmax(-1)
    losses = -_at(log_probabilities, targets) * counts
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, targets.long()[:, None], gradient.new_full((len(targets), 1), -1.0))
    gradient.mul_((counts * scale)[:, None])
    logits.copy_(gradient)
    return losses, gradient.sum(0)


def _at(values: Tensor, ids: Tensor) -> Tensor:
    """One of each row [R] of values [R, V]."""
    return values.gather(1, ids.long()[:, None])[:, 0]
