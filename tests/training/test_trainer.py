"""The trainer against a plain loop of the definition with torch's own optimiser, and its promises about seeds."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.config import TrainConfig
from newllm.errors import UserError
from newllm.model.definition import ModelShape, initial_parameters, logits
from newllm.model.streams import dropout_masks, random_stream
from newllm.runtime.device import choose_device, full_study_seconds
from newllm.runtime.graphs import Graphs
from newllm.runtime.progress import Progress
from newllm.studies.expansion import grow, grown_shape, is_new
from newllm.training import optimiser, trainer
from newllm.training.batches import lengths, longest_first
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.optimiser import max_gradient_norm
from newllm.training.rows import Recipe
from newllm.training.stack import Ledger, Start, Task
from newllm.training.trainer import StackTrainer, train
from tests.training.fitting import fit, recipe_of, rows_of

SHAPE = ModelShape(vocabulary_size=20, embedding_dim=8, context_dim=6, hidden_size=12, num_layers=2)


def settings(**changes: object) -> TrainConfig:
    values = {
        "seeds": [0, 1, 2],
        "epochs": 3,
        "batch_size": 32,
        "base_learning_rate": 0.02,
        "base_batch_size": 16,
        "schedule": "constant",
        "warmup_epochs": 0,
        "precision": "fp32",
        "gradient_clipping": [[1, 0.5], [2, 1.0]],
        "patience": 30,
        "min_improvement": 0.001,
    }
    return TrainConfig.model_validate(values | changes)


def windows(count: int, seed: int) -> Tensor:
    """Windows in which the next token often follows from the last: something to learn; some end in padding."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, 20, (count, 10), generator=generator)
    for t in range(1, 10):
        follows = torch.rand(count, generator=generator) < 0.8
        rows[:, t] = torch.where(follows, (rows[:, t - 1] * 3) % 19 + 1, rows[:, t])
    rows[::4, 7:] = 0
    return rows.int()


DATA = windows(300, 1), windows(61, 2)


def plain_loop(
    seed: int, config: TrainConfig, recipe: Recipe, residual: bool = False, phase: int = 0
) -> tuple[list[tuple[float, float, float, float]], dict[str, Tensor]]:
    """One row by the definition with autograd, torch.optim.Adam, its schedulers and clip_grad_norm_.

    Returns:
        Of every epoch training loss, validation loss, validation accuracy and mean gradient norm; and the parameters.
    """
    begun = initial_parameters(SHAPE, [seed], [recipe.initialisation])
    parameters = {name: p.requires_grad_() for name, p in begun.items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=recipe.learning_rate)
    steps = math.ceil(len(DATA[0]) / config.batch_size)
    warmup, last = recipe.warmup_epochs * steps, config.epochs * steps

    def factor(step: int) -> float:
        falling = (last - step) / (last - warmup) if recipe.schedule == "linear" else 1.0
        return (step + 1) / warmup if step < warmup else falling

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    later = 10**9 * phase
    epochs, step = [], 0
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(DATA[0]), generator=random_stream(seed, "shuffling", epoch + later))
        order = longest_first(order[None], lengths(DATA[0], 0), config.batch_size)[0]
        total, count, norms = 0.0, 0, []
        for batch in order.split(config.batch_size):
            rows = DATA[0][batch].long()[None]
            keep = dropout_masks([seed], [step + later], (2, 9, len(batch), 12), [recipe.dropout], torch.device("cpu"))
            outputs = logits(parameters, rows[:, :, :-1], keep, recipe.dropout, residual)
            targets = rows[:, :, 1:]
            loss = cross_entropy(outputs.flatten(0, 2), targets.flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            limit = max_gradient_norm(recipe.gradient_clipping, epoch)
            norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), limit).item())
            optimizer.step()
            scheduler.step()
            targets_count = int((targets != 0).sum())
            total, count, step = total + loss.item() * targets_count, count + targets_count, step + 1
        with torch.no_grad():
            outputs = logits(parameters, DATA[1].long()[None, :, :-1], residual=residual)[0]
        targets = DATA[1].long()[:, 1:]
        val_loss = cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0).item()
        accuracy = (outputs.argmax(-1) == targets)[targets != 0].double().mean().item()
        epochs.append((total / count, val_loss, accuracy, sum(norms) / len(norms)))
    return epochs, {name: p.detach() for name, p in parameters.items()}


