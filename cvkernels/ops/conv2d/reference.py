"""w * z without a bias, w complex or real; zero padding     (paper, section 3)"""

import torch
from torch import Tensor
from torch.nn import functional as real

from ...planar import narrowed, widened


def conv2d(z: Tensor, weight_re: Tensor, weight_im: Tensor | None, stride, padding, dilation, groups) -> Tensor:
    w = widened(z)
    kernel = torch.complex(*(p.to(w.real.dtype) for p in (weight_re, weight_im))) if weight_im is not None else None
    if kernel is not None:
        return narrowed(real.conv2d(w, kernel, None, stride, padding, dilation, groups), z)
    parts = (real.conv2d(p, weight_re.to(p.dtype), None, stride, padding, dilation, groups) for p in (w.real, w.imag))
    return narrowed(torch.complex(*parts), z)
