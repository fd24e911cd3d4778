"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, leave, resized
from ..common.autograd import applied, fused
from .reference import magnitude_max_pool2d as reference
from .reference import output_size

OP = backend.op(
    "magnitude_max_pool2d",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)
NOTHING = 255  # the index byte of a window of padding only


def magnitude_max_pool2d(
    z: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    r"""Of each window the element of largest modulus, both parts, one index for both.        (paper, section 3)

    re² + im² is compared, in float32 or wider. The first in row-major order wins a tie, NaN wins over all.

    Args:
        z: features, planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``, any strides.
        kernel_size, stride, padding, dilation, ceil_mode: as torch's ``max_pool2d``; stride defaults to the kernel.
        return_indices: also return flat positions into H·W, ``[N, C, oH, oW]`` int64, as torch does (-1 where a
            dilated window holds padding only; the value there is 0).
    Returns:
        Tensor like ``z`` with ``[oH, oW]``, or (tensor, indices).
    Raises:
        TypeError: ``z`` not floating point.   ValueError: not 2-d, a padding over half the kernel.
        RuntimeError: an output of no size (torch's wording).
    """
    z, was_complex = enter(z, spatial=2)
    kernel = check.pair(kernel_size, "kernel_size")
    step = check.pair(kernel_size if stride is None else stride, "stride")
    pad, spread = check.pair(padding, "padding"), check.pair(dilation, "dilation")
    window = list(kernel), list(step), list(pad), list(spread)
    _check_window(z, *window, ceil_mode)
    chosen = backend.choose(OP, z)
    if chosen == "reference" or kernel[0] * kernel[1] > NOTHING:  # a byte of index ends there
        y, flat = reference(z, *window, ceil_mode)
    else:
        run = _MagnitudeMaxPool2d.apply if return_indices else applied(_MagnitudeMaxPool2d, z)
        y, index = run(dense(z), *window, ceil_mode, chosen)
        flat = _flat(index, z.shape[4], *window) if return_indices else index
    y = leave(y, was_complex)
    return (y, flat) if return_indices else y


def _check_window(z, kernel, step, pad, spread, ceil_mode):
    h, w = z.shape[3:]
    good = min(*kernel, *step, *spread) >= 1 and 0 <= pad[0] <= kernel[0] // 2 and 0 <= pad[1] <= kernel[1] // 2
    if good and min(z.shape[2:]) >= 1:
        oh = output_size(h, kernel[0], step[0], pad[0], spread[0], ceil_mode)
        if oh >= 1 and output_size(w, kernel[1], step[1], pad[1], spread[1], ceil_mode) >= 1:
            return  # every call passes here
    for name, values, least in (
        ("kernel_size", kernel, 1),
        ("stride", step, 1),
        ("padding", pad, 0),
        ("dilation", spread, 1),
    ):
        if min(values) < least:
            raise ValueError(f"`{name}` must be >= {least}, got {tuple(values)}")
    if pad[0] > kernel[0] // 2 or pad[1] > kernel[1] // 2:
        raise ValueError(f"`padding` must be at most half of kernel_size {tuple(kernel)}, got {tuple(pad)}")
    out = [output_size(*a, ceil_mode) for a in zip(z.shape[3:], kernel, step, pad, spread, strict=True)]
    c = z.shape[2]
    raise RuntimeError(
        f"Given input size: ({c}x{h}x{w}). Calculated output size: ({c}x{out[0]}x{out[1]}). Output size is too small"
    )


def _flat(index, W, kernel, step, pad, spread):
    """Window bytes to torch's flat positions."""
    k = index.long()
    oy = torch.arange(index.shape[2], device=index.device).view(-1, 1) * step[0] - pad[0]
    ox = torch.arange(index.shape[3], device=index.device) * step[1] - pad[1]
    flat = (oy + k // kernel[1] * spread[0]) * W + ox + k % kernel[1] * spread[1]
    return flat.masked_fill(k == NOTHING, -1)


@fused("magnitude_max_pool2d", takes=6)
class _MagnitudeMaxPool2d(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        z, *window, _, _ = inputs
        return output[1], list(z.shape[3:]), *window


if backend.compiled:

    @torch.library.register_fake("cvkernels::magnitude_max_pool2d_forward")
    def _(z, kernel_size, stride, padding, dilation, ceil_mode):
        window = zip(z.shape[3:], kernel_size, stride, padding, dilation, strict=True)
        size = [output_size(*a, ceil_mode) for a in window]
        return resized(z, size), z.new_empty((z.shape[0], z.shape[2], *size), dtype=torch.uint8)

    @torch.library.register_fake("cvkernels::magnitude_max_pool2d_backward")
    def _(grad, index, input_size, kernel_size, stride, padding, dilation):
        return resized(grad, input_size)
