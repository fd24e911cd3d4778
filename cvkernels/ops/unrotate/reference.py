"""Re(h e^{-i theta})     (paper, Eq. 3); theta [N] -> [N, C, *], theta [N, K] -> [N, K, C, *]"""

import torch
from torch import Tensor

from ...planar import is_channels_last, widened


def unrotate(h: Tensor, theta: Tensor) -> Tensor:
    w = widened(h)
    t = theta.to(torch.promote_types(theta.dtype, h.dtype))
    turn = torch.polar(torch.ones_like(t), -t).to(w.dtype)
    w = w.unsqueeze(1) if theta.ndim == 2 else w
    out = (w * turn.view(*theta.shape, *(1,) * (w.ndim - theta.ndim))).real.to(h.dtype)
    if is_channels_last(h):  # [N, C, H, W] and each of K comes out channels-last too
        return out.movedim(theta.ndim, -1).contiguous().movedim(-1, theta.ndim)
    return out.contiguous()
