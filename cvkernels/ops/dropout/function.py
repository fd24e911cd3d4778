"""Dropout with one mask for both parts, or the phase would not survive."""

import torch
from torch import Tensor
from torch.nn import functional as real

from ...planar import enter, laid_out, leave


def dropout(z: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each complex element with probability ``p``, scale the rest by 1 / (1 - p); one mask for both parts.

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``.
        p: probability in [0, 1].
        training: False returns ``z``.
    Returns:
        Tensor like ``z``. The mask comes from torch's generator; differentiable twice.
    """
    return _masked(z, p, training, lambda z: (z.shape[0], 1, *z.shape[2:]))


def dropout2d(z: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero whole complex channels with probability ``p``, scale the rest by 1 / (1 - p). As `dropout` otherwise."""
    return _masked(z, p, training, lambda z: (z.shape[0], 1, z.shape[2], *(1,) * (z.ndim - 3)))


def _masked(z, p, training, shape):
    if not 0 <= p <= 1:
        raise ValueError(f"`p` must lie in [0, 1], got {p}")
    z, was_complex = enter(z)
    if training and p:
        mask = real.dropout(torch.ones(shape(z), dtype=z.dtype, device=z.device), p, True)
        z = laid_out(z * mask, z)
    return leave(z, was_complex)
