"""Texts that a model writes, a word at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newllm.data.vocabulary import BOS, EOS, PAD, UNK
from newllm.model.streams import random_stream
from newllm.usage.recurrence import Recurrence


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0: always the most probable token.
        top_k: only so many of the most probable tokens; 0: all.
        top_p: only the most probable tokens that together reach this probability (Holtzman et al., The curious case of
            neural text degeneration, 2020); 1: all.
        unknown: whether `<unk>` may be chosen.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    unknown: bool = True

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Chooses a token for each text; `<pad>` and `<bos>` never.

        Args:
            logits: [B, V].
            uniform: random numbers in [0, 1), one a text [B]; the same number gives the same token.

        Returns:
            Ids [B].
        """
        never = [PAD, BOS] if self.unknown else [PAD, BOS, UNK]
        excluded = torch.tensor(never)
        logits = logits.double().index_fill(-1, excluded, -torch.inf)
        if self.temperature == 0:
            return logits.argmax(-1)
        scaled = (logits - logits.amax(-1, keepdim=True)) / self.temperature  # never beyond 0, however cold
        ordered, ids = scaled.index_fill(-1, excluded, -torch.inf).sort(stable=True, dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        if self.top_k:
            probabilities[:, self.top_k :] = 0
            probabilities /= probabilities.sum(-1, keepdim=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[:, 1:][before[:, 1:] >= self.top_p] = 0  # the token that reaches top_p stays, so one always does
        cumulated = probabilities.cumsum(-1)
        place = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)
        last = (probabilities > 0).sum(-1, keepdim=True) - 1  # should a number close to 1 round up to it
        chosen: Tensor = ids.gather(-1, place.minimum(last))[:, 0]
        return chosen


def continuations(
    model: Recurrence,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_tokens: int,
    streams: Sequence[torch.Generator],
) -> Iterator[list[int | None]]:
    """Continues texts beside one another, one step of the model a word.

    Args:
        model: the model.
        prompts: ids of each text's beginning, `<bos>` included: at least one.
        sampling: how the next token is chosen.
        max_tokens: the longest that a continuation becomes.
        streams: a random stream for each text, so that it does not depend on those beside it.

    Yields:
        The next token of each text; None for one that has ended. It ends before `<eos>`.
    """
    contexts, logits = read_prompts(model, prompts)
    going = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(max_tokens):
        uniform = torch.cat([torch.rand(1, generator=stream, dtype=torch.float64) for stream in streams])
        tokens = sampling.choose(logits, uniform)
        going &= tokens != EOS
        if not going.any():
            return
        yield [token if goes else None for token, goes in zip(tokens.tolist(), going.tolist(), strict=True)]
        logits, contexts = model.step(contexts, tokens)


def read_prompts(model: Recurrence, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The context [B, C] after each prompt, and the logits [B, V] of what follows it."""
    contexts, logits = [], []
    for prompt in prompts:
        context = model.start(1)
        for token in prompt:
            last, context = model.step(context, torch.tensor([token]))
        contexts.append(context)
        logits.append(last)
    return torch.cat(contexts), torch.cat(logits)


def text_stream(seed: int, number: int) -> torch.Generator:
    """The random stream of the text with this number among those of a seed."""
    return random_stream(seed, "text", number)
