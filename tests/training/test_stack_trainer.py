"""The trainer's own arithmetic on few windows: shares, places, what is captured on a GPU, and what is kept."""

import json
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from newllm.errors import UserError
from newllm.model.definition import initial_parameters, logits
from newllm.model.streams import Dropout, dropout_keys, random_stream
from newllm.runtime.resume import State
from newllm.training import trainer
from newllm.training.evaluation import loss_and_accuracy
from newllm.training.optimiser import flatten
from newllm.training.records import EpochRow, Training
from newllm.training.rows import Row
from newllm.training.stack import Ledger, Start, Task
from newllm.training.trainer import StackTrainer, train
from tests.training.fitting import recipe_of
from tests.training.test_trainer import SHAPE, settings, windows


def short(count: int, seed: int) -> Tensor:
    """Windows of six tokens; every fourth ends in padding after four of them."""
    rows = windows(count, seed)[:, :6].clone()
    rows[::4, 4:] = 0
    return rows


DATA = short(37, 1), short(22, 2)
CONFIG = settings(epochs=3, batch_size=16, base_learning_rate=0.01)  # steps of 16, 16 and 5 windows
PLAIN, DROPS = recipe_of(CONFIG), recipe_of(CONFIG, 0.5)
ROWS = [Row(3, PLAIN), Row(1, recipe_of(CONFIG, learning_rate=0.003)), Row(4, PLAIN)]


class Noted:
    """Notes what a training says of its progress."""

    def __init__(self, *arguments: int, **_: object) -> None:
        self.arguments, self.steps, self.skipped = arguments, 0, []
        self.epochs: list[tuple[str, list[int], float]] = []
        self.resumed: list[int] = []

    def __enter__(self) -> "Noted":
        return self

    def __exit__(self, *_: object) -> None: ...

    def step(self, rows: int) -> None:
        self.steps += rows

    def epoch(self, names: str, rows: Sequence[EpochRow], tokens_per_second: float) -> None:
        self.epochs.append((names, [row.seed for row in rows], tokens_per_second))

    def skip(self, epochs: int) -> None:
        self.skipped.append(epochs)

    def resume(self, epochs: int) -> None:
        self.resumed.append(epochs)


class Kept:
    """Keeps states in memory, as JSON and copies, and goes on from one of them."""

    def __init__(self, state: State | None = None) -> None:
        self.state, self.states = state, []

    def resume(self) -> State | None:
        return self.state

    def keep(self, state: State) -> None:
        self.states.append(State(dict(state.tensors), json.loads(json.dumps(state.values)), state.where))


def stack_of(rows: Sequence[Row] = ROWS, start: Start | None = None, **changes: object) -> StackTrainer:
    task = Task(SHAPE, rows, CONFIG.model_copy(update=changes), DATA, start)
    progress: Any = Noted()
    return StackTrainer(task, Ledger(task), len(rows), progress)


def figures(training: Training) -> list[tuple[float, ...]]:
    return [(row.seed, row.epoch, row.train_loss, row.val_loss, row.gradient_norm) for row in training.curves]


