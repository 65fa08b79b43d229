"""The fast computation (scan and head) equals the definition: values, and gradients by autograd, in float64."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy

from newllm.model import plain, scan
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.gradients import losses_and_gradients
from newllm.model.head import cross_entropy
from newllm.model.scan import hidden_states, padded, rows_needed
from newllm.model.streams import Dropout, dropout_masks

PAD = 0


def lively_parameters(shape: ModelShape, seeds: list[int], dtype: torch.dtype = torch.float64) -> Parameters:
    """Random parameters, large enough that gates, relu and the clamp are all at work."""
    generator = torch.Generator().manual_seed(9)
    parameters = {
        name: (40 * value + 0.3 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in initial_parameters(shape, seeds).items()
    }
    parameters["norm.weight"] /= 5
    return {name: value.requires_grad_() for name, value in parameters.items()}


Masks = list[Tensor] | None


def by_definition(
    parameters: Parameters, windows: Tensor, scale: Tensor, keep: Masks = None, p: float = 0.0, residual: bool = False
) -> tuple[Tensor, Parameters]:
    """Losses and the gradients of scale * loss, by autograd through the definition."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    outputs = logits(leaves, windows[:, :, :-1], keep, p, residual)
    losses = torch.stack(
        [
            torch_cross_entropy(row.flatten(0, 1), one[:, 1:].flatten(), ignore_index=PAD, reduction="sum")
            for row, one in zip(outputs, windows, strict=True)
        ]
    )
    gradients = torch.autograd.grad(losses @ scale, list(leaves.values()))
    return losses.detach(), dict(zip(leaves, gradients, strict=True))


def by_scan(
    parameters: Parameters, windows: Tensor, scale: Tensor, keep: Masks = None, p: float = 0.0, residual: bool = False
) -> tuple[Tensor, Parameters]:
    dropout = None if keep is None else Dropout([p, p], keep)
    return losses_and_gradients(parameters, windows, PAD, scale, dropout, parameters["norm.weight"].dtype, residual)


