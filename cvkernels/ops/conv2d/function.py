"""The public function: a complex convolution as one of torch's own real ones on a planar view."""

import torch
from torch import Tensor
from torch.nn import functional as real

from ... import backend
from ...planar import enter, is_channels_last, laid_out, leave
from ..common.weight import block, parts
from .reference import conv2d as reference

OP = backend.op("conv2d")


def conv2d(z: Tensor, weight, stride=1, padding=0, dilation=1, groups: int = 1) -> Tensor:
    r"""w * z: a complex convolution without a bias, which would break the rotation law.        (paper, section 3)

    Complex weights are one real convolution with the block weight [[A, -B], [B, A]] on ``[N, 2C, H, W]``; real weights
    one on ``[2N, C, H, W]`` (channels-last: two groups on ``[N, 2C, H, W]``). Differentiable twice.

    Args:
        z: features, planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``; complex ones are copied to planar once.
        weight: real ``[O, C/groups, kH, kW]``, or complex as a pair of such, stacked ``[2, O, C/groups, kH, kW]``, or
            a complex tensor.
        stride, padding, dilation, groups: as torch's ``conv2d``; zero padding.
    Returns:
        Tensor like ``z`` with O channels.
    Raises:
        TypeError, ValueError: ``z`` and ``weight`` of different dtype or device, or shapes that do not fit.
    """
    z, was_complex = enter(z, spatial=2)
    a, b = parts(weight, z, dims=4)
    if groups < 1 or z.shape[2] != a.shape[1] * groups or a.shape[0] % groups:
        raise ValueError(
            f"`weight` {list(a.shape)} with groups={groups} must take {a.shape[1] * groups} channels and give a "
            f"multiple of {groups}, got `z` {list(z.shape)}"
        )
    rest = (stride, padding, dilation)
    if backend.forced() == "reference":
        y = reference(z, a, b, *rest, groups)
    elif b is not None and groups == 1:
        y = real.conv2d(_flat(z), block(a, b), None, *rest).unflatten(1, (2, -1))
    elif b is not None:
        y = _grouped(z, a, b, rest, groups)
    elif is_channels_last(z):
        y = real.conv2d(_flat(z), torch.cat((a, a)), None, *rest, 2 * groups).unflatten(1, (2, -1))
    else:
        y = real.conv2d(z.flatten(0, 1), a, None, *rest, groups).unflatten(0, (-1, 2))
    return leave(laid_out(y, z), was_complex)


def _flat(z: Tensor) -> Tensor:
    """``[N, 2C, H, W]``: a view of contiguous and of channels-last features."""
    return z.flatten(1, 2)


def _grouped(z, a, b, rest, groups):
    """A and B stacked per group, one convolution on ``[2N, C]``, then one combining pass."""
    o = a.shape[0] // groups
    both = torch.stack((a.unflatten(0, (groups, o)), b.unflatten(0, (groups, o))), 1).flatten(0, 2)
    y = real.conv2d(z.flatten(0, 1), both, None, *rest, groups)
    y = y.unflatten(0, (-1, 2)).unflatten(2, (groups, 2, o))  # [N, part of z, g, part of w, o, H, W]
    re = y[:, 0, :, 0] - y[:, 1, :, 1]
    im = y[:, 0, :, 1] + y[:, 1, :, 0]
    return torch.stack((re, im), 1).flatten(2, 3)
