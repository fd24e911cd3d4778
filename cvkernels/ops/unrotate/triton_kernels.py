"""unrotate in Triton: K readings of each sample from one read of h, and their gradients back into one."""

import math

import torch
import triton
import triton.language as tl

from ...planar import is_channels_last
from ..common.angle.triton_kernels import angle_gradient, angle_partial, turn
from ..common.triton_kernels import OPTIONS, Tiles, load_parts, load_real, register, store_parts, store_sums, tile_place


@triton.jit
def unrotate_forward_kernel(
    h, theta, out, K, real_row, real_sample, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    re, im = load_parts(h, at, inside, part, PAIRS)
    for k in range(K):
        cos, sin = turn(theta, n * K + k)
        real, some = tile_place(tile, n * K + k, rows, columns, real_row, real_sample, ROWS, COLUMNS, LAST, False)
        tl.store(out + real, (re * cos + im * sin).to(out.dtype.element_ty), mask=some)


@triton.jit
def unrotate_backward_kernel(
    grad, h, theta, grad_h, partial, K, real_row, real_sample,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """The sum of g_k e^{i theta_k}; share ``tile`` of ``partial``: sums of g_k (im cos - re sin), dL/dtheta_k."""
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    to_re = tl.zeros((ROWS, COLUMNS), tl.float32)
    to_im = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(K):
        cos, sin = turn(theta, n * K + k)
        real, some = tile_place(tile, n * K + k, rows, columns, real_row, real_sample, ROWS, COLUMNS, LAST, False)
        g = load_real(grad, real, some)
        to_re += g * cos
        to_im += g * sin
        if partial is not None:
            # read for each angle, from the cache after the first: kept, it makes the kernel spill on sm_120
            re, im = load_parts(h, at, inside, part, PAIRS)
            store_sums(partial, tile, n * K + k, channels, tiles, g * (im * cos - re * sin), LAST)
    store_parts(grad_h, at, inside, part, to_re, to_im, PAIRS)


def unrotate_forward(h, theta):
    """The registered operator. h dense; theta ``[N]`` or ``[N, K]``, contiguous."""
    out = _fake_forward(h, theta)
    if out.numel():
        t = Tiles.of_samples(h)
        with torch.cuda.device_of(h):
            unrotate_forward_kernel[(t.tiles * t.blocks,)](h, theta, out, *_real(h, theta), **t.arguments(), **OPTIONS)
    return out


def unrotate_backward(grad, h, theta):
    """The registered operator: gradients of h and, where it is given, of theta. grad contiguous or channels-last, each
    of its K; h contiguous, or planar channels-last with it."""
    grad_h, _ = _fake_backward(grad, None, theta)
    t = Tiles.of_samples(grad_h)
    partial = angle_partial(theta, t.tiles, h is not None)
    if not grad.numel():
        return grad_h.zero_(), angle_gradient(theta, None, h is not None)
    K, *real = _real(grad_h, theta)
    with torch.cuda.device_of(grad):
        unrotate_backward_kernel[(t.tiles * t.blocks,)](
            grad, h, theta, grad_h, partial, K, *real, **t.arguments(), **OPTIONS
        )
        return grad_h, angle_gradient(theta, partial, h is not None)


def _real(h, theta) -> tuple[int, int, int]:
    """K, and strides of a row and of a reading in what is read."""
    c, s = h.shape[2], math.prod(h.shape[3:])
    return theta.shape[1] if theta.ndim == 2 else 1, c if is_channels_last(h) else 0, c * s


def _fake_forward(h, theta):
    shape = (*theta.shape, *h.shape[2:])
    if not is_channels_last(h):
        return h.new_empty(shape)
    *lead, c = shape[: theta.ndim + 1]
    return h.new_empty(*lead, *h.shape[3:], c).movedim(-1, theta.ndim)


def _fake_backward(grad, h, theta):
    n, (c, *positions) = grad.shape[0], list(grad.shape[theta.ndim :])
    part = grad.new_empty(n, 2, c, *positions)
    if positions and not grad.is_contiguous():
        part = grad.new_empty(n, *positions, 2, c).movedim((-2, -1), (1, 2))
    return part, torch.empty_like(theta) if h is not None else theta.new_empty(0)


SCHEMAS = {
    unrotate_forward: "(Tensor h, Tensor theta) -> Tensor",
    unrotate_backward: "(Tensor grad, Tensor? h, Tensor theta) -> (Tensor, Tensor)",
}
register(SCHEMAS, {unrotate_forward: _fake_forward, unrotate_backward: _fake_backward})
