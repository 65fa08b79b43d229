"""The plain pieces one by one: exact bounds, the types that sums are kept in, and rows that are not needed."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm

from newllm.model import plain
from newllm.model.streams import Dropout

MANY = 2049  # the first whole number that half precision does not have
HALF = torch.float16


def random(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)), dtype=torch.float64).to(dtype)


def nans(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full(size, torch.nan, dtype=dtype)


@pytest.mark.parametrize("needed", [None, 5, 4, 2, 0])
def test_linear_forward(needed: int | None) -> None:
    """Two seeds, two layers of three positions, five windows; the mask is that of layer 1 at position 2."""
    x, w, table, below = random(2, 5, 3), random(2, 3, 4), random(2, 7, 4), random(2, 5, 4)
    tokens = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(0))
    masks = [torch.randint(0, 2, (2, 3, 5, 4), generator=torch.Generator().manual_seed(i)).short() for i in range(2)]
    out, total = nans(2, 5, 4), nans(2, 5, 4)
    plain.linear(
        x,
        w,
        out,
        rows=(table, tokens),
        relu=True,
        dropout=(Dropout([0.2, 0.5], masks), 5),
        residual=(below, total),
        needed=needed,
    )
    rows = torch.stack([table[seed][tokens[seed]] for seed in range(2)])
    expected = (x @ w + rows).relu() * masks[1][:, 2] * torch.tensor([1.25, 2.0])[:, None, None]
    count = 5 if needed is None else needed
    torch.testing.assert_close(out[:, :count], expected[:, :count])
    torch.testing.assert_close(total[:, :count], (below + expected)[:, :count])
    assert (out[:, count:] == 0).all()
    assert (total[:, count:] == 0).all()


@pytest.mark.parametrize("needed", [None, 5, 4, 2, 0])
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4)])
def test_linear_backward(needed: int | None, shape: tuple[int, ...]) -> None:
    x, w, addend = random(2, 5, 3), random(2, 3, 4), random(*shape)
    hidden = random(2, 5, 4).relu()
    out, unmasked, sums = nans(2, 5, 4), nans(2, 5, 4), random(2, 1, 4)
    before = sums.clone()
    plain.linear(
        x, w, out, addend=addend, positive=(hidden, Dropout([0.2, 0.5])), sums=sums, unmasked=unmasked, needed=needed
    )
    product = x @ w + (addend if addend.dim() == 3 else addend[:, None])
    expected = product * (hidden > 0) * torch.tensor([1.25, 2.0])[:, None, None]
    count = 5 if needed is None else needed
    torch.testing.assert_close(out[:, :count], expected[:, :count])
    torch.testing.assert_close(unmasked[:, :count], product[:, :count])
    torch.testing.assert_close(sums[:, 0] - before[:, 0], expected[:, :count].sum(1))
    assert (out[:, count:] == 0).all()
    assert (unmasked[:, count:] == 0).all()


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4)])
@pytest.mark.parametrize(
    ("added", "written"), [(torch.float32, torch.float32), (torch.float32, HALF), (HALF, torch.float32)]
)
def test_half_precision_is_left_for_what_is_added_or_written_in_float32(
    shape: tuple[int, ...], added: torch.dtype, written: torch.dtype
) -> None:
    x, w, addend = random(2, 5, 3, dtype=HALF), random(2, 3, 4, dtype=HALF), random(*shape, dtype=added)
    out = nans(2, 5, 4, dtype=written)
    plain.linear(x, w, out, addend=addend)
    assert torch.equal(out, (torch.bmm(x, w) + addend.view(2, -1, 4)).to(written))


def test_gates_in_half_precision_are_computed_in_the_type_of_the_parameters() -> None:
    gates, previous = random(2, 13, 12, dtype=HALF), random(2, 13, 4, dtype=torch.float32)
    gamma, beta = random(2, 4, dtype=torch.float32), random(2, 4, dtype=torch.float32)
    contexts = [nans(2, 13, 4, dtype=torch.float32) for _ in range(2)]
    for given, context in zip((gates, gates.float()), contexts, strict=True):
        plain.gates_forward(given, previous, gamma, beta, context, context)
    assert torch.equal(*contexts)


def test_dropout_in_half_precision_keeps_the_bits_of_a_unit() -> None:
    mask = torch.randint(0, 2, (1, 1, 5, 4), generator=torch.Generator().manual_seed(0)).short()
    x, w = random(1, 5, 3, dtype=HALF), random(1, 3, 4, dtype=HALF)
    out = nans(1, 5, 4, dtype=HALF)
    plain.linear(x, w, out, dropout=(Dropout([0.5], [mask]), 0))
    assert torch.equal(out, x @ w * mask[:, 0] * 2)
    x.fill_(torch.inf)
    plain.linear(x, w.abs(), out, dropout=(Dropout([0.5], [mask]), 0))
    assert (out[mask[:, 0] == 0] == 0).all(), "what has overflowed is dropped too"


def test_sums_are_kept_in_the_type_of_the_parameters() -> None:
    one, parameter = torch.ones(1, 1, 1, dtype=HALF), torch.ones(1, 1)
    x = one.expand(1, MANY, 1)
    sums = plain.linear_sums(MANY, 1, parameter)
    for _ in range(2):
        plain.linear(x, one, torch.empty_like(x), sums=sums)
    assert sums.tolist() == [[[2 * MANY]]]

    gates, previous, d_context = (random(1, MANY, width, dtype=torch.float32) for width in (6, 2, 2))
    gates, gamma, beta = gates.half(), torch.ones(1, 2), torch.zeros(1, 2)
    d_gates, d_previous = torch.empty_like(gates), torch.empty_like(previous)
    gate_sums = plain.gate_sums(MANY, gamma)
    assert gate_sums.dtype == torch.float32
    plain.gates_backward(d_context, gates, previous, gamma, beta, d_gates, d_previous, gate_sums)
    torch.testing.assert_close(gate_sums[0, 0, 2:].flatten().double(), d_gates[0].double().sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gate_sums[0, 0, 1], d_context[0].sum(0))
    wide, wide_previous = torch.empty(1, MANY, 6), torch.empty_like(previous)
    plain.gates_backward(d_context, gates.float(), previous, gamma, beta, wide, wide_previous, gate_sums)
    assert torch.equal(d_gates, wide.half()), "gates are computed in the type of the parameters"
    assert torch.equal(d_previous, wide_previous)

    rows = torch.ones(1, 1, 2 * MANY, 1, dtype=HALF)
    found = plain.table_gradient(rows, torch.zeros(1, 2 * MANY, 1, dtype=torch.int32), 2)
    assert found.dtype == HALF
    assert found.tolist() == [[[torch.tensor(2.0 * MANY).half().item()], [0]]]


@pytest.mark.parametrize("blocks", [(4,), (2, 2)])
@pytest.mark.parametrize("needed", [None, 12, 3, 0])
def test_gates_there_and_back(blocks: tuple[int, ...], needed: int | None) -> None:
    """Against autograd; LayerNorm's factor is 0 at the first entry, where its shift is exactly the limit."""
    gates, previous = random(2, 13, 12).requires_grad_(), random(2, 13, 4).requires_grad_()
    gamma, beta = (9 * random(2, *blocks)), random(2, *blocks)
    with torch.no_grad():
        gamma.flatten(1)[:, 0] = 0
        beta.flatten(1)[:, 0] = torch.tensor([10.0, -10.0])
    gamma.requires_grad_()
    beta.requires_grad_()
    update, forget, entry = gates.chunk(3, dim=-1)
    mixed = forget.sigmoid() * previous + entry.sigmoid() * update
    normed = layer_norm(mixed.unflatten(-1, blocks), blocks[-1:], eps=1e-5)
    expected = (normed * gamma[:, None] + beta[:, None]).flatten(2).clamp(-10, 10)
    count = 13 if needed is None else needed
    assert (expected.abs() == 10).double().mean() > 0.3
    d_context = random(2, 13, 4)
    wanted = torch.autograd.grad(expected[:, :count], [gates, previous, gamma, beta], d_context[:, :count])

    with torch.no_grad():
        context, state = nans(2, 13, 4), nans(2, 13, 4, dtype=torch.float32)
        plain.gates_forward(gates, previous, gamma, beta, context, state, needed)
        torch.testing.assert_close(context[:, :count], expected[:, :count])
        assert (context[:, count:] == 0).all()
        assert torch.equal(state, context.float())
        d_gates, carry, sums = nans(2, 13, 12), nans(2, 13, 4), plain.gate_sums(13, gamma)
        for _ in range(2):
            plain.gates_backward(d_context, gates, previous, gamma, beta, d_gates, carry, sums, needed)
    torch.testing.assert_close(d_gates, wanted[0])
    torch.testing.assert_close(carry, wanted[1])
    totals = torch.cat([wanted[2].flatten(1), wanted[3].flatten(1), wanted[0].sum(1)], dim=1).view(2, 5, 4)
    torch.testing.assert_close(sums[:, 0], 2 * totals)


def test_cross_entropy_and_its_gradient_in_half_precision() -> None:
    """A gradient that half precision does not have before it is scaled."""
    logits, bias = random(6, 9, dtype=HALF), torch.zeros(9)
    bias[4] = -20.0
    targets = torch.tensor([0, 4, 5, 0, 8, 1])
    exact = (logits.float() + bias).requires_grad_()
    expected = cross_entropy(exact, targets, ignore_index=0, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum() * 4096, exact)
    losses, hits = plain.losses_and_hits(logits, bias, targets, 0)
    torch.testing.assert_close(losses, expected.detach())
    assert hits.tolist() == ((exact.argmax(1) == targets) & (targets != 0)).float().tolist()
    found, d_bias = plain.losses_and_gradients_(logits, bias, targets, 0, torch.tensor(4096.0))
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(d_bias, gradient.sum(0), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, gradient.half())
    assert (logits[[2, 4, 5], 4] > 0).all()


def test_hits_are_of_the_target_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0], [3.0, 0.0, 1.0]])
    _, hits = plain.losses_and_hits(logits, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1, 2, 0]), 0)
    assert hits.tolist() == [1, 0, 0]