@pytest.mark.parametrize("num_layers", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_loss_and_gradients_equal_the_definition(
    num_layers: int, batch: int, dropout: float, blocks: int, residual: bool
) -> None:
    shape = ModelShape(11, 5, context_dim=4 * blocks, hidden_size=6, num_layers=num_layers, norm_blocks=blocks)
    parameters = lively_parameters(shape, [0, 1])
    windows = torch.randint(0, 11, (2, batch, 9), generator=torch.Generator().manual_seed(batch))
    windows[:, :, -2:] = PAD
    windows[:, :, 1] = 5  # at least one target that counts
    windows[0, batch // 2 + 1 :, 4:] = PAD  # rows that later positions need not compute
    keep = (
        dropout_masks([0, 1], [3, 3], (num_layers, 8, batch, 6), [dropout] * 2, torch.device("cpu"))
        if dropout
        else None
    )
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected, expected_gradients = by_definition(parameters, windows, scale, keep, dropout, residual)
    found, found_gradients = by_scan(parameters, windows, scale, keep, dropout, residual)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, b in expected_gradients.items():
        assert (found_gradients[name] - b).norm() <= 1e-9 * b.norm(), name
        assert b.norm() > 0, name


def test_rows_needed_are_those_up_to_the_last_with_a_target_from_here_on() -> None:
    windows = torch.tensor([[[2, 5, 5, 5], [2, 5, 0, 0], [2, 0, 5, 0], [2, 0, 0, 0]], [[2, 0, 0, 0]] * 4])
    assert rows_needed(windows, PAD) == [3, 3, 1]
    assert rows_needed(windows[1:], PAD) == [0, 0, 0]


def test_rows_that_are_not_needed_take_no_time_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=2)
    parameters = {name: value.detach() for name, value in lively_parameters(shape, [0]).items()}
    windows = torch.randint(1, 11, (1, 8, 9), generator=torch.Generator().manual_seed(3))
    windows[:, 3:, 4:] = PAD
    rows: list[int] = []
    product = torch.baddbmm

    def noting(addend: Tensor, x: Tensor, w: Tensor, **options: Tensor) -> Tensor:
        rows.append(x.shape[1])
        return product(addend, x, w, **options)

    monkeypatch.setattr(torch, "baddbmm", noting)
    whole = hidden_states(parameters, windows[:, :, :-1], dtype=torch.float64)
    assert set(rows) == {8, 11}  # 11: the table of tokens
    rows.clear()
    part = hidden_states(parameters, windows[:, :, :-1], dtype=torch.float64, needed=rows_needed(windows, PAD))
    assert rows == [11, *[8] * 9, *[3] * 15], "two layers and the gates at three positions and at five"
    assert torch.allclose(part[:, :3], whole[:, :3], rtol=1e-12)
    assert torch.allclose(part[:, :, :3], whole[:, :, :3], rtol=1e-12)
    assert (part[:, 3:, 3:] == 0).all()
    rows.clear()
    losses_and_gradients(parameters, windows, PAD, torch.ones(1).double(), dtype=torch.float64)
    assert rows[25:] == [*[3] * 10, *[8] * 6], "and the way back: the last layer's units and the context"


def test_a_loss_in_chunks_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=2)
    parameters = lively_parameters(shape, [0, 1])
    windows = torch.randint(0, 11, (2, 3, 9), generator=torch.Generator().manual_seed(8))
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected, expected_gradients = by_definition(parameters, windows, scale)
    monkeypatch.setattr(plain, "CHUNK", 5)  # of 24 positions a seed
    found, found_gradients = by_scan(parameters, windows, scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for name, b in expected_gradients.items():
        assert (found_gradients[name] - b).norm() <= 1e-9 * b.norm(), name


@pytest.mark.parametrize("chunk", [16_384, 20])
def test_padding_rows_and_columns_of_the_kernels_count_nowhere(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=2)
    parameters = lively_parameters(shape, [0, 1])
    windows = torch.randint(0, 11, (2, 3, 9), generator=torch.Generator().manual_seed(8))
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected, expected_gradients = by_definition(parameters, windows, scale)
    for name, value in (("ROW_MULTIPLE", 4), ("ALIGNMENT", 8), ("CHUNK", chunk)):
        monkeypatch.setattr(plain, name, value)
    rows = padded(windows, PAD, torch.float64)
    assert torch.equal(rows[:, :3], windows)
    assert rows[:, 3:].tolist() == [[[PAD] * 9]] * 2
    found, found_gradients = by_scan(parameters, windows, scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for name, b in expected_gradients.items():
        assert found_gradients[name].shape == b.shape
        assert (found_gradients[name] - b).norm() <= 1e-9 * b.norm(), name


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_in_mixed_precision_stay_near_float32(residual: bool) -> None:
    shape = ModelShape(vocabulary_size=50, embedding_dim=32, context_dim=32, hidden_size=64, num_layers=3)
    parameters = {name: 4 * value for name, value in initial_parameters(shape, [0, 1]).items()}
    windows = torch.randint(1, 50, (2, 16, 9), generator=torch.Generator().manual_seed(0))
    masks = dropout_masks([0, 1], [0, 0], (3, 8, 16, 64), [0.25] * 2, torch.device("cpu"))
    scale = torch.tensor([0.5, 3.0])
    _, expected = by_definition(parameters, windows, scale, masks, 0.25, residual)
    for dtype, bound in ((torch.bfloat16, 0.25), (torch.float16, 0.06)):  # units at the edge of relu come and go
        kept = ("norm.weight", "norm.bias", "output.bias")
        cast = {name: value if name in kept else value.to(dtype) for name, value in parameters.items()}
        losses, found = losses_and_gradients(cast, windows, PAD, scale, Dropout([0.25] * 2, masks), dtype, residual)
        assert losses.dtype == torch.float32
        for name, value in expected.items():
            is_half = not name.startswith(("norm.", "output."))
            assert found[name].dtype == (dtype if is_half else torch.float32), name
            assert (found[name].float() - value).norm() <= bound * value.norm(), name


def test_the_clamp_is_exercised() -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=1)
    parameters = lively_parameters(shape, [0, 1])
    with torch.no_grad():
        parameters["norm.weight"] *= 10
    windows = torch.randint(1, 11, (2, 5, 9), generator=torch.Generator().manual_seed(0))
    scale = torch.ones(2, dtype=torch.float64)
    _, expected = by_definition(parameters, windows, scale)
    _, found = by_scan(parameters, windows, scale)
    for name, b in expected.items():
        torch.testing.assert_close(found[name], b, rtol=1e-9, atol=1e-12, msg=name)


def test_gradcheck() -> None:
    shape = ModelShape(vocabulary_size=7, embedding_dim=3, context_dim=4, hidden_size=5, num_layers=2)
    parameters = lively_parameters(shape, [0, 1])
    windows = torch.randint(1, 7, (2, 2, 4), generator=torch.Generator().manual_seed(2))
    names = [name for name in parameters if not name.startswith("output")]

    def states(*values: Tensor) -> Tensor:
        return hidden_states(dict(zip(names, values, strict=True)), windows[:, :, :-1], dtype=torch.float64)

    assert torch.autograd.gradcheck(states, tuple(parameters[name] for name in names), atol=1e-6, rtol=1e-5)


def test_a_seed_does_not_see_its_neighbours() -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=3)
    parameters = lively_parameters(shape, [0, 1, 2])
    windows = torch.randint(1, 11, (3, 4, 9), generator=torch.Generator().manual_seed(0))
    _, gradients = by_scan(parameters, windows, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    for gradient in gradients.values():
        assert gradient[1].norm() > 0
        assert gradient[0].norm() == 0
        assert gradient[2].norm() == 0
    changed = {name: value.detach().clone() for name, value in parameters.items()}
    for value in changed.values():
        value[0] += 1
    losses = [by_scan(p, windows, torch.ones(3, dtype=torch.float64))[0] for p in (parameters, changed)]
    assert losses[0][0] != losses[1][0]
    assert losses[0][1:].tolist() == losses[1][1:].tolist()


def test_correct_predictions_are_counted_without_pads() -> None:
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=2)
    parameters = {name: value.detach() for name, value in lively_parameters(shape, [0, 1]).items()}
    windows = torch.randint(0, 11, (2, 40, 9), generator=torch.Generator().manual_seed(1))
    outputs = logits(parameters, windows[:, :, :-1])
    targets = windows[:, :, 1:]
    expected = ((outputs.argmax(-1) == targets) & (targets != PAD)).sum((1, 2))
    hidden = hidden_states(parameters, windows[:, :, :-1], dtype=torch.float64)
    _, correct, gradients = cross_entropy(parameters, hidden, targets, PAD)
    assert gradients is None
    assert correct.tolist() == expected.tolist()
    assert correct.min() > 0


