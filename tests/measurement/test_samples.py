"""Continuations: greedy and drawn, reproducible, without what no text holds."""

import pytest
import torch

from newllm.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, build_tokenizer
from newllm.measurement.samples import NEW_TOKENS, PROMPTS, continuations
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.model.streams import random_stream

WORDS = ["the", "in", "he", "was", "it", "is", "a", "song", "born"]  # "first" is none
TOKENS = [*SPECIAL_TOKENS, *sorted(WORDS)]
TOKENIZER = build_tokenizer(WORDS, len(TOKENS))
READ = [prompt.replace("first", "<unk>") for prompt in PROMPTS]
SHAPE = ModelShape(len(TOKENS), embedding_dim=8, context_dim=6, hidden_size=12, num_layers=2)


@pytest.fixture
def parameters() -> Parameters:
    """One seed, large enough to have opinions, that never ends a row."""
    parameters = {n: v if "norm" in n else 15 * v for n, v in initial_parameters(SHAPE, [3]).items()}
    parameters["output.bias"][:, EOS] = -50
    return parameters


def by_definition(parameters: Parameters, residual: bool, stream: torch.Generator | None) -> list[str]:
    """The texts, token by token: the most probable, or drawn for all prompts together."""
    texts = [[BOS, *(TOKENS.index(word) for word in prompt.split())] for prompt in READ]
    length = len(texts[0])
    for _ in range(NEW_TOKENS):
        scores = torch.cat([logits(parameters, torch.tensor([[text]]), residual=residual)[0, :, -1] for text in texts])
        scores[:, PAD] = scores[:, BOS] = -torch.inf
        drawn = torch.multinomial(scores.softmax(1), 1, generator=stream)[:, 0] if stream else scores.argmax(1)
        for text, token in zip(texts, drawn.tolist(), strict=True):
            text.append(token)
    return [" ".join(TOKENS[token] for token in text[length:]) for text in texts]


@pytest.mark.parametrize("residual", [False, True])
def test_texts_equal_the_definition(parameters: Parameters, residual: bool) -> None:
    texts = continuations(parameters, TOKENIZER, residual)
    assert [text["prompt"] for text in texts] == READ
    assert [text["greedy"] for text in texts] == by_definition(parameters, residual, None)
    assert [text["sampled"] for text in texts] == by_definition(parameters, residual, random_stream(0, "samples", 0))


def test_samples_are_drawn_by_probability_and_repeat(parameters: Parameters) -> None:
    for name in ("output.weight", "output.bias"):
        parameters[name].zero_()
    parameters["output.bias"][:, :] = -50
    likely = ["the", "he", "song"]
    for word, probability in zip(likely, (0.6, 0.3, 0.1), strict=True):
        parameters["output.bias"][:, TOKENS.index(word)] = torch.tensor(probability).log()
    texts = continuations(parameters, TOKENIZER)
    words = [word for text in texts for word in text["sampled"].split()]
    assert len(words) == NEW_TOKENS * len(PROMPTS)
    assert [words.count(word) / len(words) for word in likely] == pytest.approx([0.6, 0.3, 0.1], abs=0.12)
    assert len({text["sampled"] for text in texts}) == len(texts)
    assert {text["greedy"] for text in texts} == {" ".join(["the"] * NEW_TOKENS)}
    assert continuations(parameters, TOKENIZER) == texts


def test_padding_and_beginnings_are_never_written_and_an_end_is_the_end(parameters: Parameters) -> None:
    parameters["output.weight"].zero_()
    parameters["output.bias"].zero_()
    parameters["output.bias"][:, [PAD, BOS]] = 100
    parameters["output.bias"][:, EOS] = 2
    for text in continuations(parameters, TOKENIZER):
        assert text["greedy"] == "<eos>"
        assert not {"<pad>", "<bos>"} & set(text["sampled"].split())
        assert "<eos>" not in text["sampled"].split()[:-1]


def test_prompts_are_equally_long() -> None:
    assert len({len(prompt.split()) for prompt in PROMPTS}) == 1
