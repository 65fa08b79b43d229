"""Why a depth is as good as it is: overfitting, `<unk>`, the context's use, and the gradients that each layer gets."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from newllm.data.vocabulary import PAD, UNK
from newllm.model.definition import ModelShape, Parameters, initial_parameters
from newllm.model.gradients import losses_and_gradients
from newllm.model.scan import hidden_states, padded, pieces_for
from newllm.model.streams import random_stream
from newllm.training.evaluation import loss_and_accuracy

GRADIENT_WINDOWS = 2048  # a batch of the study
GRADIENT_PART = 256  # windows at a time: at depth 8 some 0.7 GiB a seed


def sample_windows(windows: Tensor, count: int) -> Tensor:
    """`count` of the windows [N, T + 1], or all if there are fewer, chosen at random and always the same."""
    order = torch.randperm(len(windows), generator=random_stream(0, "diagnostics", 0))
    return windows[order[:count]]


def window_groups(windows: Tensor) -> dict[str, Tensor]:
    """Which windows [N, T + 1] are compared by position, by the ending of the figures' names: booleans [N].

    Among all windows a later position is that of longer rows: padding ends the others. In full windows every position
    has the same rows, but the first positions of some are beginnings of rows.
    """
    full = windows[:, -1] != PAD
    return {"": torch.ones_like(full), "_full_windows": full}


def targets_by_position(windows: Tensor) -> dict[str, list[int]]:
    """How many targets of windows [N, T + 1] each of the T positions has, in each of `window_groups`."""
    counted = windows[:, 1:] != PAD
    return {
        f"targets_by_position{name}": counted[group].sum(0).tolist() for name, group in window_groups(windows).items()
    }


def overlapping(windows: Tensor, stride: int) -> Tensor:
    """Indices of the windows [N, T + 1] that begin `stride` tokens after the window before them, in the same row.

    A row's windows stand one after another, and the tokens that two have in common are the same; the first of a row
    begins with `<bos>`, which is nowhere within the one before. None if `stride` leaves no target to share.
    """
    if stride >= windows.shape[1] - 1:
        return torch.arange(0)
    same = (windows[:-1, stride:] == windows[1:, :-stride]).all(1)
    return 1 + same.nonzero()[:, 0]


def context_gains(losses: Tensor, windows: Tensor, stride: int) -> list[list[float]]:
    """What `stride` more tokens of context are worth for the prediction of the same tokens, in nats.

    Of two overlapping windows the target at a position of the later one is also that at the position `stride` further
    on in the earlier one, where the model has read `stride` tokens more.

    Args:
        losses: of every target [S, N, T].
        windows: ids [N, T + 1], in the order of the tokenize stage.
        stride: tokens between the starts of two windows of a row.

    Returns:
        For each seed, by the T - stride positions of the later windows that are in both: the loss there minus that with
        more context, mean over all pairs of `overlapping`; nothing if there is no pair.
    """
    pairs = overlapping(windows, stride).to(losses.device)
    if not len(pairs):
        return [[] for _ in losses]
    gains = losses[:, pairs, :-stride] - losses[:, pairs - 1, stride:]
    return [[float(gain) for gain in seed] for seed in gains.mean(1).tolist()]


def target_losses(
    parameters: Parameters, windows: Tensor, batch_size: int, dtype: torch.dtype, residual: bool = False
) -> Tensor:
    """Cross-entropy of every target, without dropout.

    Args:
        parameters: stacked parameters [S, ...].
        windows: ids [N, T + 1].
        batch_size: windows at a time.
        dtype: type of the matrix products.
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        Losses in nats [S, N, T]; 0 where the target is padding.
    """
    num_seeds = len(parameters["norm.weight"])
    losses = []
    with torch.no_grad():
        for batch in windows.split(batch_size):
            stacked = padded(batch[None], PAD, dtype).expand(num_seeds, -1, -1)
            hidden = hidden_states(parameters, stacked[:, :, :-1], dtype=dtype, residual=residual)
            losses.append(_head_losses(parameters, hidden, stacked[:, :, 1:])[:, : len(batch)])
    return torch.cat(losses, dim=1)


def _head_losses(parameters: Parameters, hidden: Tensor, targets: Tensor) -> Tensor:
    """Losses [S, B, T] from the last hidden layer [S, T, B, H] and targets [S, B, T]; `head` returns only sums."""
    pieces = pieces_for(hidden)
    bias = parameters["output.bias"]
    padding = -bias.shape[1] % pieces.ALIGNMENT  # columns that no target names and whose probability is 0
    weight = pad(parameters["output.weight"].to(hidden.dtype), (0, 0, 0, padding))
    bias = pad(bias, (0, padding), value=float("-inf"))
    losses = bias.new_empty(len(hidden), hidden.shape[1] * hidden.shape[2])
    for seed in range(len(hidden)):
        rows, ids = hidden[seed].flatten(0, 1), targets[seed].mT.flatten()
        for start in range(0, len(rows), pieces.CHUNK):
            part = slice(start, start + pieces.CHUNK)
            products = rows[part] @ weight[seed].mT
            losses[seed, part], _ = pieces.losses_and_hits(products, bias[seed], ids[part], PAD)
    return losses.view(hidden.shape[:3]).mT


def gradient_norms(parameters: Parameters, windows: Tensor, residual: bool = False) -> list[dict[str, float]]:
    """The norm of the gradient of the mean loss with respect to each weight, without dropout, in float32.

    Args:
        parameters: stacked parameters [S, ...].
        windows: one batch of ids [B, T + 1].
        residual: whether hidden layers from the second on add to the one before.

    Returns:
        For each seed norms by name, LayerNorm and biases left out.
    """
    num_seeds = len(parameters["norm.weight"])
    scale = (1 / (windows[:, 1:] != PAD).sum()).expand(num_seeds)
    names = [name for name in parameters if name.endswith(".weight") and name != "norm.weight"]
    sums = {name: torch.zeros_like(parameters[name]) for name in names}
    for part in windows.split(GRADIENT_PART):
        stacked = part[None].expand(num_seeds, -1, -1)
        _, gradients = losses_and_gradients(parameters, stacked, PAD, scale, residual=residual)
        for name in names:
            sums[name] += gradients[name]
    norms = {name: total.flatten(1).norm(dim=1).tolist() for name, total in sums.items()}
    return [{name: norms[name][seed] for name in names} for seed in range(num_seeds)]


def seed_diagnostics(
    shape: ModelShape,
    parameters: Parameters,
    seeds: Sequence[int],
    windows: tuple[Tensor, Tensor],
    stride: int,
    batch_size: int,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """All figures of each seed of a stack.

    Args:
        shape: the model's sizes.
        parameters: best parameters [S, ...].
        seeds: the S seeds that they were trained with.
        windows: a sample of the training windows [M, T + 1], and all validation windows [N, T + 1], in their order.
        stride: tokens between the starts of two windows of a row.
        batch_size: windows at a time.
        dtype: type of the matrix products for losses; gradients are computed in float32.

    Returns:
        For each seed losses in nats (the gap is that of the validation windows over the training windows; by position
        means over the position's targets, None where it has none), `context_gains` and norms of gradients. Without
        `<unk>` are means over the other targets; the model may predict `<unk>` there like anything else.
    """
    sample, validation = windows
    train_losses = loss_and_accuracy(parameters, sample, batch_size, dtype, shape.residual)[0].tolist()
    losses = target_losses(parameters, validation, batch_size, dtype, shape.residual).double()
    batch = sample[:GRADIENT_WINDOWS]
    initial = {name: value.to(batch.device) for name, value in initial_parameters(shape, seeds).items()}
    stages = {"initial": initial, "best": parameters}
    norms = {name: gradient_norms(values, batch, shape.residual) for name, values in stages.items()}
    targets = validation[:, 1:]
    counted = targets != PAD
    known = counted & (targets != UNK)
    groups = window_groups(validation)
    gains = context_gains(losses, validation, stride)
    figures = []
    for index, seed in enumerate(seeds):
        val_loss = (losses[index].sum() / counted.sum()).item()
        without_unk = (losses[index][known].sum() / known.sum()).item()
        by_position = {
            f"val_loss_by_position{name}": _means(losses[index][group], counted[group])
            for name, group in groups.items()
        }
        figures.append(
            {
                "seed": seed,
                "train_loss_without_dropout": train_losses[index],
                "val_loss": val_loss,
                "gap": val_loss - train_losses[index],
                "val_loss_without_unk": without_unk,
                "val_ppl_without_unk": math.exp(without_unk),
                **by_position,
                "context_gain_by_position": gains[index],
                "gradient_norms": {name: values[index] for name, values in norms.items()},
            }
        )
    return figures


def _means(losses: Tensor, counted: Tensor) -> list[float | None]:
    """Mean over windows at each position, of losses [N, T] that are 0 where they do not count."""
    sums, counts = losses.sum(0).tolist(), counted.sum(0).tolist()
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]