@pytest.mark.parametrize("chunk", [320, 7, 319])
def test_losses_and_hits_in_chunks_are_those_of_all(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 8, 40, 6, generator=generator)
    targets = torch.randint(0, 11, (2, 40, 8), generator=generator)
    weight, bias = torch.randn(2, 11, 6, generator=generator), torch.randn(2, 11, generator=generator)
    outputs = hidden @ weight[:, None].mT + bias[:, None, None]
    by_position = targets.permute(0, 2, 1)
    losses = [torch_cross_entropy(o.flatten(0, 1), t.flatten(), ignore_index=PAD, reduction="sum") for o, t in
              zip(outputs, by_position, strict=True)]  # fmt: skip
    hits = ((outputs.argmax(-1) == by_position) & (by_position != PAD)).sum((1, 2))
    monkeypatch.setattr(plain, "CHUNK", chunk)
    found, correct, _ = cross_entropy({"output.weight": weight, "output.bias": bias}, hidden, targets, PAD)
    assert found.tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-5)
    assert correct.tolist() == hits.tolist()


def test_the_width_of_the_logits_is_a_multiple_of_the_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    original = plain.losses_and_hits

    def noting(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        widths.append(logits.shape[1])
        return original(logits, *arguments)

    monkeypatch.setattr(plain, "losses_and_hits", noting)
    monkeypatch.setattr(plain, "ALIGNMENT", 8)
    for size in (11, 16):
        output = {"output.weight": torch.ones(1, size, 6), "output.bias": torch.zeros(1, size)}
        cross_entropy(output, torch.ones(1, 2, 3, 6), torch.ones(1, 3, 2, dtype=torch.int32), PAD)
    assert widths == [16, 16]


def test_parameters_in_full_precision_are_cast_for_products_in_half() -> None:
    """To the same bits as parameters that were cast before, LayerNorm's and the output's bias apart."""
    shape = ModelShape(vocabulary_size=11, embedding_dim=5, context_dim=4, hidden_size=6, num_layers=3)
    whole = {name: value.detach().float() for name, value in lively_parameters(shape, [0, 1]).items()}
    kept = ("norm.weight", "norm.bias", "output.bias")
    half = {name: value if name in kept else value.bfloat16() for name, value in whole.items()}
    windows = torch.randint(1, 11, (2, 40, 9), generator=torch.Generator().manual_seed(1))
    hidden = [hidden_states(parameters, windows[:, :, :-1], dtype=torch.bfloat16) for parameters in (whole, half)]
    assert torch.equal(*hidden)
    losses = [cross_entropy(parameters, hidden[0], windows[:, :, 1:], PAD)[0] for parameters in (whole, half)]
    assert torch.equal(*losses)


def test_mixed_precision_stays_near_float32() -> None:
    shape = ModelShape(vocabulary_size=50, embedding_dim=32, context_dim=32, hidden_size=64, num_layers=4)
    parameters = {name: 4 * value for name, value in initial_parameters(shape, [0, 1]).items()}
    windows = torch.randint(1, 50, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    reference = hidden_states(parameters, windows)
    for dtype, bound in ((torch.bfloat16, 0.03), (torch.float16, 0.004)):
        found = hidden_states(parameters, windows, dtype=dtype)
        assert found.dtype == dtype
        assert (found.float() - reference).norm() < bound * reference.norm()


def test_dropout_masks_depend_on_seed_and_step_alone() -> None:
    size, cpu = (3, 4, 5, 6), torch.device("cpu")
    together = dropout_masks([0, 1, 2], [5, 6, 7], size, [0.3, 0.2, 0.1], cpu)
    alone = dropout_masks([2], [7], size, [0.1], cpu)
    assert all(torch.equal(a[2], b[0]) for a, b in zip(together, alone, strict=True))
    other_step = dropout_masks([2], [8], size, [0.1], cpu)
    assert not torch.equal(other_step[0], alone[0])
    assert not torch.equal(together[0][0], together[0][1])
    assert not torch.equal(together[0][0], together[1][0])


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.999, 0.9999999])
def test_dropout_rate(probability: float) -> None:
    (mask,) = dropout_masks([5], [0], (1, 100, 100, 100), [probability], torch.device("cpu"))
    dropped = 1 - mask.double().mean().item()
    assert abs(dropped - probability) <= 5 * (probability * (1 - probability) / 1e6) ** 0.5 + 2**-15


