"""The planes that a convolution through torch reads, and what joins those it returns: a kernel's work, or torch's.

A map from a feature to planes and its transpose: `split` before a convolution, `join` after it; the backward of one is
the other of the same form. They are called inside an autograd Function; where gradients are recorded there, which a
double backward asks for, torch does the work.
"""

import torch
from torch import Tensor

from ... import backend
from ...planar import is_channels_last, is_planes_last

PARTS, SUM, DIFFERENCE, BLOCK, TURNS = range(5)  # as csrc/ops.cpp has them
PLANES = "planes"  # a feature's layout beside contiguous (False) and channels-last (True): `planar.is_planes_last`

STORED = (*backend.FLOATS, torch.bfloat16, torch.float16)
OP = backend.op("conv_planes", cpu=STORED)
RELU = backend.op("conv_planes_relu", cpu=STORED)


def split(z: Tensor, form: int, last: bool) -> list[Tensor]:
    """Planes ``[N, C, H, W]`` of planar ``z``, dense, channels-last with ``last``; of BLOCK one, ``[N, 2C, H, W]``."""
    if form == BLOCK and (not last or is_channels_last(z)):
        return [z.flatten(1, 2)]
    if last and _has_kernel(z):
        return list(torch.ops.cvkernels.conv_planes_forward.default(_read_in_place(z), form))
    if form == BLOCK:
        return [dense(z.flatten(1, 2), last)]
    re, im = z.unbind(1)
    if form == PARTS:
        return [dense(re, last), dense(im, last)]
    return [dense(p, last) for p in ((re, im, re + im) if form == SUM else (re - im, -re - im, im))]


def turns(z: Tensor, last: bool) -> Tensor:
    """``[2N, C, H, W]``: of each sample the real part, then the imaginary one; channels-last with ``last``."""
    if last and not is_planes_last(z) and _has_kernel(z):
        return torch.ops.cvkernels.conv_planes_forward.default(_read_in_place(z), TURNS)[0]
    return dense(z.flatten(0, 1), True) if last else z.flatten(0, 1)


def from_turns(x: Tensor, layout: bool | str) -> Tensor:
    """The transpose of `turns`: ``[2N, C, H, W]`` in any strides to a feature, as it is where that is its layout."""
    if layout != PLANES and (layout or is_last(x)) and _has_kernel(x):
        return torch.ops.cvkernels.conv_planes_backward.default([dense(x, True)], TURNS, layout)
    z = dense(x, layout == PLANES).unflatten(0, (-1, 2))
    return _parted(dense(z.flatten(1, 2), True)) if layout is True else z


def join(planes: list[Tensor], form: int, last: bool) -> Tensor:
    """The transpose of `split`: planes in any strides to a feature, contiguous or (``last``) channels-last."""
    first = planes[0]
    if form == BLOCK and (last or first.is_contiguous()):
        return _parted(dense(first, last))
    # two transpositions in one pass where the planes are channels-last; torch adds contiguous ones as fast
    if (last or is_last(first)) and _has_kernel(first):
        return torch.ops.cvkernels.conv_planes_backward.default([dense(p, True) for p in planes], form, last)
    if form == BLOCK:
        return _parted(first.contiguous())
    if form == PARTS:
        re, im = planes
    elif form == SUM:
        re, im = planes[0] + planes[2], planes[1] + planes[2]
    else:
        re, im = planes[0] - planes[1], planes[2] - planes[0] - planes[1]
    z = torch.stack((re, im), 1)
    return _parted(dense(z.flatten(1, 2), last))


def joined_relu(
    planes: list[Tensor], scale: Tensor, residual: Tensor | None, form: int, last: bool, c: float
) -> Tensor:
    """magnitude_relu(join(planes) * scale + residual, c) in one pass; the residual in the layout of the result."""
    planes = [dense(p, True) for p in planes]
    return torch.ops.cvkernels.conv_planes_relu_forward.default(planes, scale, residual, form, last, c)


def _parted(x: Tensor) -> Tensor:
    """``[N, 2C, H, W]`` as planar."""
    return x.unflatten(1, (2, -1))


def _has_kernel(x: Tensor) -> bool:
    return backend.choose(OP, x) != "reference" and not torch.is_grad_enabled()


def dense(x: Tensor, last: bool) -> Tensor:
    """``[N, C, H, W]`` contiguous or channels-last."""
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def is_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _read_in_place(z: Tensor) -> Tensor:
    return z if is_channels_last(z) else z.contiguous()


if backend.compiled:

    @torch.library.register_fake("cvkernels::conv_planes_forward")
    def _(z, form):
        n, _, c, h, w = z.shape
        if form == TURNS:
            return z.new_empty(1, 2 * n, h, w, c).movedim(-1, 2)
        count, channels = (1, 2 * c) if form == BLOCK else (2 if form == PARTS else 3, c)
        return z.new_empty(count, n, h, w, channels).movedim(-1, 2)

    def _joined(grads, form, channels_last):
        n, c, h, w = grads[0].shape
        n, c = n // 2 if form == TURNS else n, c // 2 if form == BLOCK else c
        if channels_last:
            return grads[0].new_empty(n, h, w, 2, c).permute(0, 3, 4, 1, 2)
        return grads[0].new_empty(n, 2, c, h, w)

    torch.library.register_fake("cvkernels::conv_planes_backward")(_joined)

    @torch.library.register_fake("cvkernels::conv_planes_relu_forward")
    def _(planes, scale, residual, form, channels_last, c):
        return _joined(planes, form, channels_last)
