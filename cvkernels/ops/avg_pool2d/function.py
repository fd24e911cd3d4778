"""Average pooling is linear: torch's own, on a planar view."""

from torch import Tensor
from torch.nn import functional as real

from ...planar import enter, laid_out, leave


def avg_pool2d(
    z: Tensor, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> Tensor:
    """Mean of each window, of both parts. Arguments and errors as torch's ``avg_pool2d``; differentiable twice.

    Args:
        z: features, planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``.
    Returns:
        Tensor like ``z`` with ``[oH, oW]``.
    """
    z, was_complex = enter(z, spatial=2)
    y = real.avg_pool2d(
        z.flatten(1, 2), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    ).unflatten(1, (2, -1))
    return leave(laid_out(y, z), was_complex)


def adaptive_avg_pool2d(z: Tensor, output_size) -> Tensor:
    """Mean over windows that make the given output size, of both parts; as torch's ``adaptive_avg_pool2d``.

    Args:
        z: features, planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``.
        output_size: an int or a pair; None keeps that side.
    Returns:
        Tensor like ``z`` with ``[oH, oW]``.
    """
    z, was_complex = enter(z, spatial=2)
    y = real.adaptive_avg_pool2d(z.flatten(1, 2), output_size).unflatten(1, (2, -1))
    return leave(laid_out(y, z), was_complex)
