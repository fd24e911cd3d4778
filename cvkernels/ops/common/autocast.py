"""Autocast for operations that torch's own rules do not reach: which dtype they compute in."""

import torch
from torch import Tensor


def active(z: Tensor) -> bool:
    """Whether autocast is on where ``z`` is; the meta device has none and refuses the question."""
    return z.device.type != "meta" and torch.is_autocast_enabled(z.device.type)


def lowered(z: Tensor, was_complex: bool) -> Tensor:
    """``z`` as torch's convolution and linear map take it: in autocast's dtype unless it is float64. A complex feature
    stays as it is: autocast leaves complex tensors alone, and there is no complex half precision to return.
    """
    if was_complex or z.dtype == torch.float64 or not active(z):
        return z
    return z.to(torch.get_autocast_dtype(z.device.type))


def matched(residual: Tensor, z: Tensor) -> Tensor:
    """What is added to ``z``, in its dtype under autocast: a norm keeps the dtype of its input, and beside the half
    precision of a convolution stands the float32 that a network was given.
    """
    return residual.to(z.dtype) if residual.dtype != z.dtype and active(z) else residual
