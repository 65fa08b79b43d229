"""Which word comes next, and texts against those of the definition, which reads the whole text anew for each word."""

import math

import pytest
import torch

from newllm.data.vocabulary import BOS, EOS, PAD, UNK
from newllm.model.definition import ModelShape, Parameters, logits
from newllm.usage.generation import Sampling, continuations, text_stream
from newllm.usage.recurrence import Recurrence
from tests.usage.conftest import random_parameters

SHAPE = ModelShape(16, 5, 6, 8, 3)
PROMPTS = [[BOS], [BOS, 7, 9, 4], [BOS, UNK, 5]]
# of seven tokens, <pad> and <bos> among them: probabilities 0.1 (<unk>), 0.2 (<eos>), 0.4, 0.25 and 0.05
LOGITS = torch.tensor([[9.0, math.log(0.1), 9.0, math.log(0.2), math.log(0.4), math.log(0.25), math.log(0.05)]])


def shares(sampling: Sampling, logits: torch.Tensor = LOGITS) -> list[float]:
    """How often each token is chosen when random numbers are spread evenly."""
    count = 10_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    chosen = sampling.choose(logits.expand(count, -1), uniform)
    return [share / count for share in chosen.bincount(minlength=logits.shape[1]).tolist()]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0, 0.1, 0, 0.2, 0.4, 0.25, 0.05]),
        (Sampling(unknown=False), [0, 0, 0, 0.2 / 0.9, 0.4 / 0.9, 0.25 / 0.9, 0.05 / 0.9]),
        (Sampling(temperature=0), [0, 0, 0, 0, 1, 0, 0]),
        # squares 0.01, 0.04, 0.16, 0.0625, 0.0025 sum to 0.275
        (Sampling(temperature=0.5), [0, *(p / 0.275 for p in (0.01, 0, 0.04, 0.16, 0.0625, 0.0025))]),
        (Sampling(temperature=1e-320), [0, 0, 0, 0, 1, 0, 0]),
        (Sampling(temperature=math.inf), [0, 0.2, 0, 0.2, 0.2, 0.2, 0.2]),
        (Sampling(top_k=2), [0, 0, 0, 0, 0.4 / 0.65, 0.25 / 0.65, 0]),
        (Sampling(top_k=1), [0, 0, 0, 0, 1, 0, 0]),
        (Sampling(top_k=100), [0, 0.1, 0, 0.2, 0.4, 0.25, 0.05]),
        (Sampling(top_p=0.6), [0, 0, 0, 0, 0.4 / 0.65, 0.25 / 0.65, 0]),
        (Sampling(top_p=0.66), [0, 0, 0, 0.2 / 0.85, 0.4 / 0.85, 0.25 / 0.85, 0]),
        (Sampling(top_p=0), [0, 0, 0, 0, 1, 0, 0]),
        # of the three that top_k leaves, 0.4 and 0.25 are 0.76 of the probability
        (Sampling(top_k=3, top_p=0.7), [0, 0, 0, 0, 0.4 / 0.65, 0.25 / 0.65, 0]),
    ],
)
def test_shares_of_tokens(sampling: Sampling, expected: list[float]) -> None:
    assert shares(sampling) == pytest.approx(expected, abs=2e-4)


def test_a_random_number_next_to_one_chooses_what_can_be_chosen() -> None:
    uniform = torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)
    assert Sampling().choose(LOGITS, uniform).item() == 6
    assert Sampling(top_k=2).choose(LOGITS, uniform).item() == 5


def test_a_random_number_between_two_tokens_chooses_the_second() -> None:
    halves = torch.tensor([[0.0, -torch.inf, 0.0, 1.0, 1.0]])
    assert Sampling().choose(halves.expand(2, -1), torch.tensor([0.0, 0.5]).double()).tolist() == [3, 4]


def test_what_underflows_is_not_chosen() -> None:
    extreme = torch.tensor([[0.0, -4000.0, 0.0, 0.0, -4000.0]])
    assert shares(Sampling(), extreme) == [0, 0, 0, 1, 0]


def recomputed(parameters: Parameters, prompt: list[int], sampling: Sampling, stream: torch.Generator) -> list[int]:
    """The whole text anew for each word."""
    text = [*prompt]
    for _ in range(12):
        last = logits(parameters, torch.tensor([[text]]))[0, :, -1]
        token = int(sampling.choose(last, torch.rand(1, generator=stream, dtype=torch.float64)))
        if token == EOS:
            break
        text.append(token)
    return text[len(prompt) :]


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(0.7, 8, 0.95, False)])
def test_texts_are_those_of_the_definition(sampling: Sampling) -> None:
    parameters = random_parameters(SHAPE, (4,))
    streams = [text_stream(1, number) for number in range(3)]
    steps = list(continuations(Recurrence(parameters), PROMPTS, sampling, 12, streams))
    found = [[step[place] for step in steps if step[place] is not None] for place in range(3)]
    expected = [
        recomputed(parameters, prompt, sampling, text_stream(1, number)) for number, prompt in enumerate(PROMPTS)
    ]
    assert found == expected
    assert all(PAD not in text and BOS not in text for text in found)
    assert any(len(text) > 4 for text in found), "the texts tell nothing"


def test_a_text_that_has_ended_stays_so() -> None:
    parameters = random_parameters(SHAPE, (4,))
    parameters["output.bias"][0, EOS] += 1.5
    streams = [text_stream(5, number) for number in range(40)]
    steps = list(continuations(Recurrence(parameters), [[BOS]] * 40, Sampling(), 30, streams))
    lengths = [sum(step[place] is not None for step in steps) for place in range(40)]
    assert len(set(lengths)) > 3
    assert max(lengths) == len(steps)
    for place, length in enumerate(lengths):
        assert all(step[place] is not None and step[place] != EOS for step in steps[:length])


def test_nothing_follows_an_end_at_once() -> None:
    parameters = random_parameters(SHAPE, (4,))
    parameters["output.bias"][0, EOS] = 1e4
    assert list(continuations(Recurrence(parameters), [[BOS]], Sampling(), 5, [text_stream(0, 0)])) == []
