"""The LSTM against torch.nn.LSTMCell and torch's own optimiser, and the promises of its training."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from newllm.config import TrainConfig
from newllm.model.definition import Parameters
from newllm.model.streams import dropout_masks, random_stream
from newllm.runtime.graphs import Graphs
from newllm.runtime.resume import StateStore
from newllm.studies.lstm import (
    LstmTrainer,
    initial_parameters,
    loss_and_accuracy,
    losses_and_gradients,
    lstm_shape,
    train_lstm,
)
from newllm.training import trainer
from newllm.training.batches import lengths, longest_first
from newllm.training.optimiser import max_gradient_norm
from newllm.training.records import EpochRow, Training
from newllm.training.rows import Recipe, Row
from tests.training.fitting import recipe_of
from tests.training.test_rows import same_bits
from tests.training.test_trainer import DATA, settings

SHAPE = lstm_shape(vocabulary_size=20, embedding_dim=8, hidden_size=12)
CONFIG = settings(epochs=4, base_learning_rate=0.01)
ROWS = [
    Row(0, recipe_of(CONFIG, 0.2)),
    Row(1, recipe_of(CONFIG, 0.0)),
    Row(1, recipe_of(CONFIG, 0.5, schedule="linear")),
]
HOPELESS = Row(2, recipe_of(CONFIG, 0.1, learning_rate=1e8))


@pytest.mark.parametrize(("hidden_size", "expected"), [(396, 1_688_936), (512, 2_345_960)])
def test_numbers_of_parameters(hidden_size: int, expected: int) -> None:
    modules = nn.Embedding(1000, 256), nn.LSTM(256, hidden_size), nn.Linear(hidden_size, 1000)
    shape = lstm_shape(1000, 256, hidden_size)
    assert shape.num_params == expected == sum(p.numel() for module in modules for p in module.parameters())
    products = sum(p.numel() for module in modules[1:] for p in module.parameters() if p.dim() == 2)
    assert shape.flops_per_position == 6 * products


class ByCells(nn.Module):
    """The same model, position by position."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        vocabulary_size, embedding_dim = parameters["embedding.weight"].shape
        hidden_size = parameters["output.weight"].shape[1]
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.lstm = nn.LSTMCell(embedding_dim, hidden_size)
        self.output = nn.Linear(hidden_size, vocabulary_size)
        self.load_state_dict(dict(parameters))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of tokens [B, T]; keep: factors [T, B, E + H]."""
        width, state, outputs = self.embedding.embedding_dim, None, []
        for t in range(tokens.shape[1]):
            inputs = self.embedding(tokens[:, t])
            state = self.lstm(inputs if keep is None else inputs * keep[t, :, :width], state)
            outputs.append(self.output(state[0] if keep is None else state[0] * keep[t, :, width:]))
        return torch.stack(outputs, dim=1)


def of_row(parameters: Parameters, row: int) -> dict[str, Tensor]:
    return {name: value[row] for name, value in parameters.items()}


def fresh(seeds: Sequence[int]) -> Parameters:
    """Parameters large enough for every gate to matter."""
    return {name: 2 * value for name, value in initial_parameters(SHAPE, seeds).items()}


@pytest.mark.parametrize("drops", [False, True])
def test_losses_and_gradients_are_those_of_cells(drops: bool) -> None:
    parameters = fresh([3, 4])
    batches = torch.stack([DATA[0][:16], DATA[0][16:32]])
    keep = 2.0 * torch.randint(2, (2, 9, 16, 20), generator=torch.Generator().manual_seed(0)) if drops else None
    scale = torch.tensor([0.5, 0.25])
    losses, gradients = losses_and_gradients(parameters, batches, scale, keep)
    assert all(gradients[name].shape == value.shape for name, value in parameters.items())
    for row in range(2):
        model = ByCells(of_row(parameters, row))
        rows = batches[row].long()
        outputs = model(rows[:, :-1], None if keep is None else keep[row])
        loss = cross_entropy(outputs.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=0, reduction="sum")
        (scale[row] * loss).backward()
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name][row], parameter.grad, rtol=1e-4, atol=1e-5)


def test_scores_are_weighted_by_token_whatever_the_batches() -> None:
    parameters = fresh([3, 4])
    targets = DATA[1][:, 1:].long()
    for batch_size in (7, 100):
        losses, accuracies = loss_and_accuracy(parameters, DATA[1], batch_size, torch.float32)
        for row in range(2):
            with torch.no_grad():
                outputs = ByCells(of_row(parameters, row))(DATA[1][:, :-1].long())
            expected = cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0).item()
            assert losses[row].item() == pytest.approx(expected, rel=1e-6)
            hits = (outputs.argmax(-1) == targets)[targets != 0].double().mean().item()
            assert accuracies[row].item() == pytest.approx(hits)


def test_it_begins_as_torchs_modules() -> None:
    shape = lstm_shape(300, 64, 100)
    both = initial_parameters(shape, [5, 7])
    modules = {"embedding": nn.Embedding(300, 64), "lstm": nn.LSTM(64, 100), "output": nn.Linear(100, 300)}
    for name, value in both.items():
        assert torch.equal(value[1], initial_parameters(shape, [7])[name][0]), "whatever its neighbours"
        assert not torch.equal(value[0], value[1])
        module, parameter = name.split(".")
        torchs = dict(modules[module].named_parameters())[parameter + "_l0" * (module == "lstm")]
        assert value[0].shape == torchs.shape
        assert value[0].std().item() == pytest.approx(torchs.std().item(), rel=0.15)
        assert value[0].abs().max().item() == pytest.approx(torchs.abs().max().item(), rel=0.3)
        assert abs(value[0].mean().item()) < 4 * torchs.std().item() / math.sqrt(value[0].numel())


def plain_loop(row: Row, config: TrainConfig) -> tuple[list[tuple[float, float, float]], dict[str, Tensor]]:
    """One row with autograd, torch.optim.Adam and clip_grad_norm_.

    Returns:
        Of every epoch training loss, validation loss and mean gradient norm; and the parameters.
    """
    recipe = row.recipe
    model = ByCells(of_row(initial_parameters(SHAPE, [row.seed]), 0))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    last = config.epochs * math.ceil(len(DATA[0]) / config.batch_size)
    falls = recipe.schedule == "linear"
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / last if falls else 1.0)
    epochs, step = [], 0
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(DATA[0]), generator=random_stream(row.seed, "shuffling", epoch))
        order = longest_first(order[None], lengths(DATA[0], 0), config.batch_size)[0]
        total, count, norms = 0.0, 0, []
        for batch in order.split(config.batch_size):
            rows = DATA[0][batch].long()
            (mask,) = dropout_masks([row.seed], [step], (1, 9, len(batch), 20), [recipe.dropout], torch.device("cpu"))
            outputs = model(rows[:, :-1], mask[0] / (1 - recipe.dropout))
            loss = cross_entropy(outputs.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            limit = max_gradient_norm(recipe.gradient_clipping, epoch)
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item())
            optimizer.step()
            scheduler.step()
            targets_count = int((rows[:, 1:] != 0).sum())
            total, count, step = total + loss.item() * targets_count, count + targets_count, step + 1
        with torch.no_grad():
            outputs = model(DATA[1].long()[:, :-1])
        val_loss = cross_entropy(outputs.flatten(0, 1), DATA[1].long()[:, 1:].flatten(), ignore_index=0).item()
        epochs.append((total / count, val_loss, sum(norms) / len(norms)))
    return epochs, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("number", range(3))
def test_training_equals_a_plain_loop(number: int) -> None:
    trained = train_lstm(SHAPE, [ROWS[number]], CONFIG, DATA, places=1)
    epochs, parameters = plain_loop(ROWS[number], CONFIG)
    train_losses, val_losses, norms = zip(*epochs, strict=True)
    assert [row.train_loss for row in trained.curves] == pytest.approx(train_losses, rel=1e-5)
    assert [row.val_loss for row in trained.curves] == pytest.approx(val_losses, rel=1e-5)
    assert [row.gradient_norm for row in trained.curves] == pytest.approx(norms, rel=1e-3)
    assert val_losses[-1] == min(val_losses) < val_losses[0] - 0.1, "it learns"
    for name, value in parameters.items():
        assert (trained.parameters[name][0] - value).norm() <= 1e-3 * value.norm(), name


def test_a_row_gives_the_same_bits_whatever_its_neighbours_and_places() -> None:
    together = train_lstm(SHAPE, ROWS, CONFIG, DATA, places=3)
    for number, row in enumerate(ROWS):
        assert same_bits(train_lstm(SHAPE, [row], CONFIG, DATA, places=1), 0, together, number)
    assert not same_bits(together, 1, together, 2)


def test_kept_weights_are_those_of_the_best_epoch() -> None:
    config = settings(epochs=30, base_learning_rate=0.1, patience=5)
    trained = train_lstm(SHAPE, [Row(4, recipe_of(config))], config, DATA, places=1)
    curve = [row.val_loss for row in trained.curves]
    (result,) = trained.results
    assert result.ended == "patience"
    assert result.best_epoch == curve.index(min(curve)) + 1 < result.epochs_run == len(curve) < 30
    losses, _ = loss_and_accuracy(trained.parameters, DATA[1], 16, torch.float32)
    assert losses.item() == pytest.approx(min(curve), rel=1e-6)


def test_a_row_that_diverges_says_so_and_the_next_one_trains() -> None:
    trained = train_lstm(SHAPE, [HOPELESS, ROWS[0]], CONFIG, DATA, places=1)
    assert [result.ended for result in trained.results] == ["diverged", "epochs"]
    problem = trained.results[0].problem
    assert problem
    assert "an LSTM of 12, seed 2" in problem
    assert trained.parameters["output.weight"].isfinite().all()


def stop_the_second(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> list[int]:
    """Of rows one after the other: it sees the whole of those before."""
    return [number for number in going_on if number == 1 and len(curves[0]) == 4 and len(curves[1]) == 2]


def test_pruning_and_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newllm.runtime.resume.LARGEST_SHARE", math.inf)
    expected = train_lstm(SHAPE, ROWS, CONFIG, DATA, places=1, rule=stop_the_second)
    assert [result.ended for result in expected.results] == ["epochs", "rule", "epochs"]
    assert [result.epochs_run for result in expected.results] == [4, 2, 4]
    original, kills = LstmTrainer.next_step, 0

    def killed(self: LstmTrainer, size: int) -> None:
        nonlocal count
        count += 1
        if count == 23 + 9 * kills:
            raise KeyboardInterrupt
        original(self, size)

    monkeypatch.setattr(LstmTrainer, "next_step", killed)
    while True:
        count = 0
        try:
            with StateStore(tmp_path, "lstm@12", {"of": "a test"}, 1) as store:
                found = train_lstm(SHAPE, ROWS, CONFIG, DATA, places=1, store=store, rule=stop_the_second)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 2
    assert all(same_bits(found, row, expected, row) for row in range(3))


def test_a_warm_up_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sets up libraries before a capture is a step and a validation of another stack."""
    expected = train_lstm(SHAPE, ROWS[:2], CONFIG, DATA, places=1)
    original, warm, warmed = LstmTrainer._set_stack, LstmTrainer._warm_up, []

    def cold(self: LstmTrainer) -> None:
        original(self)
        self.is_warm = False

    def warm_up(self: LstmTrainer) -> None:
        warmed.append(list(self.members))
        warm(self)

    monkeypatch.setattr(LstmTrainer, "_set_stack", cold)
    monkeypatch.setattr(LstmTrainer, "_warm_up", warm_up)
    found = train_lstm(SHAPE, ROWS[:2], CONFIG, DATA, places=1)
    assert warmed == [[0]]
    assert all(same_bits(found, row, expected, row) for row in range(2))


