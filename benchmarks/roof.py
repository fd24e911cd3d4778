"""What this machine can do at most, measured here: the copy that a streaming operation is set beside, and the rate at
which torch multiplies, in each precision."""

import functools
from collections.abc import Callable

import torch
from torch.nn import functional as real

from . import timing

# (N, C, H, W) of a 3x3 convolution, and the side of a matrix product: large enough to hide what starting them costs.
SIZES = {"cpu": ((8, 256, 56, 56), 2048), "cuda": ((32, 256, 56, 56), 8192)}


def copy(nbytes: float, device: torch.device) -> Callable:
    """Copies so many bytes between two buffers of its own: a read and a write, twice the bytes moved."""
    source = torch.zeros(int(nbytes) // 4, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype, tf32: bool, clock: str, quick: bool = False) -> float:
    """Real operations a second, the better of a channels-last 3x3 convolution and a matrix product.

    On a CPU the two come from different libraries, and the convolution can be twice as fast (AMD EPYC: 430 and 196
    GFLOP/s in float32 on two cores).
    """
    (n, c, h, w), side = ((2, 16, 8, 8), 64) if quick else SIZES[device.type]
    x = torch.randn(n, c, h, w, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(c, c, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    calls = {
        2 * 9 * n * c * c * h * w: lambda: real.conv2d(x, weight, padding=1),
        2 * side**3: lambda: a @ b,
    }
    with torch.no_grad():
        return max(
            flops / min(timing.sample(call, 1, device, clock) for _ in range(5)) * 1e3 for flops, call in calls.items()
        )
