"""v = z / sqrt(E|z|^2 + eps) + residual;  y = v |v| / max(|v|, c)     (paper, Eq. 7, then Eq. 6)"""

import torch
from torch import Tensor

from ...planar import narrowed, widened
from ..common.power import scale


def batch_norm_relu(z, running_power, weight, residual, batches, training, momentum, eps, c) -> Tensor:
    w = widened(z)
    factor = scale(z, running_power, weight, batches, training, momentum, eps).view(1, -1, *(1,) * (w.ndim - 2))
    v = torch.complex(w.real * factor, w.imag * factor)  # part by part: as a complex factor, inf times 0i is NaN
    if residual is not None:
        v = v + widened(residual)
    outside = ~(v.real.square() + v.imag.square() < c * c)
    inner = torch.where(outside, 0, v)
    return narrowed(torch.where(outside, v, inner * (inner.abs() / c)), z)