def losses(training: Training) -> list[float]:
    return [row.val_loss for row in training.curves]


@pytest.mark.cuda
def test_losses_and_gradients_on_a_gpu_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    parameters = fresh([3, 4])
    batches = torch.stack([DATA[0][:16], DATA[0][16:32]])
    keep = 2.0 * torch.randint(2, (2, 9, 16, 20), generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 0.25])
    expected, gradients = losses_and_gradients(parameters, batches, scale, keep)
    on_gpu = {name: value.cuda() for name, value in parameters.items()}
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float16, 1e-2)):
        found, gpu_gradients = losses_and_gradients(on_gpu, batches.cuda(), scale.cuda(), keep.cuda().to(dtype), dtype)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=tolerance)
        for name, value in gradients.items():
            assert (gpu_gradients[name].cpu() - value).norm() <= tolerance * value.norm(), (name, dtype)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_training_on_a_gpu_follows_the_cpu(precision: str) -> None:
    """Without dropout, whose streams differ; at a rate at which rounding stays small."""
    changes = {"epochs": 4, "base_learning_rate": 0.002}
    config = settings(precision=precision, **changes)
    rows = [Row(seed, recipe_of(config)) for seed in (0, 1)]
    gpu = train_lstm(SHAPE, rows, config, (DATA[0].cuda(), DATA[1].cuda()), places=2)
    cpu = train_lstm(SHAPE, rows, settings(**changes), DATA, places=1)
    assert losses(gpu) == pytest.approx(losses(cpu), rel=1e-4 if precision == "fp32" else 5e-3)


