"""W z without a bias     (paper, section 3; the report's finding that linear layers need it too)"""

import torch
from torch import Tensor
from torch.nn import functional as real

from ...planar import narrowed, widened


def linear(z: Tensor, weight_re: Tensor, weight_im: Tensor | None) -> Tensor:
    w = widened(z)
    im = torch.zeros_like(weight_re) if weight_im is None else weight_im
    return narrowed(real.linear(w, torch.complex(weight_re.to(w.real.dtype), im.to(w.real.dtype))), z)
