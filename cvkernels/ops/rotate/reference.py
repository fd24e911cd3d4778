"""x = (a + ib) e^{i theta}     (paper, Eq. 2)"""

import torch
from torch import Tensor

from ...planar import laid_out


def rotate(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    t = theta.to(torch.promote_types(theta.dtype, wide)).view(-1, *(1,) * (a.ndim - 1))
    cos, sin = t.cos().to(wide), t.sin().to(wide)
    x = torch.stack((a.to(wide) * cos - b.to(wide) * sin, a.to(wide) * sin + b.to(wide) * cos), 1).to(a.dtype)
    # channels-last in, planar channels-last out
    last = a.ndim == 4 and not a.is_contiguous() and a.is_contiguous(memory_format=torch.channels_last)
    return x.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) if last else laid_out(x, x)
