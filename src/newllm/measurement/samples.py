"""What a trained model writes after a few words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer
from torch import Tensor

from newllm.data.vocabulary import BOS, EOS, PAD
from newllm.model.definition import Parameters, logits
from newllm.model.streams import random_stream

PROMPTS = ("he was born", "the song was", "in the first", "it is a")  # equally long, to be continued together
NEW_TOKENS = 25


def continuations(parameters: Parameters, tokenizer: Tokenizer, residual: bool = False) -> list[dict[str, str]]:
    """What the model of one seed writes after the beginning of a row, by the definition and without dropout.

    Args:
        parameters: parameters [1, ...] in float32 on the CPU, so that the random stream is the same everywhere.
        tokenizer: of the model, which begins each prompt with `<bos>`.
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        For each prompt the words as the model reads them, its most probable next tokens one after another, and tokens
        drawn at temperature 1 by a fixed random stream. A text is of `NEW_TOKENS` tokens or ends with `<eos>`.
    """
    tokens = torch.tensor([tokenizer.encode(prompt).ids for prompt in PROMPTS])
    length = tokens.shape[1]
    streams = (None, random_stream(0, "samples", 0))
    greedy, sampled = (_continued(parameters, tokens, stream, residual) for stream in streams)
    return [
        {
            "prompt": _text(tokenizer, prompt[1:]),
            "greedy": _text(tokenizer, best[length:]),
            "sampled": _text(tokenizer, drawn[length:]),
        }
        for prompt, best, drawn in zip(tokens.tolist(), greedy.tolist(), sampled.tolist(), strict=True)
    ]


def _continued(parameters: Parameters, tokens: Tensor, stream: torch.Generator | None, residual: bool) -> Tensor:
    """Tokens [B, T] with `NEW_TOKENS` more: the most probable, or, given a stream, drawn."""
    with torch.no_grad(), _one_thread():
        for _ in range(NEW_TOKENS):
            # all positions again each time: they are few
            last = logits(parameters, tokens[None], residual=residual)[0, :, -1]
            last[:, [PAD, BOS]] = float("-inf")
            if stream is None:
                following = last.argmax(-1, keepdim=True)
            else:
                following = torch.multinomial(last.softmax(-1), 1, generator=stream)
            tokens = torch.cat([tokens, following], dim=1)
    return tokens


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small gain nothing from more, and threads that wait for each other cost five times as much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    end = ids.index(EOS) + 1 if EOS in ids else len(ids)
    return tokenizer.decode(ids[:end], skip_special_tokens=False)