@pytest.mark.parametrize(("dropout", "residual", "phase"), [(0.0, False, 0), (0.2, True, 0), (0.2, False, 2)])
def test_training_equals_a_plain_loop(dropout: float, residual: bool, phase: int) -> None:
    config = settings(seeds=[5], base_learning_rate=0.01)  # at twice the rate rounding grows tenfold an epoch
    start = Start(initial_parameters(SHAPE, [5]), phase=phase) if phase else None
    trained = fit(replace(SHAPE, residual=residual), dropout, config, DATA, start=start)
    epochs, parameters = plain_loop(5, config, recipe_of(config, dropout), residual, phase)
    for row, (train_loss, val_loss, accuracy, norm) in zip(trained.curves, epochs, strict=True):
        assert row.train_loss == pytest.approx(train_loss, rel=1e-5)
        assert row.val_loss == pytest.approx(val_loss, rel=1e-5)
        assert row.val_ppl == pytest.approx(math.exp(val_loss), rel=1e-4)
        assert row.val_accuracy == pytest.approx(accuracy, abs=0.003), "one target of 549"
        assert row.gradient_norm == pytest.approx(norm, rel=1e-3)
        assert row.loss_scale == 1
    assert trained.results[0].best_epoch == 3
    for name, value in trained.parameters.items():
        # Adam divides by the gradient's size, so entries with hardly any gradient differ more than by rounding
        assert (value - parameters[name]).norm() <= 1e-3 * parameters[name].norm(), name


def test_the_same_seed_gives_the_same_bits_whatever_its_neighbours() -> None:
    together = fit(SHAPE, 0.1, settings(), DATA)
    alone = fit(SHAPE, 0.1, settings(seeds=[2]), DATA)
    for name, value in alone.parameters.items():
        assert torch.equal(together.parameters[name][2], value[0]), name
    numbers = [
        [(row.epoch, row.train_loss, row.val_loss, row.gradient_norm) for row in run.curves if row.seed == 2]
        for run in (together, alone)
    ]
    assert numbers[0] == numbers[1]
    assert not torch.equal(together.parameters["output.weight"][0], together.parameters["output.weight"][1])


def test_a_stack_trains_what_single_seeds_train() -> None:
    stacked = fit(SHAPE, 0.1, settings(), DATA, places=3)
    single = fit(SHAPE, 0.1, settings(), DATA)
    assert [row.seed for row in stacked.curves] == [row.seed for row in single.curves]
    assert [row.val_loss for row in stacked.curves] == pytest.approx([row.val_loss for row in single.curves], rel=1e-5)
    for name, value in single.parameters.items():
        assert (stacked.parameters[name] - value).norm() <= 1e-3 * value.norm(), name


def test_kept_parameters_are_those_of_the_best_epoch() -> None:
    trained = fit(SHAPE, 0.0, settings(epochs=40, base_learning_rate=0.1, patience=10), DATA)
    losses, _ = loss_and_accuracy(trained.parameters, DATA[1], 7, torch.float32)
    for seed, loss in enumerate(losses.tolist()):
        curve = [row.val_loss for row in trained.curves if row.seed == seed]
        result = trained.results[seed]
        assert result.best_epoch == curve.index(min(curve)) + 1
        assert loss == pytest.approx(min(curve), rel=1e-5)
        assert result.epochs_run == len(curve)
        assert result.stopped_early == (len(curve) < 40)
        rows = [row for row in trained.curves if row.seed == seed]
        assert result.train_loss == rows[result.best_epoch - 1].train_loss
        assert result.train_seconds == pytest.approx(sum(row.seconds for row in rows))
        assert result.tokens_per_second == pytest.approx(len(curve) * 300 * 9 / result.train_seconds)
    assert any(result.best_epoch < result.epochs_run for result in trained.results)


