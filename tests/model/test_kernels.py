"""The kernels equal the plain pieces, and the fast path equals the definition: on a GPU, or on a CPU by Triton's
interpreter (TRITON_INTERPRET=1, with Triton installed; slow).
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.config import TrainConfig
from newllm.model import plain, scan
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.gradients import losses_and_gradients
from newllm.model.streams import Dropout, dropout_keys, threshold
from newllm.training import optimiser
from newllm.training.optimiser import flatten, unflatten
from tests.training.fitting import fit

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [] if INTERPRETED else pytest.mark.cuda

HALF = torch.float16
SIZES = [(2, 128, 64, 64), (3, 128, 45, 70), (5, 384, 512, 256), (1, 2048, 768, 512), (1, 128, 1, 1)]  # S, B, K, N


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    from newllm.model import kernels as module  # noqa: PLC0415 (imports Triton)

    if INTERPRETED:  # small tiles: the interpreter's time grows with the padding
        monkeypatch.setattr(module, "ROW_MULTIPLE", 4)
        monkeypatch.setattr(module, "TILES", {2: (4, 32, 32, 1, 1), 1: (2, 16, 16, 1, 1)})
    return module


def random(*size: int, dtype: torch.dtype = HALF) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(sum(size))
    return torch.randn(*size, generator=generator, device=DEVICE).to(dtype)


def poisoned(*size: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.full(size, float("nan"), device=DEVICE, dtype=dtype)


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-3) -> bool:
    """Relative error in norm; false for anything not finite."""
    difference = (found.double() - expected.double()).norm()
    return bool(difference <= tolerance * expected.double().norm() + 1e-6)


def drawn_by_kernels(seeds: list[int], probabilities: list[float], step: int) -> Dropout:
    return Dropout(
        probabilities,
        keys=dropout_keys(seeds, DEVICE),
        steps=torch.full((len(seeds),), step, dtype=torch.int32, device=DEVICE),
        thresholds=torch.tensor([threshold(p) for p in probabilities], dtype=torch.int32, device=DEVICE),
        scales=torch.tensor([1 / (1 - p) for p in probabilities], device=DEVICE),
    )


def scaled(num_rows: int) -> Dropout:
    """Dropouts whose scales differ from row to row."""
    return drawn_by_kernels(list(range(num_rows)), [0.1 * row for row in range(num_rows)], 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", ["plain", "bias", "residual", "rows", "masked", "wide"])
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_linear(kernels: Any, size: tuple[int, int, int, int], variant: str, lanes: int) -> None:
    num_seeds, batch, depth, width = size
    saved = random(num_seeds, 3, batch, depth)  # one position of a longer tensor
    x, w = saved[:, 1], random(num_seeds, width, depth + 8)[:, :, 8:].mT
    options: dict[str, Any] = {}
    if variant == "bias":
        options = {"addend": random(num_seeds, width), "relu": True}
    elif variant == "residual":
        options = {"addend": random(num_seeds, batch, width)}
    elif variant == "rows":
        tokens = torch.randint(0, 9, (num_seeds, batch, 4), device=DEVICE, dtype=torch.int32)[:, :, 2]
        options = {"rows": (random(num_seeds, 9, width), tokens), "relu": True}
    elif variant == "masked":
        options = {
            "addend": random(num_seeds, batch, width),
            "positive": (random(num_seeds, batch, width), scaled(num_seeds)),
        }
    elif variant == "wide":
        options = {"addend": random(num_seeds, batch, width, dtype=torch.float32)}
    kind = torch.float32 if variant == "wide" else HALF
    found = poisoned(num_seeds, 2, batch, width, dtype=kind)
    sums = None
    if variant == "masked":
        sums = kernels.linear_sums(batch, width, random(lanes, dtype=torch.float32))[:1].repeat(num_seeds, 1, 1)
    for _ in range(2):
        kernels.linear(x, w, found[:, 1], **options, sums=sums, lanes=lanes)
    expected = torch.empty(num_seeds, batch, width, device=DEVICE)
    raised = {
        name: tuple(v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in value)
        if isinstance(value, tuple)
        else (value.float() if isinstance(value, Tensor) else value)
        for name, value in options.items()
    }
    plain.linear(x.float(), w.float(), expected, **raised)
    assert close(found[:, 1], expected)
    assert found[:, 0].isnan().all(), "wrote outside"
    if sums is not None:
        assert close(sums.sum(1), 2 * expected.sum(1), 1e-3)


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("eighths", [8, 5, 0])
def test_linear_with_residual_connections_and_rows_that_are_not_needed(kernels: Any, way: str, eighths: int) -> None:
    num_seeds, batch, depth, width = (3, 8, 16, 20) if INTERPRETED else (3, 512, 64, 192)
    needed = batch * eighths // 8
    x, w = random(num_seeds, batch, depth), random(num_seeds, width, depth).mT
    below, addend = random(num_seeds, batch, width), random(num_seeds, batch, width)
    results: list[list[Tensor]] = []
    for pieces, kind in ((kernels, HALF), (plain, torch.float32)):
        out, second = (poisoned(num_seeds, batch, width, dtype=kind) for _ in range(2))
        sums = pieces.linear_sums(batch, width, random(num_seeds, dtype=torch.float32))
        if way == "forward":
            options: dict[str, Any] = {"relu": True, "residual": (below.to(kind), second)}
        else:
            options = {
                "positive": (below.to(kind), scaled(num_seeds)),
                "unmasked": second,
                "sums": sums,
                "addend": addend.to(kind),
            }
        pieces.linear(x.to(kind), w.to(kind), out, **options, needed=needed, lanes=num_seeds)
        results.append([out, second, sums.sum(1)])
    height = kernels._for_lanes(kernels.TILES, num_seeds)[0]
    computed = -(-needed // height) * height
    for found, expected in zip(results[0][:2], results[1][:2], strict=True):
        assert close(found[:, :needed], expected[:, :needed])
        assert (found[:, computed:] == 0).all(), "tiles that are not needed are zeros"
        assert (expected[:, needed:] == 0).all()
    if way == "backward" and computed == needed:
        assert close(results[0][2], results[1][2], 1e-3)


@pytest.mark.parametrize(
    ("num_seeds", "batch", "width", "blocks"),
    [(1, 8, 256, 1), (3, 36, 45, 1), (5, 300, 256, 1), (2, 4, 512, 1), (2, 4, 512, 2), (3, 12, 45, 3)],
)
def test_gates(kernels: Any, num_seeds: int, batch: int, width: int, blocks: int) -> None:
    gates = 2 * random(num_seeds, 2, batch, 3 * width)
    previous, d_context = (random(num_seeds, batch, width, dtype=torch.float32) for _ in range(2))
    both = random(num_seeds, 7 + 2 * width, dtype=torch.float32)[:, 7:]  # views, as of a trainer's matrix of parameters
    gamma, beta = both.split(width, dim=1)
    if blocks > 1:
        gamma, beta = gamma.unflatten(1, (blocks, -1)), beta.unflatten(1, (blocks, -1))
    gamma *= 5  # some contexts reach the clamp
    context, state = poisoned(num_seeds, batch, width, dtype=torch.float32), poisoned(num_seeds, batch, width)
    kernels.gates_forward(gates[:, 1], previous, gamma, beta, context, state)
    expected = torch.empty_like(context)
    plain.gates_forward(gates[:, 1], previous, gamma, beta, expected, expected)
    assert close(context, expected, 1e-5)
    assert torch.equal(state, context.half())
    assert (context.abs() == 10).any()
    results = []
    for pieces in (kernels, plain):
        d_gates = poisoned(num_seeds, 2, batch, 3 * width, dtype=torch.float32)
        carry, sums = torch.full_like(previous, float("nan")), pieces.gate_sums(batch, gamma)
        for _ in range(2):
            pieces.gates_backward(d_context, gates[:, 1], previous, gamma, beta, d_gates[:, 1], carry, sums)
        results.append((d_gates[:, 1], carry, sums.sum(1)))
    for found, wanted in zip(*results, strict=True):
        assert close(found, wanted, 1e-4)


@pytest.mark.parametrize(("rows", "width"), [(100, 1024), (7, 11), (300, 1000)])
def test_cross_entropy(kernels: Any, rows: int, width: int) -> None:
    values, bias = 3 * random(rows, width), random(width, dtype=torch.float32)
    bias[-2:] = float("-inf")  # as padding has it
    targets = torch.randint(0, width - 2, (rows,), device=DEVICE, dtype=torch.int32)
    targets[::3] = 0
    scale = torch.tensor(7.0, device=DEVICE)
    raised = values.float()
    hits = plain.losses_and_hits(raised, bias, targets, 0)
    expected = plain.losses_and_gradients_(raised, bias, targets, 0, scale)
    assert torch.equal(hits[0], expected[0])
    untouched = values.clone()
    found_hits = kernels.losses_and_hits(untouched, bias, targets, 0)
    assert torch.equal(untouched, values)
    found = kernels.losses_and_gradients_(values, bias, targets, 0, scale)
    assert torch.equal(found_hits[1], hits[1])
    for a, b in zip((*found, found_hits[0]), (*expected, expected[0]), strict=True):
        assert close(a, b, 1e-5)
    assert close(values, raised, 1e-3)
    assert (values[:, -2:] == 0).all()


def test_gates_of_rows_that_are_not_needed_are_zeros(kernels: Any) -> None:
    gates, previous = 2 * random(2, 16, 3 * 45), random(2, 16, 45, dtype=torch.float32)
    gamma, beta = (random(2, n, dtype=torch.float32)[:, :45] for n in (45, 50))
    context, state = poisoned(2, 16, 45, dtype=torch.float32), poisoned(2, 16, 45)
    kernels.gates_forward(gates, previous, gamma, beta, context, state, 6)
    expected = torch.empty_like(context)
    plain.gates_forward(gates, previous, gamma, beta, expected, expected)
    assert close(context[:, :6], expected[:, :6], 1e-5)
    for written in (context, state):
        assert (written[:, 6:] == 0).all()
    d_context = random(2, 16, 45, dtype=torch.float32)
    d_context[:, 6:] = 0  # as what is not needed has it
    results = []
    for pieces, count in ((kernels, 6), (plain, None)):
        d_gates, carry = poisoned(2, 16, 3 * 45, dtype=torch.float32), torch.full_like(previous, float("nan"))
        sums = pieces.gate_sums(16, gamma)
        pieces.gates_backward(d_context, gates, previous, gamma, beta, d_gates, carry, sums, count)
        results.append((d_gates, carry, sums.sum(1)))
    for found, wanted in zip(*results, strict=True):
        assert close(found, wanted, 1e-4)


def test_table_gradient(kernels: Any) -> None:
    rows = random(2, 5, 33, 64)
    tokens = torch.randint(0, 9, (2, 33, 5), device=DEVICE, dtype=torch.int32)
    assert close(kernels.table_gradient(rows, tokens, 9), plain.table_gradient(rows.float(), tokens, 9))


def test_dropout_of_the_kernels(kernels: Any) -> None:
    device = DEVICE
    together, alone = drawn_by_kernels([0, 1, 2], [0.1] * 3, 5), drawn_by_kernels([2], [0.1], 5)
    mask = kernels.keep_mask(together, 77, 2048, 512)
    assert torch.equal(mask[2], kernels.keep_mask(alone, 77, 2048, 512)[0])
    mixed = drawn_by_kernels([0, 1, 2], [0.0, 0.5, 0.1], 5)
    mixed_mask = kernels.keep_mask(mixed, 77, 2048, 512)
    assert torch.equal(mixed_mask[2], mask[2]), "whatever the others drop"
    assert mixed_mask[0].all()
    assert abs(mixed_mask[1].double().mean().item() - 0.5) < 5 * (0.25 / 2**20) ** 0.5
    dropped = 1 - mask.double().mean((1, 2))
    assert (dropped - 0.1).abs().max() < 5 * (0.09 / 2**20) ** 0.5 + 2**-17
    later = drawn_by_kernels([0, 1, 2], [0.1] * 3, 6)
    others = [kernels.keep_mask(together, 78, 2048, 512), kernels.keep_mask(later, 77, 2048, 512), mask.roll(1, 0)]
    neighbours = [mask.roll(1, 1), mask.roll(1, 2), mask.roll(2, 2)]
    for other in (*others, *neighbours):  # two independent masks agree in 0.9^2 + 0.1^2 of all places
        assert abs((mask == other).double().mean().item() - 0.82) < 2e-3
    rows = mask.double().mean(2)
    assert abs(rows.std().item() - (0.09 / 512) ** 0.5) < 3e-4, "as many in each row as chance has it"
    x, w = torch.ones(3, 2048, 64, device=device, dtype=HALF), torch.ones(3, 64, 512, device=device, dtype=HALF)
    out = poisoned(3, 2048, 512)
    kernels.linear(x, w, out, relu=True, dropout=(together, 77))
    assert torch.equal(out > 0, mask)
    assert close(out[mask], torch.full_like(out[mask], 64 / 0.9))
    kernels.linear(x, w, out, relu=True, dropout=(mixed, 77))
    assert close(out, mixed_mask * torch.tensor([64, 128, 64 / 0.9], device=device)[:, None, None])
    back = poisoned(3, 2048, 512)
    kernels.linear(x, w, back, positive=(out, mixed))
    assert close(back, out)


@pytest.mark.parametrize(("num_layers", "batch"), [(1, 50), (4, 33), (8, 129), (6, 2048)])
@pytest.mark.parametrize(("dropout", "residual"), [(0.0, False), (0.1, False), (0.1, True)])
def test_gradients_in_fp16_follow_the_definition_in_float32(
    kernels: Any, num_layers: int, batch: int, dropout: float, residual: bool
) -> None:
    if INTERPRETED:
        shape, batch = ModelShape(100, 24, 24, 40, num_layers), min(batch, 18)
    else:
        shape = ModelShape(1000, 256, 256, 512, num_layers)
    hidden_size = shape.hidden_size
    flat = flatten({name: 2 * value for name, value in initial_parameters(shape, [0, 1]).items()}, shape)
    generator = torch.Generator().manual_seed(0)
    flat += 0.01 * torch.randn(flat.shape, generator=generator)  # so that no two seeds' gains and shifts are alike
    parameters = unflatten(flat.to(DEVICE), shape)
    length = 4 if INTERPRETED else 12
    windows = torch.randint(0, shape.vocabulary_size, (2, batch, length + 1), generator=generator).int()
    windows[torch.rand(windows.shape, generator=generator) < 0.3] = 1  # as in the corpus
    windows = windows.to(DEVICE)
    windows[:, batch // 2 :: 3, length // 2 :] = 0
    windows[:, batch - batch // 4 :, 2:] = 0  # at the end of the batch, where it saves work
    drawn, keep = None, None
    if dropout:
        drawn = drawn_by_kernels([0, 1], [dropout] * 2, 0)
        places = [[layer * length + t for t in range(length)] for layer in range(num_layers)]
        keep = [torch.stack([kernels.keep_mask(drawn, p, batch, hidden_size) for p in row], dim=1) for row in places]
    counts = (windows[:, :, 1:] != 0).sum((1, 2))
    scale = 1024 / counts
    needed = scan.rows_needed(windows, 0)
    assert needed[-1] < batch
    losses, gradients = losses_and_gradients(parameters, windows, 0, scale, drawn, HALF, residual, needed)
    expected_losses, expected = reference(parameters, windows.long(), scale, keep, dropout, residual)
    assert close(losses, expected_losses, 1e-3)
    # 1 %, or where autocast over the definition is off by more, no more than it: half precision moves a unit across the
    # edge of relu now and then, and its gradient comes or goes
    _, usual = reference(parameters, windows.long(), scale, keep, dropout, residual, autocast=True)
    assert relative_error(whole(gradients), whole(expected)) < max(
        1e-2, 1.2 * relative_error(whole(usual), whole(expected))
    )
    errors = {name: relative_error(gradients[name], gradient) for name, gradient in expected.items()}
    of_autocast = max(relative_error(usual[name], gradient) for name, gradient in expected.items())
    assert max(errors.values()) <= max(6e-2, 2 * of_autocast), errors  # one unit in a small batch makes 5 %


def whole(gradients: Parameters) -> Tensor:
    return torch.cat([gradients[name].float().flatten() for name in sorted(gradients)])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def reference(
    parameters: Parameters,
    windows: Tensor,
    scale: Tensor,
    keep: list[Tensor] | None,
    p: float,
    residual: bool,
    autocast: bool = False,
) -> tuple[Tensor, Parameters]:
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    with torch.autocast(DEVICE.type, HALF, enabled=autocast):
        outputs = logits(leaves, windows[:, :, :-1], keep, p, residual).float()
    losses = torch.stack(
        [
            cross_entropy(o.flatten(0, 1), w[:, 1:].flatten(), ignore_index=0, reduction="sum")
            for o, w in zip(outputs, windows, strict=True)
        ]
    )
    gradients = torch.autograd.grad(losses @ scale, list(leaves.values()))
    return losses.detach(), dict(zip(leaves, gradients, strict=True))


def test_a_stack_trains_alike_by_kernels_and_by_plain_pieces(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimiser, "INITIAL_SCALE", 2.0**7)  # no step is skipped
    shape = ModelShape(vocabulary_size=20, embedding_dim=8, context_dim=6, hidden_size=12, num_layers=2)
    config = TrainConfig(
        seeds=[3, 1, 2],
        epochs=2,
        batch_size=8,
        base_learning_rate=0.003,
        base_batch_size=8,
        schedule="constant",
        warmup_epochs=0,
        precision="fp16",
        gradient_clipping=[[1, 0.5]],
        patience=5,
        min_improvement=0,
    )
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 20, (28, 7), generator=generator).int().to(DEVICE)
    by_kernels = fit(shape, 0.0, config, (windows, windows[:10]), places=3)
    monkeypatch.setattr(scan, "has_triton", lambda: False)
    monkeypatch.setattr(scan, "can_run_kernels", lambda device: False)
    by_plain = fit(shape, 0.0, config, (windows, windows[:10]), places=3)
    for name in ("train_loss", "val_loss", "gradient_norm"):
        found, expected = ([getattr(row, name) for row in run.curves] for run in (by_kernels, by_plain))
        assert found == pytest.approx(expected, rel=2e-2 if name == "gradient_norm" else 1e-3), name
    for name, value in by_plain.parameters.items():
        for seed in range(3):
            assert relative_error(by_kernels.parameters[name][seed], value[seed]) < 0.05, (name, seed)
