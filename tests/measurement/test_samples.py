"""Continuations: greedy and drawn, reproducible, without what no text holds."""

import pytest
import torch

from newllm.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, build_tokenizer
from newllm.measurement.samples import NEW_TOKENS, PROMPTS, continuations
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits

WORDS = ["the", "in", "he", "was", "it", "is", "a", "song", "born"]  # "first" is none
TOKENS = [*SPECIAL_TOKENS, *sorted(WORDS)]
TOKENIZER = build_tokenizer(WORDS, len(TOKENS))
SHAPE = ModelShape(len(TOKENS), embedding_dim=8, context_dim=6, hidden_size=12, num_layers=2)


@pytest.fixture
def parameters() -> Parameters:
    """One seed, large enough to have opinions, that never ends a row."""
    parameters = {n: v if "norm" in n else 15 * v for n, v in initial_parameters(SHAPE, [3]).items()}
    parameters["output.bias"][:, EOS] = -50
    return parameters


def test_greedy_is_the_most_probable_next_token_again_and_again(parameters: Parameters) -> None:
    for text in continuations(parameters, TOKENIZER):
        tokens = [BOS, *(TOKENS.index(word) for word in text["prompt"].split())]
        following = text["greedy"].split()
        assert len(following) == NEW_TOKENS
        for word in following:
            scores = logits(parameters, torch.tensor([[tokens]]))[0, 0, -1]
            best = max((id_ for id_ in range(len(TOKENS)) if id_ not in (PAD, BOS)), key=lambda id_: scores[id_])
            assert TOKENS[best] == word
            tokens.append(best)
    assert [text["prompt"] for text in continuations(parameters, TOKENIZER)] == [
        prompt.replace("first", "<unk>") for prompt in PROMPTS
    ]


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
