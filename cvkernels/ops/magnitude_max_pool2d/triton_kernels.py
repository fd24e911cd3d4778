"""magnitude_max_pool2d in Triton: one launch each way, and one byte an output of which element of its window won.

A tile is planes by outputs or, channels-last, outputs by channels, so that what is neighbouring in memory is
neighbouring in the tile. The window is walked in row-major order with all its places inside one loop; the gradient of
an input is gathered from the windows that cover it, in a fixed order and without atomics. The moduli are compared
without contraction: a fused re^2 + im^2 rounds one square only, and (a, b) would not tie with (b, a).
"""

import math

import torch
import triton
import triton.language as tl

from ...planar import is_channels_last, is_interleaved
from ..common.triton_kernels import TILE, WARPS, register
from .reference import output_size

NOTHING = tl.constexpr(255)  # the index byte of a window of padding only
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}
# what ptxas may use: left to itself it spills a register or two for the sake of occupancy (sm_86, sm_89, sm_120)
REGISTERS = {False: 64, True: 128}  # by whether the channel is the fast axis
UNROLLED = 2  # places of a window whose loads are in flight together; 4 spill on sm_120

# --- addresses --------------------------------------------------------------------------------------------------------


@triton.jit
def pool_place(
    planes, channels, positions, width, sample, channel, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """The tile's positions: offset of their plane, row and column in it, and what is inside.

    ``LAST``: rows of the tile are positions of all samples, its columns channels; else rows are planes.
    """
    tile = tl.program_id(0)
    down = tile // across
    r = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = (tile - down * across) * COLUMNS + tl.arange(0, COLUMNS)
    if LAST:
        n = r // positions
        at = (r - n * positions).to(tl.int32)
        y = at // width
        start = (n * sample)[:, None] + (k.to(tl.int64) * channel)[None, :]
        inside = (n < planes)[:, None] & (k < channels)[None, :]
        return start, y[:, None], (at - y * width)[:, None], inside
    else:
        n = r // channels
        y = k // width
        start = (n * sample + (r - n * channels) * channel)[:, None]
        inside = (r < planes)[:, None] & (k < positions)[None, :]
        return start, y[None, :], (k - y * width)[None, :], inside


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def magnitude_max_pool2d_forward_kernel(
    z, out, index, places, kernel_w, H, W, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    sample, channel, part, step, out_sample, out_channel, out_part, index_sample, index_channel, index_step,
    planes, channels, positions, width, across,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One tile of outputs. What is a position apart is ``step`` apart in both."""
    start, oy, ox, inside = pool_place(planes, channels, positions, width, sample, channel, across, ROWS, COLUMNS, LAST)
    top, left = oy * stride_y - pad_y, ox * stride_x - pad_x
    most = tl.full((ROWS, COLUMNS), -1.0, tl.float32)
    best_re = tl.zeros((ROWS, COLUMNS), tl.float32)
    best_im = tl.zeros((ROWS, COLUMNS), tl.float32)
    winner = tl.full((ROWS, COLUMNS), NOTHING, tl.int32)
    for first in range(0, places, AT_ONCE):
        for more in tl.static_range(AT_ONCE):
            place = first + more
            i = place // kernel_w
            y, x = top + i * dilation_y, left + (place - i * kernel_w) * dilation_x
            here = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W) & (place < places)
            at = start + (y.to(tl.int64) * W + x) * step
            re = tl.load(z + at, mask=here, other=0.0).to(tl.float32)
            im = tl.load(z + part + at, mask=here, other=0.0).to(tl.float32)
            power = re * re + im * im
            # larger wins, the first of equals stays, NaN wins over all and the first NaN stays
            wins = here & ((power > most) | ((power != power) & (most == most)))
            most = tl.where(wins, power, most)
            best_re, best_im = tl.where(wins, re, best_re), tl.where(wins, im, best_im)
            winner = tl.where(wins, place, winner)
    start, oy, ox, inside = pool_place(
        planes, channels, positions, width, out_sample, out_channel, across, ROWS, COLUMNS, LAST
    )
    at = start + (oy.to(tl.int64) * width + ox) * step
    tl.store(out + at, best_re.to(out.dtype.element_ty), mask=inside)
    tl.store(out + out_part + at, best_im.to(out.dtype.element_ty), mask=inside)
    start, oy, ox, inside = pool_place(
        planes, channels, positions, width, index_sample, index_channel, across, ROWS, COLUMNS, LAST
    )
    at = start + (oy.to(tl.int64) * width + ox) * index_step
    tl.store(index + at, winner.to(tl.uint8), mask=inside)


@triton.jit
def magnitude_max_pool2d_backward_kernel(
    grad, index, grad_z, covers, cover_x, kernel_h, kernel_w, out_h, out_w,
    stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    sample, channel, part, step, out_sample, out_channel, out_part, index_sample, index_channel, index_step,
    planes, channels, positions, width, across,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """One tile of inputs, each the sum over the ``covers`` windows that may hold it, of those it won."""
    g_start, iy, ix, inside = pool_place(
        planes, channels, positions, width, out_sample, out_channel, across, ROWS, COLUMNS, LAST
    )
    i_start, iy, ix, inside = pool_place(
        planes, channels, positions, width, index_sample, index_channel, across, ROWS, COLUMNS, LAST
    )
    y, x = iy + pad_y, ix + pad_x
    last_y, last_x = y // stride_y, x // stride_x
    sum_re = tl.zeros((ROWS, COLUMNS), tl.float32)
    sum_im = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, covers, AT_ONCE):
        for more in tl.static_range(AT_ONCE):
            cover = first + more
            back = cover // cover_x
            oy, ox = last_y - back, last_x - (cover - back * cover_x)
            dy, dx = y - oy * stride_y, x - ox * stride_x
            i, j = dy // dilation_y, dx // dilation_x
            here = inside & (cover < covers) & (oy >= 0) & (oy < out_h) & (ox >= 0) & (ox < out_w)
            here &= (i < kernel_h) & (j < kernel_w) & (i * dilation_y == dy) & (j * dilation_x == dx)
            at = oy.to(tl.int64) * out_w + ox
            won = tl.load(index + i_start + at * index_step, mask=here, other=255).to(tl.int32)
            here &= won == i * kernel_w + j
            at = g_start + at * step
            sum_re += tl.load(grad + at, mask=here, other=0.0).to(tl.float32)
            sum_im += tl.load(grad + out_part + at, mask=here, other=0.0).to(tl.float32)
    start, iy, ix, inside = pool_place(planes, channels, positions, width, sample, channel, across, ROWS, COLUMNS, LAST)
    at = start + (iy.to(tl.int64) * width + ix) * step
    tl.store(grad_z + at, sum_re.to(grad_z.dtype.element_ty), mask=inside)
    tl.store(grad_z + part + at, sum_im.to(grad_z.dtype.element_ty), mask=inside)


# --- launchers --------------------------------------------------------------------------------------------------------


def magnitude_max_pool2d_forward(z, kernel_size, stride, padding, dilation, ceil_mode):
    """The registered operator: out in the layout of z, and the index byte ``[N, C, oH, oW]``. z dense."""
    out, index = _fake_forward(z, kernel_size, stride, padding, dilation, ceil_mode)
    if not out.numel():
        return out, index
    walk, grid = _walk(out, is_channels_last(z))
    places = kernel_size[0] * kernel_size[1]
    sample, channel, part, step = _strides(z, z)
    out_sample, out_channel, out_part, _ = _strides(out, z)
    with torch.cuda.device_of(z):
        magnitude_max_pool2d_forward_kernel[grid](
            z, out, index, places, kernel_size[1], *z.shape[3:], *stride, *padding, *dilation,
            sample, channel, part, step, out_sample, out_channel, out_part, *_strides_of_index(index), **walk,
            AT_ONCE=min(places, UNROLLED), maxnreg=REGISTERS[walk["LAST"]], **OPTIONS,
        )  # fmt: skip
    return out, index


def magnitude_max_pool2d_backward(grad, index, input_size, kernel_size, stride, padding, dilation):
    """The registered operator: the gradient of z in the layout of grad, dense."""
    grad_z = _like(grad, input_size)
    if not grad_z.numel():
        return grad_z
    walk, grid = _walk(grad_z, is_channels_last(grad))
    # windows that reach over a position, at most
    cover = [(k - 1) * d // s + 1 for k, d, s in zip(kernel_size, dilation, stride, strict=True)]
    covers = cover[0] * cover[1]
    sample, channel, part, step = _strides(grad_z, grad)
    out_sample, out_channel, out_part, _ = _strides(grad, grad)
    with torch.cuda.device_of(grad):
        magnitude_max_pool2d_backward_kernel[grid](
            grad, index, grad_z, covers, cover[1], *kernel_size, *grad.shape[3:], *stride, *padding, *dilation,
            sample, channel, part, step, out_sample, out_channel, out_part, *_strides_of_index(index), **walk,
            AT_ONCE=min(covers, UNROLLED), maxnreg=REGISTERS[walk["LAST"]], **OPTIONS,
        )  # fmt: skip
    return grad_z


def _walk(z, last: bool) -> tuple[dict, tuple]:
    """The arguments that say which positions of z a program does, and the grid that does them all."""
    n, c, s = z.shape[0], z.shape[2], math.prod(z.shape[3:])
    rows, columns = (n * s, c) if last else (n * c, s)
    tile = TILE if last else TILE // 2  # 16-byte loads of half precision take 8 a thread, a window's addresses 4
    COLUMNS = min(triton.next_power_of_2(columns), tile)
    ROWS = min(triton.next_power_of_2(rows), tile // COLUMNS)
    across = triton.cdiv(columns, COLUMNS)
    walk = {"planes": n if last else n * c, "channels": c, "positions": s, "width": z.shape[4], "across": across}
    return walk | {"ROWS": ROWS, "COLUMNS": COLUMNS, "LAST": last}, (triton.cdiv(rows, ROWS) * across,)


def _strides(z, like) -> tuple[int, int, int, int]:
    """Strides of a sample, a channel, a part and a position of z, which has the layout of ``like``. (A map of 1x1 looks
    contiguous in any.)"""
    c, s = z.shape[2], math.prod(z.shape[3:])
    channel, part, step = (s, c * s, 1)
    if is_channels_last(like):
        channel, part, step = 1, c, 2 * c
    elif is_interleaved(like):
        channel, part, step = 2 * s, 1, 2
    return 2 * c * s, channel, part, step


def _strides_of_index(index) -> tuple[int, int, int]:
    """Of a sample, a channel and a position: its layout is the forward's, whatever an incoming gradient's."""
    _, c, h, w = index.shape
    return c * h * w, *((h * w, 1) if index.is_contiguous() else (1, c))


def _like(z, size):
    """Room for ``size`` positions a plane in the layout of z."""
    n, _, c = z.shape[:3]
    if is_channels_last(z):
        return z.new_empty(n, *size, 2, c).permute(0, 3, 4, 1, 2)
    if is_interleaved(z):
        return z.new_empty(n, c, *size, 2).movedim(-1, 1)
    return z.new_empty(n, 2, c, *size)


def _fake_forward(z, kernel_size, stride, padding, dilation, ceil_mode):
    size = [output_size(*a, ceil_mode) for a in zip(z.shape[3:], kernel_size, stride, padding, dilation, strict=True)]
    n, _, c = z.shape[:3]
    if is_channels_last(z):
        return _like(z, size), z.new_empty((n, *size, c), dtype=torch.uint8).movedim(-1, 1)
    return _like(z, size), z.new_empty((n, c, *size), dtype=torch.uint8)


SCHEMAS = {
    magnitude_max_pool2d_forward: "(Tensor z, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
    "bool ceil_mode) -> (Tensor, Tensor)",
    magnitude_max_pool2d_backward: "(Tensor grad, Tensor index, int[] input_size, int[] kernel_size, int[] stride, "
    "int[] padding, int[] dilation) -> Tensor",
}
FAKES = {
    magnitude_max_pool2d_forward: _fake_forward,
    magnitude_max_pool2d_backward: lambda grad, index, input_size, *_: _like(grad, input_size),
}
register(SCHEMAS, FAKES)