def assert_near(found: Training, expected: Training) -> None:
    assert len(found.curves) == len(expected.curves)
    for one, other in zip(figures(found), figures(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(found.parameters[name], value, rtol=1e-3, atol=1e-4, msg=name)


def leave_by_turns(curves: Mapping[int, Sequence[EpochRow]], going_on: Collection[int]) -> list[int]:
    """The row of place 0 after its first epoch, that of place 1 after its second."""
    return [number for number in going_on if len(curves[number]) == number + 1]


@pytest.mark.parametrize("places", [2, 3])
def test_rows_that_leave_a_stack_or_take_a_place_in_it_train_as_they_do_alone(places: int) -> None:
    alone = train(SHAPE, ROWS, CONFIG, DATA, rule=leave_by_turns)
    assert [(result.epochs_run, result.ended) for result in alone.results] == [(1, "rule"), (2, "rule"), (3, "epochs")]
    assert_near(train(SHAPE, ROWS, CONFIG, DATA, places=places, rule=leave_by_turns), alone)


def test_why_rows_end() -> None:
    """Patience ends a row unless its last epoch does, and losses that do not fall exhaust it."""
    still = [Row(0, recipe_of(CONFIG, learning_rate=1e-9))]
    for patience, epochs_run, ended in ((1, 2, "patience"), (2, 3, "epochs"), (3, 3, "epochs")):
        config = CONFIG.model_copy(update={"patience": patience})
        (result,) = train(SHAPE, still, config, DATA).results
        assert (result.epochs_run, result.ended, result.problem) == (epochs_run, ended, None)
        assert result.stopped_early is (ended == "patience")


def test_time_and_energy_are_shared_by_the_rows_of_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 16.0, 20.0, 24.0, 30.0, 31.0])  # at the beginning and the end of three epochs
    joules = iter([None, 5.0, 7.0, None, 100.0, 103.0])
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(trainer, "energy_counter", lambda device: lambda: next(joules))
    training = stack_of()
    training.run(lambda curves, going_on: [1] if len(curves[1]) == 2 else [])
    curves = [training.ledger.histories[number].curve for number in range(3)]
    assert [[row.seconds for row in curve] for curve in curves] == [[2, 4 / 3, 0.5], [2, 4 / 3], [2, 4 / 3, 0.5]]
    assert [[row.joules for row in curve] for curve in curves] == [[None, None, 1.5], [None] * 2, [None, None, 1.5]]
    progress: Any = training.progress
    assert progress.steps == 3 * 3 * 2 + 2 * 3, "three steps of three rows, then of two"
    assert progress.skipped == [1, 0, 0], "of the row that left early"
    assert [seeds for _, seeds, _ in progress.epochs] == [[3, 1, 4], [3, 1, 4], [3, 4]]
    assert [names for names, *_ in progress.epochs] == [training.ledger.names([0, 1, 2])] * 2 + [
        training.ledger.names([0, 2])
    ]
    speeds = [speed for *_, speed in progress.epochs]
    assert speeds == pytest.approx([37 * 5 * 3 / 6, 37 * 5 * 3 / 4, 37 * 5 * 2 / 1])
    assert [row.num_layers for row in curves[0]] == [2] * 3
    assert [row.epoch for row in curves[0]] == [1, 2, 3]
    assert [row.seed for curve in curves for row in curve[:1]] == [3, 1, 4]


class Called:
    """Stands for captures where there is no GPU: notes them, and calls what they would replay."""

    made: list["Called"]

    def __init__(self, enabled: bool) -> None:
        self.asked, self.enabled, self.calls, self.clears = enabled, True, [], 0
        self.made.append(self)

    def clear(self) -> None:
        self.clears += 1

    def call(self, key: Hashable, function: Callable[[], None]) -> None:
        self.calls.append(key)
        function()


class Likes(StackTrainer):
    """Notes the tasks that stacks are made for."""

    tasks: list[Task]

    def __init__(self, task: Task, *arguments: Any) -> None:
        self.tasks.append(task)
        super().__init__(task, *arguments)


class CalledGpu(str):
    """A device by name, of another type than it is."""

    type = "cuda"


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("by_kernels", [False, True])
def test_captures_are_made_where_kernels_run_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, by_kernels: bool
) -> None:
    asked = []

    def pieces(like: Tensor) -> object:
        asked.append(like.dtype)
        return object() if by_kernels else trainer.plain

    Called.made = []
    monkeypatch.setattr(trainer, "Graphs", Called)
    monkeypatch.setattr(trainer, "pieces_for", pieces)
    monkeypatch.setattr(trainer, "energy_counter", lambda _: None)
    if on_gpu:
        monkeypatch.setattr(Task, "device", CalledGpu("cpu"))
    training = stack_of(precision="bf16")
    assert [graphs.asked for graphs in Called.made] == [on_gpu and by_kernels]
    assert training.draws_in_kernels is by_kernels
    assert asked == [torch.bfloat16]


