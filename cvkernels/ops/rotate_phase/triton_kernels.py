"""rotate_phase in Triton: one pass each way; a second, small launch adds up the angles' gradients."""

import torch
import triton
import triton.language as tl

from ..common.angle.triton_kernels import angle_gradient, angle_partial, turn
from ..common.triton_kernels import OPTIONS, Tiles, load_parts, register, store_parts, store_sums, tile_place


@triton.jit
def rotate_phase_forward_kernel(
    z, theta, out, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    cos, sin = turn(theta, n)
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    re, im = load_parts(z, at, inside, part, PAIRS)
    store_parts(out, at, inside, part, re * cos - im * sin, re * sin + im * cos, PAIRS)


@triton.jit
def rotate_phase_backward_kernel(
    grad, out, theta, grad_z, partial, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """g e^{-i theta}; share ``tile`` of ``partial``: the sum of Im(conj(x) g), dL/dtheta of what came out, x."""
    tile = tl.program_id(0) // blocks
    n = tl.program_id(0) % blocks
    cos, sin = turn(theta, n)
    at, inside = tile_place(tile, n, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
    store_parts(grad_z, at, inside, part, g_re * cos + g_im * sin, g_im * cos - g_re * sin, PAIRS)
    if partial is not None:
        x_re, x_im = load_parts(out, at, inside, part, PAIRS)
        store_sums(partial, tile, n, channels, tiles, x_re * g_im - x_im * g_re, LAST)


def rotate_phase_forward(z, theta):
    """The registered operator. z dense, theta ``[N]`` contiguous."""
    out, t = torch.empty_like(z), Tiles.of_samples(z)
    if z.numel():
        with torch.cuda.device_of(z):
            rotate_phase_forward_kernel[(t.tiles * t.blocks,)](z, theta, out, **t.arguments(), **OPTIONS)
    return out


def rotate_phase_backward(grad, out, theta):
    """The registered operator: gradients of z and, with ``out``, of theta. grad dense and in the strides of out."""
    grad_z, t = torch.empty_like(grad), Tiles.of_samples(grad)
    partial = angle_partial(theta, t.tiles, out is not None)
    if not grad.numel():
        return grad_z, angle_gradient(theta, None, out is not None)
    with torch.cuda.device_of(grad):
        rotate_phase_backward_kernel[(t.tiles * t.blocks,)](
            grad, out, theta, grad_z, partial, **t.arguments(), **OPTIONS
        )
        return grad_z, angle_gradient(theta, partial, out is not None)


def _fake_backward(grad, out, theta):
    return torch.empty_like(grad), torch.empty_like(theta) if out is not None else theta.new_empty(0)


SCHEMAS = {
    rotate_phase_forward: "(Tensor z, Tensor theta) -> Tensor",
    rotate_phase_backward: "(Tensor grad, Tensor? out, Tensor theta) -> (Tensor, Tensor)",
}
register(SCHEMAS, {rotate_phase_forward: lambda z, theta: torch.empty_like(z), rotate_phase_backward: _fake_backward})
