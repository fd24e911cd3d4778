"""Of each window the element of largest modulus, both parts; first in row-major order wins a tie, NaN wins over all."""

import torch
from torch import Tensor

from ...planar import laid_out


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """torch's formula: with ``ceil_mode`` the last window still starts inside the input or its left padding."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


def magnitude_max_pool2d(z, kernel_size, stride, padding, dilation, ceil_mode) -> tuple[Tensor, Tensor]:
    """Planar out, and flat indices into H W ``[N, C, oH, oW]`` int64; -1 and 0 + 0i for a window of padding only."""
    H, W = z.shape[3:]
    sizes = [output_size(*a, ceil_mode) for a in zip((H, W), kernel_size, stride, padding, dilation, strict=True)]
    y, x = (
        (torch.arange(o, device=z.device) * s - p).view(-1, 1) + torch.arange(k, device=z.device) * d  # [o, k]
        for o, k, s, p, d in zip(sizes, kernel_size, stride, padding, dilation, strict=True)
    )
    inside = (((y >= 0) & (y < H))[:, None, :, None] & ((x >= 0) & (x < W))[None, :, None, :]).flatten(2)
    flat = (y.clamp(0, max(H - 1, 0))[:, None, :, None] * W + x.clamp(0, max(W - 1, 0))[None, :, None, :]).flatten(2)
    planes = z.flatten(3)
    wide = planes.detach().to(torch.promote_types(z.dtype, torch.float32))
    power = wide.square().sum(1)[..., flat].masked_fill(~inside, -1)  # [N, C, oH, oW, kH kW]
    best = power.argmax(-1, keepdim=True)  # argmax: the first of equals, and NaN above all
    index = flat.expand(power.shape).gather(-1, best).squeeze(-1)
    some = inside.any(-1).expand(index.shape)
    out = planes.gather(3, index.flatten(2).unsqueeze(1).expand(-1, 2, -1, -1)).unflatten(3, sizes)
    return laid_out(out.masked_fill(~some.unsqueeze(1), 0), z), index.masked_fill(~some, -1)