def test_a_warm_up_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles kernels before a capture is a step and a validation of another stack, for every set of seeds."""
    config = settings(epochs=40, patience=2, min_improvement=0.05)
    expected = fit(SHAPE, 0.1, config, DATA, places=3)
    original, warmed = StackTrainer._set_stack, []

    def cold(self: StackTrainer) -> None:
        original(self)
        self.is_warm = False

    def warm_up(self: StackTrainer) -> None:
        warmed.append(list(self.members))
        with monkeypatch.context() as patch:
            patch.setattr(StackTrainer, "_set_stack", original)
            warm(self)

    warm = StackTrainer._warm_up
    monkeypatch.setattr(StackTrainer, "_set_stack", cold)
    monkeypatch.setattr(StackTrainer, "_warm_up", warm_up)
    found = fit(SHAPE, 0.1, config, DATA, places=3)
    assert warmed[0] == [0, 1, 2]
    assert 1 < len(warmed) <= 3, "as often as seeds have stopped"
    assert [row.val_loss for row in found.curves] == [row.val_loss for row in expected.curves]
    assert all(torch.equal(found.parameters[name], value) for name, value in expected.parameters.items())


def test_an_epochs_energy_is_shared_by_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(float(joules) for joules in [0, 60, 100, 190])  # at the beginning and the end of two epochs
    monkeypatch.setattr(trainer, "energy_counter", lambda device: lambda: next(readings))
    trained = fit(SHAPE, 0.0, settings(epochs=2), DATA, places=3)
    assert [row.joules for row in trained.curves] == [20, 30] * 3


def test_early_stopping_in_a_stack_leaves_the_others_as_they_are() -> None:
    config = settings(epochs=40, patience=2, min_improvement=0.05)
    stacked = fit(SHAPE, 0.0, config, DATA, places=3)
    single = fit(SHAPE, 0.0, config, DATA)
    assert {r.stopped_early for r in single.results} == {True}
    assert len({r.epochs_run for r in single.results}) > 1, "seeds should stop at different epochs for this test"
    assert [r.epochs_run for r in stacked.results] == [r.epochs_run for r in single.results]
    curves = [[row.val_loss for row in run.curves] for run in (stacked, single)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    for name, value in single.parameters.items():
        assert (stacked.parameters[name] - value).norm() <= 1e-2 * value.norm(), name


def test_a_loss_that_is_not_finite_names_depth_seed_epoch_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.losses_and_gradients
    calls = 0

    def failing(*arguments: object) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        losses, gradients = original(*arguments)  # type: ignore[arg-type]
        return (losses * math.nan if calls == 12 else losses), gradients

    monkeypatch.setattr(trainer, "losses_and_gradients", failing)
    with pytest.raises(UserError, match=r"2 layers, seed 0, epoch 2, step 2: .*not finite.*base_learning_rate"):
        fit(SHAPE, 0.0, settings(), DATA)


def test_a_validation_loss_out_of_range_stops_too() -> None:
    with pytest.raises(UserError, match=r"seed 0, epoch \d+, .*base_learning_rate \(the rate is 1\.4\d+e\+08\)"):
        fit(SHAPE, 0.0, settings(base_learning_rate=1e8), DATA)


@pytest.mark.parametrize(("val_loss", "problem"), [(199.9, False), (200.0, True), (math.nan, True)])
def test_the_largest_validation_loss_is_200_nats(
    monkeypatch: pytest.MonkeyPatch, val_loss: float, problem: bool
) -> None:
    scores = torch.tensor([val_loss]), torch.tensor([0.5])
    monkeypatch.setattr(trainer, "of_batches", lambda *_: scores)
    config = settings(seeds=[0], epochs=1)
    trained = train(SHAPE, rows_of(config), config, DATA)
    assert (trained.results[0].problem is not None) is problem
    assert [row.val_accuracy for row in trained.curves] == ([] if problem else [0.5])


def test_a_batch_without_targets_changes_no_parameter_for_the_worse() -> None:
    empty = DATA[0][:32].clone()
    empty[:, 1:] = 0
    trained = fit(SHAPE, 0.0, settings(seeds=[0], epochs=1), (empty, DATA[1]))
    assert trained.curves[0].train_loss == trained.curves[0].gradient_norm == 0
    assert all(torch.equal(trained.parameters[n], value) for n, value in initial_parameters(SHAPE, [0]).items())


@pytest.fixture
def modest_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first loss scale that does not overflow, so that no step is skipped."""
    monkeypatch.setattr(optimiser, "INITIAL_SCALE", 2.0**7)


