"""z e^{i theta}"""

import torch
from torch import Tensor

from ...planar import narrowed, widened


def rotate_phase(z: Tensor, theta: Tensor) -> Tensor:
    w = widened(z)
    t = theta.to(torch.promote_types(theta.dtype, z.dtype))
    return narrowed(w * torch.polar(torch.ones_like(t), t).to(w.dtype).view(-1, *(1,) * (w.ndim - 1)), z)
