"""Words a second that a full-size model writes on one CPU thread: python -m benchmarks.generation.

Beside `newllm generate`, which computes one step a word, the plain way: the whole text anew for each word. Seconds are
of the process's own CPU time, so that what else the machine does counts little.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from newllm.data.vocabulary import BOS, EOS
from newllm.model.definition import ModelShape, Parameters, initial_parameters, logits
from newllm.usage.generation import Sampling, continuations, text_stream
from newllm.usage.recurrence import Recurrence

SECONDS = 1.0  # to measure each case, at least


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-layers", type=int, default=3)
    depth = parser.parse_args().num_layers
    torch.set_num_threads(1)
    parameters = initial_parameters(ModelShape(1000, 256, 256, 512, depth), [0])
    parameters["output.bias"][0, EOS] = -1e4  # so that a text is as long as asked for
    model = Recurrence(parameters)
    print(f"depth {depth}, one thread, torch {torch.__version__}\n\n| words | one step a word | anew for each word |")
    print("|---|---|---|")
    for words in (25, 100, 200):
        steps, plain = rate(partial(by_steps, model), words), rate(partial(anew, parameters), words)
        print(f"| {words} | {steps:,.0f} | {plain:,.0f} |")
    many = 64 * rate(partial(by_steps, model, num_texts=64), 100)
    print(f"\n64 texts of 100 words beside one another: {many:,.0f}")


def by_steps(model: Recurrence, words: int, num_texts: int = 1) -> list[list[int | None]]:
    """The words [words, texts] of new texts, one step a word."""
    streams = [text_stream(0, number) for number in range(num_texts)]
    return list(continuations(model, [[BOS]] * num_texts, Sampling(), words, streams))


def anew(parameters: Parameters, words: int) -> list[int]:
    """The words of the first of these texts by the definition, the whole text anew for each word."""
    text, stream = [BOS], text_stream(0, 0)
    with torch.no_grad():
        for _ in range(words):
            last = logits(parameters, torch.tensor([[text]]))[0, :, -1]
            uniform = torch.rand(1, generator=stream, dtype=torch.float64)
            text.append(int(Sampling().choose(last, uniform)))
    return text[1:]


def rate(write: Callable[[int], object], words: int) -> float:
    """Words a second of one text; short ones are written first and not counted."""
    write(5)
    times: list[float] = []
    while sum(times) < SECONDS:
        start = time.process_time()
        write(words)
        times.append(time.process_time() - start)
    return words / min(times)


if __name__ == "__main__":
    main()