@pytest.mark.usefixtures("modest_scale")
def test_training_in_fp16_follows_float32_with_its_loss_scale_taken_out() -> None:
    changes = {"seeds": [1, 2], "base_learning_rate": 0.002}
    half = fit(SHAPE, 0.1, settings(precision="fp16", **changes), DATA)
    full = fit(SHAPE, 0.1, settings(**changes), DATA)
    for name, tolerance in (("train_loss", 3e-3), ("val_loss", 3e-3), ("gradient_norm", 0.1)):
        found, expected = ([getattr(row, name) for row in run.curves] for run in (half, full))
        assert found == pytest.approx(expected, rel=tolerance), name
    assert [row.val_loss for row in half.curves] != [row.val_loss for row in full.curves]
    assert {row.loss_scale for row in half.curves} == {2.0**7}
    assert {row.loss_scale for row in full.curves} == {1.0}


def test_evaluation_does_not_depend_on_the_batch() -> None:
    parameters = initial_parameters(SHAPE, [0, 1])
    whole = loss_and_accuracy(parameters, DATA[1], 100, torch.float32)
    pieces = loss_and_accuracy(parameters, DATA[1], 4, torch.float32)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    assert whole[0].tolist() == pytest.approx([math.log(20)] * 2, abs=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is right where there is a GPU")
def test_fp16_without_a_gpu_says_what_to_set_and_how_long() -> None:
    with pytest.raises(UserError, match=r"train\.precision.*fp32.*dvc exp run -S train\.precision=fp32.*\d days"):
        choose_device("fp16")
    assert full_study_seconds() > 3600


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040). Please update", RuntimeError),
        ("Torch not compiled with CUDA enabled", AssertionError),
    ],
)
def test_why_torch_uses_no_gpu_is_said_in_its_words(
    monkeypatch: pytest.MonkeyPatch, words: str, error: type[Exception]
) -> None:
    def fails() -> None:
        raise error(words)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fails)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match=re.escape(f"torch cannot use one: {words} (CUDA_VISIBLE_DEVICES is '7')")):
        choose_device("fp16")
    assert choose_device("bf16") == torch.device("cpu")


def test_a_gpu_that_torch_cannot_use_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, device: torch.device) -> None:
        assert device.type == "cuda"
        raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be reported later\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fails)
    with pytest.raises(UserError, match=r"cannot use the GPU: CUDA error: no kernel image is available\. If others"):
        choose_device("fp32")


@pytest.mark.cuda
@pytest.mark.usefixtures("modest_scale")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_training_on_a_gpu_follows_the_cpu(precision: str) -> None:
    on_gpu = DATA[0].cuda(), DATA[1].cuda()
    changes = {"epochs": 4, "base_learning_rate": 0.002}  # Adam makes rounding as large as the learning rate
    config = settings(precision=precision, **changes)
    gpu = fit(SHAPE, 0.0, config, on_gpu)
    cpu = fit(SHAPE, 0.0, settings(**changes), DATA)
    tolerance = 1e-4 if precision == "fp32" else 5e-3
    assert [row.val_loss for row in gpu.curves] == pytest.approx([row.val_loss for row in cpu.curves], rel=tolerance)
    again = fit(SHAPE, 0.0, config, on_gpu)
    assert [row.val_loss for row in gpu.curves] == pytest.approx([row.val_loss for row in again.curves], rel=1e-4)


@pytest.mark.cuda
@pytest.mark.usefixtures("modest_scale")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_seed_on_a_gpu_does_not_depend_on_its_neighbours_beyond_rounding(precision: str) -> None:
    on_gpu = DATA[0].cuda(), DATA[1].cuda()
    config = settings(precision=precision, base_learning_rate=0.002)
    together = fit(SHAPE, 0.1, config, on_gpu)
    alone = fit(SHAPE, 0.1, config.model_copy(update={"seeds": [2]}), on_gpu)
    curve = [row.val_loss for row in together.curves if row.seed == 2]
    assert curve == pytest.approx([row.val_loss for row in alone.curves], rel=2e-3)