def test_all_of_a_trainer_lies_on_the_device_of_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has no numbers, so that a tensor elsewhere is seen where there is no GPU."""
    monkeypatch.setattr(trainer, "batches_by_length", lambda *_: [])
    monkeypatch.setattr(trainer, "lengths", lambda given, _: given[:, 0])  # comparing there would import SymPy
    parameters = initial_parameters(SHAPE, [3, 1, 4])
    start = Start(parameters, {name: torch.ones_like(value[:1]) for name, value in parameters.items()})
    task = Task(SHAPE, ROWS, CONFIG, (DATA[0].to("meta"), DATA[1].to("meta")), start)
    progress: Any = Noted()
    training = StackTrainer(task, Ledger(task), 3, progress)
    tensors = {name: value for name, value in vars(training).items() if isinstance(value, Tensor)}
    assert tensors.keys() == {"learns", "windows", "lengths", "batch_rows", "position", "order", "scores"}
    assert {value.device.type for value in [*tensors.values(), training.totals.loss]} == {"meta"}
    assert {value.device.type for value in training.stack.tensors().values()} == {"meta"}


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that a training takes on a GPU: by captures, with batches filled up and counts of what to compute."""
    original = StackTrainer._needed

    def needed(self: StackTrainer, batch: int) -> list[int] | None:
        device, self.device = self.device, torch.device("cuda")
        try:
            return original(self, batch)
        finally:
            self.device = device

    Called.made, Likes.tasks = [], []
    monkeypatch.setattr(trainer, "Graphs", Called)
    monkeypatch.setattr(trainer, "StackTrainer", Likes)
    monkeypatch.setattr(StackTrainer, "_needed", needed)


