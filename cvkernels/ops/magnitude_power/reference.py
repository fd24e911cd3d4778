"""sum of |z|^2 per channel, over batch and positions"""

import torch
from torch import Tensor


def magnitude_power(z) -> Tensor:
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return wide.square().sum((0, 1, *range(3, z.ndim)))
