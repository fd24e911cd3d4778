"""y = z |z| / max(|z|, c)     (paper, Eq. 6)"""

import torch
from torch import Tensor

from ...planar import narrowed, widened

# What a mean modulus runs over, of [N, C, *]; a flat [N, C] has no positions, so there it is the mean of the features.
REDUCTIONS = {"channel_mean": 1, "batch_channel_mean": 2, "mean": 3}


def axes(c: str, ndim: int) -> tuple[int, ...]:
    positions = tuple(range(2, ndim))
    return {
        "channel_mean": positions or (1,),
        "batch_channel_mean": (0, *positions),
        "mean": tuple(range(ndim)),
    }[c]


def magnitude_relu(z: Tensor, c: float | str = 1.0, detach_modulus: bool = False) -> Tensor:
    w = widened(z)
    still = w.detach() if detach_modulus else w
    # `new_full`, not `new_tensor`, which copies from the host: a CUDA graph records no such copy
    limit = w.real.new_full((), c) if not isinstance(c, str) else _mean(still.abs(), c)
    # `where`, not `clamp`: at |z| = c the gradient is the identity's, and an overflowing square passes z itself
    outside = ~(w.real.square() + w.imag.square() < limit * limit)
    inner = torch.where(outside, 0, still)
    return narrowed(torch.where(outside, w, torch.where(outside, 0, w) * (inner.abs() / limit)), z)


def _mean(modulus: Tensor, c: str) -> Tensor:
    mean = modulus.mean(axes(c, modulus.ndim), keepdim=True)
    return torch.where(mean == 0, 1, mean)  # a group of zeros: value and gradient 0, as at any zero
