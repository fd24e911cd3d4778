"""v = z / sqrt(E|z|^2 + eps) + residual;  y = v |v| / max(|v|, c)     (paper, Eq. 7, then Eq. 6)"""

import torch
from torch import Tensor

from ...planar import narrowed, widened
from ..common.power import scale


def batch_norm_relu(z, running_power, weight, residual, batches, training, momentum, eps, c) -> Tensor:
    w = widened(z)
    factor = scale(z, running_power, weight, batches, training, momentum, eps).view(1, -1, *(1,) * (w.ndim - 2))
    re, im = w.real * factor, w.imag * factor  # part by part: torch's complex product and sum make NaN of inf
    if residual is not None:
        r = widened(residual)
        re, im = re + r.real, im + r.imag
    v = torch.complex(re, im)
    outside = ~(v.real.square() + v.imag.square() < c * c)
    inner = torch.where(outside, 0, v)
    return narrowed(torch.where(outside, v, inner * (inner.abs() / c)), z)
