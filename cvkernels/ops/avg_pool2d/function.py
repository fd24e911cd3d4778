"""Average pooling is linear in both parts: torch's own on a planar view, and on a CPU a kernel of ours."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as real

from ... import backend
from ...planar import dense, enter, is_channels_last, laid_out, leave, resized
from ..common.autograd import applied, fused

# torch's kernel on a CPU goes from element to element: 2x2 takes 3 to 6 times as long (Intel Xeon, AVX-512)
OP = backend.op("avg_pool2d", cpu=(*backend.FLOATS, torch.bfloat16), otherwise="torch")
ADAPTIVE = backend.op("adaptive_avg_pool2d", cpu=(*backend.FLOATS, torch.bfloat16), otherwise="torch")


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
    stride = kernel_size if stride is None else stride
    if _ours(OP, z):
        window = _pair(kernel_size), _pair(stride), _pair(padding), ceil_mode, count_include_pad, divisor_override or 0
        if _fits(z, *window[:3], divisor_override):
            return leave(applied(_AvgPool2d, z)(dense(z), *window, "cpu"), was_complex)
    y = _torchs(z, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
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
    if _ours(ADAPTIVE, z):
        size = [output_size, output_size] if type(output_size) is int else _sides(output_size, z.shape[3:])
        if len(size) == 2 and type(size[0]) is type(size[1]) is int and min(size) > 0:
            return leave(applied(_AdaptiveAvgPool2d, z)(dense(z), size, "cpu"), was_complex)
    y = real.adaptive_avg_pool2d(z.flatten(1, 2), output_size).unflatten(1, (2, -1))
    return leave(laid_out(y, z), was_complex)


def _ours(op, z: Tensor) -> bool:
    """Whether the kernel may run. Where torch.compile, functorch or forward mode look inside, torch's own is what they
    know: the compiler fuses it with what stands around it."""
    if backend.choose(op, z) != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return forward_ad._current_level < 0 and z.numel() > 0


def _pair(x) -> list:
    if isinstance(x, int):
        return [x, x]
    return [*x] * (2 if len(x) == 1 else 1) if isinstance(x, (tuple, list)) else []  # torch's own says what it is


def _fits(z, kernel, stride, padding, divisor) -> bool:
    """What torch's own takes; the rest is for it to refuse."""
    if divisor is not None and (type(divisor) is not int or divisor == 0):
        return False
    for size, *axis in zip(z.shape[3:], kernel, stride, padding, strict=False):
        if any(type(x) is not int for x in axis):
            return False
        k, s, p = axis
        if k < 1 or s < 1 or not 0 <= 2 * p <= k or size + 2 * p < k:
            return False
    return len(kernel) == len(stride) == len(padding) == 2


def _sides(output_size, own) -> list:
    sides = [None, None] if output_size is None else list(output_size)
    if len(sides) != 2:
        return sides
    return [now if side is None else side for side, now in zip(sides, own, strict=True)]


def _torchs(z, *window):
    return real.avg_pool2d(z.flatten(1, 2), *window).unflatten(1, (2, -1))


@fused("avg_pool2d", takes=7)
class _AvgPool2d(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        z, kernel, stride, padding, _, count_padding, divisor, _ = inputs
        return list(z.shape[3:]), kernel, stride, padding, count_padding, divisor, is_channels_last(z)

    @staticmethod
    def again(grad, size, kernel, stride, padding, count_padding, divisor, last):
        like = grad.new_empty(*grad.shape[:3], *size).flatten(1, 2)
        floor = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
        ceil_mode = list(grad.shape[3:]) != floor
        back = torch.ops.aten.avg_pool2d_backward.default
        flat = back(grad.flatten(1, 2), like, kernel, stride, padding, ceil_mode, count_padding, divisor or None)
        return (flat.unflatten(1, (2, -1)),)


@fused("adaptive_avg_pool2d", takes=2)
class _AdaptiveAvgPool2d(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        z = inputs[0]
        return list(z.shape[3:]), is_channels_last(z)

    @staticmethod
    def again(grad, size, last):
        like = grad.new_empty(*grad.shape[:3], *size).flatten(1, 2)
        flat = torch.ops.aten._adaptive_avg_pool2d_backward.default(grad.flatten(1, 2), like)
        return (flat.unflatten(1, (2, -1)),)


if backend.compiled:

    @torch.library.register_fake("cvkernels::avg_pool2d_forward")
    def _(z, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
        like = z.new_empty(z.shape[0], 1, *z.shape[3:], device="meta")
        size = real.avg_pool2d(like, kernel_size, stride, padding, ceil_mode).shape[2:]
        return resized(z, size)

    @torch.library.register_fake("cvkernels::avg_pool2d_backward")
    def _(grad, input_size, kernel_size, stride, padding, count_include_pad, divisor, channels_last):
        return resized(grad, input_size, channels_last)

    @torch.library.register_fake("cvkernels::adaptive_avg_pool2d_forward")
    def _(z, output_size):
        return resized(z, output_size)

    @torch.library.register_fake("cvkernels::adaptive_avg_pool2d_backward")
    def _(grad, input_size, channels_last):
        return resized(grad, input_size, channels_last)
