"""z e^{i theta}"""

import torch
from torch import Tensor

from ...planar import narrowed, widened


def rotate_phase(z: Tensor, theta: Tensor) -> Tensor:
    w = widened(z)
    return narrowed(w * torch.polar(torch.ones_like(theta), theta).to(w.dtype).view(-1, *(1,) * (w.ndim - 1)), z)
