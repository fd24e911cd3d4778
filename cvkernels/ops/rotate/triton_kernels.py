"""rotate in Triton: two real features read, one complex one written; a small launch adds up the angles' gradients."""

import math

import torch
import triton
import triton.language as tl

from ...planar import is_channels_last
from ..common.angle.triton_kernels import angle_gradient, angle_partial, turn
from ..common.triton_kernels import OPTIONS, Tiles, load_parts, load_real, register, store_parts, store_sums, tile_place


@triton.jit
def rotate_forward_kernel(
    a, b, theta, out, real_row, real_sample, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    cos, sin = turn(theta, n)
    real, inside = tile_place(tile, n, rows, columns, real_row, real_sample, ROWS, COLUMNS, LAST, False)
    re, im = load_real(a, real, inside), load_real(b, real, inside)
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    store_parts(out, at, inside, part, re * cos - im * sin, re * sin + im * cos, PAIRS)


@triton.jit
def rotate_backward_kernel(
    grad, out, theta, grad_a, grad_b, partial, real_row, real_sample,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Parts of g e^{-i theta}; share ``tile`` of ``partial``: sums of Im(conj(x) g), dL/dtheta of what came out, x."""
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    cos, sin = turn(theta, n)
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
    if partial is not None:
        x_re, x_im = load_parts(out, at, inside, part, PAIRS)
        store_sums(partial, tile, n, channels, tiles, x_re * g_im - x_im * g_re, LAST)
    real, inside = tile_place(tile, n, rows, columns, real_row, real_sample, ROWS, COLUMNS, LAST, False)
    tl.store(grad_a + real, (g_re * cos + g_im * sin).to(grad_a.dtype.element_ty), mask=inside)
    tl.store(grad_b + real, (g_im * cos - g_re * sin).to(grad_b.dtype.element_ty), mask=inside)


def rotate_forward(a, b, theta):
    """The registered operator. a and b contiguous or channels-last, both alike; theta ``[N]`` contiguous."""
    out = _fake_forward(a, b, theta)
    if out.numel():
        t = Tiles.of_samples(out)
        with torch.cuda.device_of(a):
            rotate_forward_kernel[(t.tiles * t.blocks,)](a, b, theta, out, *_real(out), **t.arguments(), **OPTIONS)
    return out


def rotate_backward(grad, out, theta):
    """The registered operator: gradients of a, b and, with ``out``, of theta. grad contiguous or channels-last."""
    t = Tiles.of_samples(grad)
    partial = angle_partial(theta, t.tiles, out is not None)
    grad_a, grad_b, _ = _fake_backward(grad, None, theta)
    if not grad.numel():
        return grad_a, grad_b, angle_gradient(theta, None, out is not None)
    with torch.cuda.device_of(grad):
        rotate_backward_kernel[(t.tiles * t.blocks,)](
            grad, out, theta, grad_a, grad_b, partial, *_real(grad), **t.arguments(), **OPTIONS
        )
        return grad_a, grad_b, angle_gradient(theta, partial, out is not None)


def _real(z) -> tuple[int, int]:
    """Strides of a row and of a sample in a real feature that has the layout of planar ``z``."""
    c, s = z.shape[2], math.prod(z.shape[3:])
    return c if is_channels_last(z) else 0, c * s


def _fake_forward(a, b, theta):
    if not a.is_contiguous():
        n, c, h, w = a.shape
        return a.new_empty(n, h, w, 2, c).permute(0, 3, 4, 1, 2)
    return a.new_empty(a.shape[0], 2, *a.shape[1:])


def _fake_backward(grad, out, theta):
    part = grad.new_empty(grad.shape[0], *grad.shape[2:])
    if is_channels_last(grad):
        n, c, h, w = part.shape
        part = grad.new_empty(n, h, w, c).permute(0, 3, 1, 2)
    return part, torch.empty_like(part), torch.empty_like(theta) if out is not None else theta.new_empty(0)


SCHEMAS = {
    rotate_forward: "(Tensor a, Tensor b, Tensor theta) -> Tensor",
    rotate_backward: "(Tensor grad, Tensor? out, Tensor theta) -> (Tensor, Tensor, Tensor)",
}
register(SCHEMAS, {rotate_forward: _fake_forward, rotate_backward: _fake_backward})
