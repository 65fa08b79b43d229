"""Adam's update in one Triton kernel on CUDA: a dozen operations, each over all parameters, become one."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _adam_kernel(
    flat, first, second, gradient, factor, applies, rate, correction,
    count, BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    seed = tl.program_id(1)
    if tl.load(applies + seed):
        index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = index < count
        place = seed.to(tl.int64) * count + index
        value = tl.load(gradient + place, mask=inside) * tl.load(factor + seed)
        mean = tl.load(first + place, mask=inside)
        square = tl.load(second + place, mask=inside)
        mean += (value - mean) * (1 - BETA_1)
        square += (value * value - square) * (1 - BETA_2)
        tl.store(first + place, mean, mask=inside)
        tl.store(second + place, square, mask=inside)
        step = mean / (tl.sqrt(square / tl.load(correction + seed)) + EPS) * tl.load(rate + seed)
        tl.store(flat + place, tl.load(flat + place, mask=inside) - step, mask=inside)


def update(
    flat: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    factor: Tensor,
    applies: Tensor,
    rate: Tensor,
    correction: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One step of Adam in place; rows that do not apply stay as they are.

    Args:
        flat: parameters [S, P], contiguous like `first`, `second` and `gradient`.
        first: running mean of the gradients [S, P].
        second: running mean of their squares [S, P].
        gradient: [S, P].
        factor: of each row's gradient [S].
        applies: whether a row is updated [S], boolean.
        rate: learning rate over the first mean's bias correction [S].
        correction: the second mean's bias correction [S].
        betas: decay rates of the two means.
        eps: added to the denominator.
    """
    count = flat.shape[1]
    _adam_kernel[(triton.cdiv(count, BLOCK), len(flat))](
        flat, first, second, gradient, factor, applies, rate, correction,
        count, BETA_1=betas[0], BETA_2=betas[1], EPS=eps, BLOCK=BLOCK,
    )  # fmt: skip
