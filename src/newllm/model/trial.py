"""A kernel that does next to nothing, to find out whether Triton can compile, load and launch one."""

import torch
import triton
import triton.language as tl


@triton.jit
def _trial_kernel(place):
    tl.store(place, 1)


def launch(device: torch.device) -> None:
    """Launches it and waits for the device; raises whatever keeps Triton from it."""
    with torch.cuda.device(device):
        place = torch.zeros(1, dtype=torch.int32, device=device)
        _trial_kernel[(1,)](place)
        place.item()