def missing_compiler(device: torch.device) -> None:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def missing_headers(device: torch.device) -> None:
    """As gcc says it, to the descriptor."""
    os.write(2, b"main.c:3:10: note: wait for it\nmain.c:3:10: fatal error: Python.h: No such file or directory\n")
    raise subprocess.CalledProcessError(1, ["gcc", "main.c"])


def folder_without_programs(device: torch.device) -> None:
    raise ImportError("launcher.so: failed to map segment from shared object\nmore")


def works(device: torch.device) -> None:
    os.write(2, b"warning: nobody needs to see this error\n")


@pytest.mark.parametrize(
    ("capability", "triton", "launch", "words"),
    [
        ((7, 5), True, works, r"compute capability is 7\.5, and the kernels need 8\.0"),
        ((9, 0), False, works, "Triton is not installed"),
        ((9, 0), True, missing_compiler, r"\(RuntimeError: Failed to find C compiler.*\)\. It needs a C compiler"),
        ((9, 0), True, missing_headers, r"\(main.c:3:10: fatal error: Python.h: .*\)\. It needs .* python3-dev"),
        ((9, 0), True, folder_without_programs, r"\(ImportError: launcher.so: failed to map.*\)\..*TRITON_CACHE_DIR"),
    ],
)
def test_a_gpu_that_cannot_run_the_kernels_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    capability: tuple[int, int],
    triton: bool,
    launch: Callable[[torch.device], None],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(scan, "has_triton", lambda: triton)
    monkeypatch.setitem(sys.modules, "newllm.model.trial", SimpleNamespace(launch=launch))
    with pytest.warns(UserWarning, match=words) as warned:
        assert not scan.can_run_kernels.__wrapped__(torch.device("cuda"))
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert capfd.readouterr() == ("", ""), "what the compiler says is in the warning, and nowhere else"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0)])
def test_a_gpu_that_can_run_the_kernels(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(scan, "has_triton", lambda: True)
    monkeypatch.setitem(sys.modules, "newllm.model.trial", SimpleNamespace(launch=works))
    assert scan.can_run_kernels.__wrapped__(torch.device("cuda"))
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_too_little_memory_is_no_fault_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(scan, "has_triton", lambda: True)
    monkeypatch.setitem(sys.modules, "newllm.model.trial", SimpleNamespace(launch=full))
    with pytest.raises(torch.OutOfMemoryError):
        scan.can_run_kernels.__wrapped__(torch.device("cuda"))


def failure_that_says(monkeypatch: pytest.MonkeyPatch, said: bytes, words: str) -> str:
    def fails(device: torch.device) -> None:
        assert device == torch.device("cuda", 3)
        os.write(2, said)
        raise RuntimeError(words)

    monkeypatch.setitem(sys.modules, "newllm.model.trial", SimpleNamespace(launch=fails))
    monkeypatch.setattr("newllm.model.trial", SimpleNamespace(launch=fails), raising=False)
    found = scan._failure_of_triton(torch.device("cuda", 3))
    assert found is not None
    return found


def test_the_line_that_says_what_a_compiler_lacks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "/usr/bin/ld: cannot find -lcuda: No such file or directory"
    assert failure_that_says(monkeypatch, f"first\n{missing}\nlast\n".encode(), "gcc failed") == missing
    assert failure_that_says(monkeypatch, b"error: \xff on the first line\n", "gcc failed") == (
        "error: \N{REPLACEMENT CHARACTER} on the first line"
    )
    assert failure_that_says(monkeypatch, b"nothing of interest\n", "gcc failed") == "RuntimeError: gcc failed"
    assert len(failure_that_says(monkeypatch, b"", "x" * 1000)) == 300


@pytest.mark.parametrize("there", [True, False])
def test_triton_is_looked_for_by_its_name(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    known = {"triton"} if there else set()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace() if name in known else None)
    assert scan.has_triton() is there


class Claimed(Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 3)
    __torch_function__ = torch._C._disabled_torch_function_impl


def test_kernels_run_on_a_gpu_that_can_and_where_they_are_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = torch.zeros(1)
    on_gpu = on_cpu.as_subclass(Claimed)
    able = {torch.device("cuda", 3)}
    monkeypatch.setattr(scan, "can_run_kernels", lambda device: device in able)
    monkeypatch.setattr(scan, "has_triton", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert [scan.has_triton_for(on_gpu), scan.has_triton_for(on_cpu)] == [True, False]
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not scan.has_triton_for(on_cpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert scan.has_triton_for(on_cpu)
    monkeypatch.setattr(scan, "has_triton", lambda: False)
    assert not scan.has_triton_for(on_cpu)
    monkeypatch.delenv("TRITON_INTERPRET")
    able.clear()
    assert not scan.has_triton_for(on_gpu)


def test_kernels_are_for_half_precision_and_batches_are_filled_up_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = SimpleNamespace(ROW_MULTIPLE=4)
    monkeypatch.setitem(sys.modules, "newllm.model.kernels", kernels)
    monkeypatch.setattr("newllm.model.kernels", kernels, raising=False)
    for works in (True, False):
        monkeypatch.setattr(scan, "has_triton_for", lambda _, works=works: works)
        for dtype in (torch.float16, torch.bfloat16):
            assert scan.pieces_for(torch.zeros(0, dtype=dtype)) is (kernels if works else plain)
        for dtype in (torch.float32, torch.float64):
            assert scan.pieces_for(torch.zeros(0, dtype=dtype)) is plain
    monkeypatch.setattr(scan, "has_triton_for", lambda _: True)
    windows = torch.ones(2, 5, 3, dtype=torch.int32)
    found = padded(windows, 7, torch.float16)
    assert torch.equal(found[:, :5], windows)
    assert found[:, 5:].tolist() == [[[7] * 3] * 3] * 2
    assert padded(windows[:, :4], 7, torch.float16).shape == (2, 4, 3)
    assert padded(windows, 7, torch.float32).shape == (2, 5, 3)


@pytest.mark.cuda
@pytest.mark.parametrize("compiler", [True, False])
def test_without_a_compiler_a_gpu_runs_the_plain_operations(tmp_path: Path, compiler: bool) -> None:
    """In a process of its own, because a compiled launcher stays loaded."""
    program = """
import torch
from newllm.model import plain, scan
from newllm.model.scan import has_triton_for, pieces_for
half = torch.zeros(1, device="cuda", dtype=torch.float16)
print(has_triton_for(half.float()), pieces_for(half) is plain)
"""
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(scan.__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables | ({} if compiler else {"CC": str(tmp_path / "missing")}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout.split() == [str(compiler), str(not compiler)], ended.stderr
    assert ("training by plain torch operations" in ended.stderr) == (not compiler)
