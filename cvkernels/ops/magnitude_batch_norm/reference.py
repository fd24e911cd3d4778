"""z / sqrt(E|z|^2 + eps), E per channel over batch and positions     (paper, Eq. 7)"""

import torch
from torch import Tensor

from ...planar import narrowed, widened
from ..common.power import scale


def magnitude_batch_norm(z, running_power, weight, batches, training, momentum, eps) -> Tensor:
    w = widened(z)
    factor = scale(z, running_power, weight, batches, training, momentum, eps).view(1, -1, *(1,) * (w.ndim - 2))
    # part by part: torch takes a real factor for a complex one, and inf times 0i is NaN
    return narrowed(torch.complex(w.real * factor, w.imag * factor), z)