def test_captures_of_full_batches_train_the_same(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(SHAPE, ROWS, CONFIG, DATA, places=2, rule=leave_by_turns)
    request.getfixturevalue("captured")
    sizes, counts = [], []
    original = trainer.losses_and_gradients

    def noting(parameters: Any, batch: Tensor, *arguments: Any) -> Any:
        sizes.append(batch.shape[1])
        counts.append(arguments[-1])
        return original(parameters, batch, *arguments)

    monkeypatch.setattr(trainer, "losses_and_gradients", noting)
    assert_near(train(SHAPE, ROWS, CONFIG, DATA, places=2, rule=leave_by_turns), expected)
    assert set(sizes) == {16, 37}, "whole batches, and all windows to warm up"
    assert {len(count) for count in counts} == {2, 5}, "of the positions that are computed"
    assert {*Called.made[0].calls} == {(16, False), "validation"}


def test_a_warm_up_is_a_step_and_a_validation_of_a_like_stack_on_few_windows(captured: None) -> None:
    parameters = {name: value + 1 for name, value in initial_parameters(SHAPE, [3, 1, 4]).items()}
    learns = {name: torch.ones_like(value[:1]) for name, value in parameters.items()}
    learns["output.bias"] *= 0
    rows = [Row(3, PLAIN), Row(1, DROPS), Row(4, PLAIN)]
    training = stack_of(rows, Start(parameters, learns))
    before = {name: value.clone() for name, value in training.stack.tensors().items()}
    training.start_epoch()
    (like,) = Likes.tasks
    assert (like.shape, like.rows, like.config.batch_size) == (SHAPE, rows, 37)
    assert like.config == CONFIG.model_copy(update={"batch_size": 37})
    assert all(torch.equal(part, DATA[0][:, :3]) for part in like.windows)
    assert like.start is not None
    assert like.start.learns is not None
    assert all(torch.equal(like.start.parameters[name], value) for name, value in parameters.items())
    assert all(torch.equal(like.start.learns[name], value) for name, value in learns.items())
    assert [graphs.calls for graphs in Called.made] == [[], [], [(37, True), "validation"]]
    assert Called.made[2].asked is False, "what warms up is called, not captured"
    before["Stack.max_norms"].fill_(0.5)
    for name, value in training.stack.tensors().items():
        assert torch.equal(value, before[name]), name
    assert training.totals.steps.tolist() == [0] * 3
    training.start_epoch()
    assert len(Likes.tasks) == 1, "once is enough"
    Likes.tasks.clear()
    stack_of().start_epoch()
    (like,) = Likes.tasks
    assert like.start is not None
    assert like.start.learns is None


def test_a_smaller_stack_is_captured_anew(captured: None) -> None:
    training = stack_of()
    training.start_epoch()
    assert training.is_warm
    clears = training.graphs.clears  # type: ignore[attr-defined]
    training.leave([0])
    assert training.graphs.clears == clears + 1  # type: ignore[attr-defined]
    assert not training.is_warm


def test_the_first_row_with_dropout_is_warmed_up_for(captured: None) -> None:
    rows = [Row(3, PLAIN), Row(4, PLAIN), Row(1, DROPS)]
    train(SHAPE, rows, CONFIG.model_copy(update={"epochs": 1}), DATA, places=1)
    assert [[row.recipe for row in like.rows] for like in Likes.tasks[1:]] == [[PLAIN], [DROPS]]


def test_only_the_first_windows_warm_up(captured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "WARM_UP_WINDOWS", 5)
    stack_of().start_epoch()
    assert [part.tolist() for part in Likes.tasks[0].windows] == [DATA[0][:5, :3].tolist()] * 2


def test_where_captures_validate_batches_are_large(captured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(**changes: object) -> list[int]:
        return [len(batch) for batch, _ in stack_of(**changes).validation]

    assert sizes() == [22]
    monkeypatch.setattr(trainer, "VALIDATION_WINDOWS", 17)
    assert sizes() == [17, 5]
    assert sizes(batch_size=18) == [18, 4], "no smaller than those of training"
    monkeypatch.undo()
    assert sizes() == [16, 6]
    assert stack_of().order.shape == (3, 37), "nothing is filled up"


def test_an_epoch_shuffles_each_row_by_its_seed_and_fills_the_last_batch(captured: None) -> None:
    for phase in (0, 2):
        start = Start(initial_parameters(SHAPE, [3, 1, 4]), phase=phase)
        training = stack_of(start=start)
        for epoch in (1, 2):
            training.start_epoch()
            for place, row in enumerate(ROWS):
                generator = random_stream(row.seed, "shuffling", epoch + 10**9 * phase)
                shuffled = torch.randperm(37, generator=generator).tolist()
                lengths = [5 if window % 4 else 3 for window in range(37)] + [0]
                shuffled += [37] * 11
                batches = [sorted(shuffled[i : i + 16], key=lambda window: -lengths[window]) for i in (0, 16, 32)]
                assert training.order[place].tolist() == [window for batch in batches for window in batch]
            assert training.stack.max_norms.tolist() == ([0.5] if epoch == 1 else [1.0]) * 3
            for number in training.members:
                training.ledger.histories[number].curve.append(None)  # type: ignore[arg-type]
        assert training.windows[37].tolist() == [0] * 6
        assert torch.equal(training.windows[:37], DATA[0])


def test_what_is_captured_has_room_for_the_batches_of_later_epochs(
    captured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the square root of 16 windows, 2; and a new capture only where that is exceeded."""
    training = stack_of()
    training.start_epoch()
    needed, clears = training.needed, training.graphs.clears  # type: ignore[attr-defined]
    assert training.needed[:3] == [16] * 3
    counts = [[sum(window % 4 > 0 and window < 37 for window in order[i : i + 16]) for i in (0, 16, 32)]
              for order in training.order.tolist()]  # fmt: skip
    assert training.needed[3:] == [min(max(map(max, counts)) + 2, 16)] * 2
    found, given = [], iter([[10, 5, 0, 0, 0], [12, 7, 2, 2, 2], [1, 8, 2, 2, 2], [3, 2, 1, 1, 1], [15, 1, 1, 1, 1]])
    monkeypatch.setattr(trainer, "rows_of_any_batch", lambda *_: next(given))
    training.needed = [0] * 5
    for _ in range(5):
        training.start_epoch()
        found.append((training.needed[:3], training.graphs.clears - clears))  # type: ignore[attr-defined]
    assert found == [([12, 7, 2], 1), ([12, 7, 2], 1), ([12, 10, 4], 2), ([12, 10, 4], 2), ([16, 10, 4], 3)]
    assert training._needed(11) == [11, 10, 4, 4, 4]
    assert needed is not training.needed


def test_which_rows_of_a_batch_are_computed_depends_on_the_device() -> None:
    training, single = stack_of(), stack_of(ROWS[:1])
    assert training._needed(16) is None, "a CPU counts anew"
    for one in (training, single):
        one.device, one.needed = torch.device("cuda"), [16, 9, 3]
        assert one._needed(10) == [10, 9, 3]
        one.draws_in_kernels = True
    assert training._needed(10) == [10, 9, 3]
    assert single._needed(10) is None


def test_dropout_is_drawn_only_if_a_row_has_any_and_kernels_draw_for_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stack_of()._dropout(16) is None
    start = Start(initial_parameters(SHAPE, [3, 1]), phase=2)
    training = stack_of([Row(3, PLAIN), Row(1, DROPS)], start)
    devices = []
    original = trainer.dropout_masks

    def noting(*arguments: Any) -> Any:
        devices.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(trainer, "dropout_masks", noting)
    drawn = training._dropout(5)
    assert devices == [torch.device("cpu")]
    assert drawn is not None
    assert drawn.probabilities == [0, 0.5]
    assert [mask.shape for mask in drawn.masks] == [(2, 5, 5, 12)] * 2
    training.draws_in_kernels = True
    stack, found = training.stack, training._dropout(16)
    expected = Dropout(
        [0, 0.5], (), dropout_keys([3, 1], torch.device("cpu"), 2), stack.steps, stack.thresholds, stack.scales
    )
    assert isinstance(found, Dropout)
    assert (found.probabilities, found.masks) == (expected.probabilities, ())
    assert found.keys is not None
    assert torch.equal(found.keys, expected.keys)  # type: ignore[arg-type]
    assert found.steps is stack.steps, "the tensor that a captured step counts up"
    assert found.thresholds is stack.thresholds
    assert found.scales is stack.scales


def test_a_row_drops_units_whatever_the_rows_before_it_did() -> None:
    alone = train(SHAPE, [Row(1, DROPS)], CONFIG, DATA)
    for before in (PLAIN, DROPS):
        assert figures(train(SHAPE, [Row(3, before), Row(1, DROPS)], CONFIG, DATA))[3:] == figures(alone)


def test_a_lack_of_memory_is_kept_and_the_rows_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows two end together with their second epoch; the stack of three that then trains does not fit."""
    rows, stacks, shown = [*ROWS, Row(8, PLAIN), Row(9, PLAIN)], [], []
    ending = lambda curves, going_on: [n for n in going_on if n in (0, 2) and len(curves[n]) == 2]  # noqa: E731
    expected = train(SHAPE, rows, CONFIG, DATA, rule=ending)

    class Small(StackTrainer):
        def start_epoch(self) -> None:
            stacks.append(list(self.members))
            if len(self.members) > 2 and 4 in self.members:
                raise torch.OutOfMemoryError("no memory")
            super().start_epoch()

    def progress(*arguments: int) -> Noted:
        shown.append(Noted(*arguments))
        return shown[-1]

    monkeypatch.setattr(trainer, "StackTrainer", Small)
    monkeypatch.setattr(trainer, "Progress", progress)
    store: Any = Kept()
    found = train(SHAPE, rows, CONFIG, DATA, places=3, rule=ending, store=store)
    assert_near(found, expected)
    assert stacks == [[0, 1, 2]] * 2 + [[3, 1, 4]] + [[1, 3]] * 3 + [[4]] * 3
    halved = store.states[2]
    assert (halved.values["places"], halved.values["members"], halved.values["waiting"]) == (2, [], [1, 3, 4])
    assert [state.values["places"] for state in store.states] == [3] * 2 + [2] * 6
    members = [state.values["members"] for state in store.states]
    assert members == [[0, 1, 2], [3, 1, 4], [], [1, 3], [1, 3], [4], [4], [4]]
    assert shown[0].arguments == (2, 3, 5, 3)
    assert shown[0].resumed == [0, 2 * 3]
    stacks.clear()
    again: Any = Kept(halved)
    resumed = train(SHAPE, rows, CONFIG, DATA, rule=ending, store=again)
    assert stacks == [[1, 3]] * 3 + [[4]] * 3
    assert shown[1].resumed == [2 * 3]
    assert [row.val_loss for row in resumed.curves] == [row.val_loss for row in found.curves]
    assert len(again.states) == 5


def test_a_state_whose_stack_does_not_fit_any_more_is_halved_by_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = Kept()
    expected = train(SHAPE, ROWS, CONFIG, DATA, places=3, store=store)
    state = store.states[0]
    state.values["places"] = 5
    stacks = []

    class Small(StackTrainer):
        def start_epoch(self) -> None:
            stacks.append(list(self.members))
            if len(self.members) > 2:
                raise torch.OutOfMemoryError("no memory")
            super().start_epoch()

    monkeypatch.setattr(trainer, "StackTrainer", Small)
    going_on: Any = Kept(state)
    assert_near(train(SHAPE, ROWS, CONFIG, DATA, store=going_on), expected)
    assert stacks == [[0, 1, 2], *[[0, 1]] * 3, *[[2]] * 3]


def test_the_learning_rate_follows_the_steps_of_training_and_not_those_that_were_applied() -> None:
    training = stack_of([Row(3, recipe_of(CONFIG, schedule="linear"))])
    training.start_epoch()
    training.stack.steps.fill_(9)  # of three epochs of three steps
    before = training.stack.flat.clone()
    training.next_step(16)
    assert torch.equal(training.stack.flat, before)
    training.stack.flat.fill_(math.inf)
    training.next_step(16)
    assert training.stack.steps.tolist() == [11], "a step that is skipped counts"
    assert training.stack.adam.steps.tolist() == [1]


def test_a_state_goes_on_in_its_own_places_with_all_its_tensors() -> None:
    store: Any = Kept()
    rows = [*ROWS, Row(5, DROPS)]
    expected = train(SHAPE, rows, CONFIG, DATA, places=2, store=store)
    assert [state.values["members"] for state in store.states] == [[0, 1]] * 2 + [[2, 3]] * 3
    for state in store.states:
        going_on: Any = Kept(state)
        found = train(SHAPE, rows, CONFIG, DATA, places=4, store=going_on)
        assert figures(found) == figures(expected)
        assert all(torch.equal(found.parameters[name], value) for name, value in expected.parameters.items())
        assert [later.values["places"] for later in going_on.states] == [2] * len(going_on.states)


def test_without_a_number_of_places_a_cpu_trains_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    Likes.tasks, store = [], Kept()
    monkeypatch.setattr(trainer, "StackTrainer", Likes)
    train(SHAPE, ROWS, CONFIG, DATA, store=store)  # type: ignore[arg-type]
    assert [state.values["members"] for state in store.states] == [[0], [0], [1], [1], [1], [2], [2], [2]]
    store = Kept()
    train(SHAPE, ROWS, CONFIG, DATA, places=9, store=store)  # type: ignore[arg-type]
    assert store.states[0].values["places"] == 3, "no more than rows"


class Claimed(Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl


def test_without_a_number_of_places_a_gpu_trains_all_rows_at_once() -> None:
    store: Any = Kept()
    config = CONFIG.model_copy(update={"epochs": 2})
    train(SHAPE, ROWS, config, (DATA[0].as_subclass(Claimed), DATA[1]), store=store)
    assert [state.values["members"] for state in store.states] == [[0, 1, 2]]


def test_what_does_not_learn_keeps_its_bits() -> None:
    parameters = initial_parameters(SHAPE, [3, 1, 4])
    learns = {name: torch.zeros_like(value[:1]) for name, value in parameters.items()}
    learns["hidden.2.weight"][0, :, ::2] = 1
    trained = train(SHAPE, ROWS, CONFIG, DATA, start=Start(parameters, learns))
    for name, before in parameters.items():
        changed = trained.parameters[name] != before
        assert not changed[~learns[name].bool().expand_as(before)].any(), name
    assert (trained.parameters["hidden.2.weight"] != parameters["hidden.2.weight"])[:, :, ::2].double().mean() > 0.9


def test_the_parameters_kept_are_those_of_the_lowest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses are given, so that the best epochs are the second, the first and the last."""
    given = iter(torch.tensor([[3.0, 1.0, 3.0], [1.0, 2.0, 2.0], [2.0, 3.0, 1.0]]))
    monkeypatch.setattr(trainer, "of_batches", lambda *_: (next(given), torch.zeros(3)))
    kept: list[Tensor] = []
    original = StackTrainer.validate

    def noting(self: StackTrainer) -> None:
        kept.append(self.stack.flat.clone())
        original(self)

    monkeypatch.setattr(StackTrainer, "validate", noting)
    training = stack_of()
    training.run()
    for place, epoch in enumerate([1, 0, 2]):
        assert torch.equal(training.ledger.best[place], kept[epoch][place])
    assert [history.stopping.best_epoch for history in training.ledger.histories.values()] == [2, 1, 3]


def test_adam_gets_the_clipped_gradient_with_the_loss_scale_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which Adam itself hardly shows: it divides by the gradient's size. Scales and largest norms differ by row."""
    rows = [Row(3, recipe_of(CONFIG, gradient_clipping=((1, limit),))) for limit in (0.001, 9.0, 0.01)]
    training = stack_of(rows, precision="fp16")
    stack = training.stack
    stack.scaler.scale.copy_(torch.tensor([1024.0, 64.0, 256.0]))
    training.start_epoch()
    types = []
    original = trainer.losses_and_gradients

    def noting(parameters: Any, *arguments: Any) -> Any:
        types.extend([parameters["hidden.1.weight"].dtype, arguments[4]])
        return original(parameters, *arguments)

    monkeypatch.setattr(trainer, "losses_and_gradients", noting)
    training.next_step(16)
    assert types == [torch.float16] * 2
    leaves = {name: value.requires_grad_() for name, value in initial_parameters(SHAPE, [3]).items()}
    batch = DATA[0][training.order[0, :16]].long()
    outputs = logits(leaves, batch[None, :, :-1])[0].flatten(0, 1)
    cross_entropy(outputs, batch[:, 1:].flatten(), ignore_index=0).backward()
    gradient = flatten({name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}, SHAPE)[0]
    norm = gradient.norm().item()
    assert 0.01 < norm < 9
    for place, limit in enumerate((0.001, norm, 0.01)):
        clipped = gradient * limit / norm
        assert (stack.adam.first[place] - 0.1 * clipped).norm() <= 0.05 * 0.1 * limit
        assert (stack.adam.second[place] - 0.001 * clipped**2).norm() <= 0.1 * (0.001 * clipped**2).norm()
    assert training.totals.norm.tolist() == pytest.approx([norm] * 3, rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_with_hardly_a_target_has_its_mean_loss_and_gradient(count: int) -> None:
    """Of one target or two, by the definition; the gradient's norm is that of the mean loss."""
    window = torch.tensor([[2, 5, 7, 0, 0, 0]]).int()
    window[:, count + 1 :] = 0
    config = CONFIG.model_copy(update={"epochs": 1})
    trained = train(SHAPE, ROWS[:1], config, (window, DATA[1]))
    leaves = {name: value.requires_grad_() for name, value in initial_parameters(SHAPE, [3]).items()}
    outputs = logits(leaves, window[None, :, :-1].long())[0, 0, :count]
    loss = cross_entropy(outputs, window[0, 1 : count + 1].long())
    loss.backward()
    norm = torch.cat([value.grad.flatten() for value in leaves.values() if value.grad is not None]).norm()
    assert trained.curves[0].train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert trained.curves[0].gradient_norm == pytest.approx(norm.item(), rel=1e-4)


def test_validation_is_of_the_trained_parameters_in_the_precision_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    training, types = stack_of(precision="bf16"), []
    original = trainer.of_batches

    def noting(*arguments: Any) -> Any:
        types.extend([arguments[0]["hidden.1.weight"].dtype, arguments[2]])
        return original(*arguments)

    monkeypatch.setattr(trainer, "of_batches", noting)
    training.validate()
    assert types == [torch.bfloat16] * 2
    parameters = initial_parameters(SHAPE, [3, 1, 4])
    half = {name: value if name in ("norm.weight", "norm.bias", "output.bias") else value.bfloat16()
            for name, value in parameters.items()}  # fmt: skip
    for found, expected in zip(training.scores, loss_and_accuracy(half, DATA[1], 16, torch.bfloat16), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("call", "step", "what"), [(4, "step 1", "loss"), (5, "step 2", "loss"), (5, "step 2", "gradient")]
)
def test_a_row_that_diverges_says_where(monkeypatch: pytest.MonkeyPatch, call: int, step: str, what: str) -> None:
    original, calls = trainer.losses_and_gradients, 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        losses, gradients = original(*arguments)
        if calls == call:
            (losses if what == "loss" else gradients["output.bias"])[1] = math.inf
        return losses, gradients

    monkeypatch.setattr(trainer, "losses_and_gradients", failing)
    training = train(SHAPE, ROWS, CONFIG, DATA, places=3)
    assert [(result.ended, result.epochs_run) for result in training.results] == [
        ("epochs", 3),
        ("diverged", 1),
        ("epochs", 3),
    ]
    problem = training.results[1].problem
    assert problem is not None
    for words in ("2 layers", "seed 1", "epoch 2", step, "200", "0.003", "fp32"):
        assert words in problem
    with pytest.raises(UserError, match="seed 1"):
        training.check_converged()


def test_a_row_that_diverges_in_validation_names_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "of_batches", lambda *_: (torch.tensor([300.0]), torch.tensor([0.0])))
    problem = train(SHAPE, ROWS[:1], CONFIG, DATA).results[0].problem
    assert problem is not None
    assert "epoch 1, validation:" in problem
    assert "step" not in problem