@pytest.mark.cuda
def test_captured_steps_on_streams_are_the_same_as_called_ones_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout: a replayed graph must draw anew in every step, and a row that takes a place its own."""
    data = DATA[0].cuda(), DATA[1].cuda()
    config = settings(precision="fp16", epochs=4, base_learning_rate=0.002)
    recipe = recipe_of(config, 0.2)
    rows = [Row(0, recipe), Row(1, recipe_of(config, 0.5, schedule="linear")), Row(2, recipe), Row(3, recipe)]
    captured = train_lstm(SHAPE, rows, config, data, places=2, rule=stop_the_second)
    monkeypatch.setattr(trainer, "Graphs", lambda enabled: Graphs(enabled=False))
    for number, row in enumerate(rows):
        alone = train_lstm(SHAPE, [row], config, data, places=1)
        count = captured.results[number].epochs_run
        found = [epoch.val_loss for epoch in captured.curves if epoch.seed == row.seed]
        assert found == pytest.approx(losses(alone)[:count], rel=2e-3)


@pytest.mark.cuda
def test_the_studys_size_fits_and_learns() -> None:
    """Hidden size 396, whose biases do not fill whole tiles, at the study's batch."""
    shape = lstm_shape(1000, 256, 396)
    ids = torch.randint(1, 30, (2048 + 100, 64), generator=torch.Generator().manual_seed(0)).int().cuda()
    config = settings(precision="fp16", epochs=2, batch_size=2048, base_learning_rate=0.01)
    rows = [Row(seed, Recipe(0.002, 0.3, ((1, 0.5),))) for seed in range(4)]
    trained = train_lstm(shape, rows, config, (ids, ids[:300]), places=4)
    assert all(result.val_loss < math.log(1000) for result in trained.results)
    trained.check_converged()