@pytest.mark.cuda
def test_captured_steps_are_the_same_as_called_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = DATA[0].cuda(), DATA[1].cuda()
    config = settings(precision="fp16", epochs=12, patience=2, base_learning_rate=0.05)
    captured = fit(SHAPE, 0.1, config, on_gpu)
    monkeypatch.setattr(trainer, "Graphs", lambda enabled: Graphs(enabled=False))
    called = fit(SHAPE, 0.1, config, on_gpu)
    found = [row.val_loss for row in captured.curves if row.epoch <= 6]
    expected = [row.val_loss for row in called.curves if row.epoch <= 6]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_an_overflow_skips_the_step_of_its_seed_alone(device: str) -> None:
    data = DATA[0].to(device), DATA[1].to(device)
    config = settings(precision="fp16", epochs=1)
    task = Task(SHAPE, rows_of(config, 0.1), config, data)
    training = StackTrainer(task, Ledger(task), 3, Progress(2, 1, 1, 1, silent=True))
    training.start_epoch()
    stack = training.stack
    stack.scaler.scale.fill_(1024)
    for _ in range(3):
        training.next_step(32)
    stack.scaler.scale[1] = 2.0**60
    before = stack.flat.clone()
    training.next_step(32)
    changed = (stack.flat != before).any(1)
    assert changed.tolist() == [True, False, True]
    assert stack.scaler.scale[1].item() == 2.0**59
    assert stack.adam.steps.tolist() == [4, 3, 4]
    assert training.totals.applied.tolist() == [4, 3, 4]
    _, norms, failed_steps = training.totals.means()
    assert norms.isfinite().all()
    assert failed_steps.tolist() == [-1, -1, -1]


def test_a_stack_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    tried = []

    class Small(StackTrainer):
        def next_step(self, size: int) -> None:
            if not self.steps_done and self.members not in tried:
                tried.append(list(self.members))
            if len(self.members) > 1:
                try:
                    raise torch.OutOfMemoryError("no memory")  # as within a capture, which then fails in its own way
                finally:
                    raise RuntimeError("capture failed")
            super().next_step(size)

    expected = fit(SHAPE, 0.1, settings(), DATA)
    monkeypatch.setattr(trainer, "StackTrainer", Small)
    found = fit(SHAPE, 0.1, settings(), DATA, places=3)
    assert tried == [[0, 1, 2], [0, 1], [0], [1], [2]]
    assert [row.val_loss for row in found.curves] == [row.val_loss for row in expected.curves]
    assert all(torch.equal(found.parameters[name], value) for name, value in expected.parameters.items())
    assert "3 rows at once need more memory than there is; now 2" in capsys.readouterr().out


def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: StackTrainer, size: int) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(StackTrainer, "next_step", fails)
    with pytest.raises(RuntimeError, match="something else"):
        fit(SHAPE, 0.1, settings(), DATA, places=3)


def test_one_seed_that_does_not_fit_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: StackTrainer, size: int) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(StackTrainer, "next_step", fails)
    with pytest.raises(UserError, match=r"one model of 2 layers at train.batch_size = 32 needs more memory.*Lower"):
        fit(SHAPE, 0.1, settings(), DATA)


@pytest.fixture
def gpu_memory() -> Iterator[Callable[[float], None]]:
    """Limits what this process may have of the GPU's memory, to some GiB."""
    total = torch.cuda.get_device_properties(0).total_memory
    trainer.free_memory()
    yield lambda size: torch.cuda.set_per_process_memory_fraction(min(size * 2**30 / total, 1.0))
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.cuda
def test_a_gpu_with_little_memory_trains_fewer_seeds_at_once(
    capsys: pytest.CaptureFixture, gpu_memory: Callable[[float], None]
) -> None:
    shape = ModelShape(1000, 256, 256, 512, 3)
    generator = torch.Generator().manual_seed(0)
    on_gpu = torch.randint(1, 1000, (512, 64), generator=generator).int().cuda()
    config = settings(precision="fp16", epochs=1, batch_size=512, base_learning_rate=0.001, seeds=[0, 1, 2, 3])
    expected = fit(shape, 0.1, config, (on_gpu, on_gpu))
    trainer.free_memory()
    gpu_memory(1.2)
    found = fit(shape, 0.1, config, (on_gpu, on_gpu))
    assert "4 rows at once need more memory" in capsys.readouterr().out
    assert [row.val_loss for row in found.curves] == pytest.approx([row.val_loss for row in expected.curves], rel=1e-3)


@pytest.mark.cuda
def test_a_gpu_of_24_gb_trains_five_seeds_of_the_deepest_model_at_once(
    capsys: pytest.CaptureFixture, gpu_memory: Callable[[float], None]
) -> None:
    shape = ModelShape(1000, 256, 256, 512, 8)
    generator = torch.Generator().manual_seed(0)
    on_gpu = torch.randint(1, 1000, (2048 + 1874, 64), generator=generator).int().cuda()  # a full and the last batch
    config = settings(precision="fp16", epochs=1, batch_size=2048, base_learning_rate=0.001, seeds=[0, 1, 2, 3, 4])
    gpu_memory(22)  # what such a card leaves
    trained = fit(shape, 0.1, config, (on_gpu, on_gpu))
    assert "need more memory" not in capsys.readouterr().out
    assert [result.epochs_run for result in trained.results] == [1] * 5


def test_frozen_entries_keep_their_bits_and_the_others_learn() -> None:
    config = settings(epochs=2)
    base = fit(SHAPE, 0.1, config, DATA)
    shape = grown_shape(SHAPE, 2, joint_norm=False)
    start = Start(grow(base.parameters, SHAPE, shape, config.seeds), is_new(SHAPE, shape))
    grown = fit(shape, 0.1, config, DATA, start=start)
    assert start.learns is not None
    for name, learns in start.learns.items():
        before, after = start.parameters[name], grown.parameters[name]
        mask = learns.expand_as(before)
        assert torch.equal(before[~mask], after[~mask]), name
        assert not mask.any() or (before[mask] != after[mask]).double().mean() > 0.5, name
    everything = fit(shape, 0.1, config, DATA, start=Start(start.parameters))
    assert not torch.equal(everything.parameters["output.weight"], start.parameters["output.weight"])


def test_the_gradient_norm_is_of_what_learns() -> None:
    """Of a training of one step, and so of the fresh parameters' gradient."""
    config = settings(seeds=[4], epochs=1, batch_size=300)
    fresh = initial_parameters(SHAPE, [4])
    learns = {name: torch.zeros_like(value) for name, value in fresh.items()}
    learns["output.bias"][0, 3:9] = 1
    trained = fit(SHAPE, 0.0, config, DATA, start=Start(fresh, learns))
    leaves = {name: value.clone().requires_grad_() for name, value in fresh.items()}
    rows = DATA[0].long()[None]
    outputs = logits(leaves, rows[:, :, :-1]).flatten(0, 2)
    cross_entropy(outputs, rows[:, :, 1:].flatten(), ignore_index=0).backward()
    bias = leaves["output.bias"].grad
    assert bias is not None
    assert trained.curves[0].gradient_norm == pytest.approx(bias[0, 3:9].norm().item(), rel=1e-4)


def _of(parameters: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in parameters.items()}


def test_a_start_goes_on_from_each_seeds_own_parameters_by_streams_of_its_own() -> None:
    config = settings(epochs=1)
    start = Start(fit(SHAPE, 0.0, config, DATA).parameters)
    together = fit(SHAPE, 0.0, config, DATA, start=start)
    alone = fit(SHAPE, 0.0, settings(epochs=1, seeds=[2]), DATA, start=Start(_of(start.parameters, 2)))
    assert all(torch.equal(together.parameters[name][2:], value) for name, value in alone.parameters.items())
    again = fit(SHAPE, 0.0, config, DATA, start=Start(start.parameters, phase=2))
    assert not torch.equal(again.parameters["output.weight"], together.parameters["output.weight"])
    fresh = Start(initial_parameters(SHAPE, config.seeds), phase=0)
    as_ever, first = fit(SHAPE, 0.0, config, DATA, start=fresh), fit(SHAPE, 0.0, config, DATA)
    assert all(torch.equal(as_ever.parameters[name], value) for name, value in first.parameters.items())
