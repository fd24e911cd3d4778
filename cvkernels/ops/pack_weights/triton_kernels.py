"""pack_weights in Triton: the block weights of up to `LAYERS` layers in one launch, and back from their gradients.

The layers' pointers are arguments of the launch (a tuple), not a table in memory: nothing is copied to the device, and
a CUDA graph keeps what it was given. A program does one tile of one layer's A and B, the layer found by comparing its
number with where each one's tiles start.
"""

import torch
import triton
import triton.language as tl

from ..common.triton_kernels import OPTIONS, TILE, register
from ..common.weight import pack_aligned

LAYERS = 64  # of one launch: its arguments stay under 4 kB
EDGE = tl.constexpr(16)  # elements that a layer's part starts at a multiple of


@triton.jit
def layer_of(tile, firsts, first, second, sizes, rows, windows, starts, LAYERS: tl.constexpr):
    """Addresses of the tile's layer, its number of elements, of those a row and a window, its place in the flat buffer,
    and the tile's number in it."""
    a = first[0].to(tl.int64)
    b = second[0].to(tl.int64)
    size = tl.cast(sizes[0], tl.int64)
    row = tl.cast(rows[0], tl.int64)
    window = tl.cast(windows[0], tl.int64)
    start = tl.cast(starts[0], tl.int64)
    own = tile
    for layer in tl.static_range(1, LAYERS):
        here = tile >= firsts[layer]
        a = tl.where(here, first[layer].to(tl.int64), a)
        b = tl.where(here, second[layer].to(tl.int64), b)
        size = tl.where(here, tl.cast(sizes[layer], tl.int64), size)
        row = tl.where(here, tl.cast(rows[layer], tl.int64), row)
        window = tl.where(here, tl.cast(windows[layer], tl.int64), window)
        start = tl.where(here, tl.cast(starts[layer], tl.int64), start)
        own = tl.where(here, tile - firsts[layer], own)
    return a, b, size, row, window, start, own


@triton.jit
def block_place(e, row, window, LAST: tl.constexpr):
    """Where element e of A stands in its block, [2O, 2I, *] or, ``LAST``, [2O, *, 2I], and how far right its twin."""
    o = e // row
    rest = e - o * row
    inner = row // window  # I
    if LAST:
        i = rest // window
        return o * 2 * row + (rest - i * window) * 2 * inner + i, inner
    else:
        return o * 2 * row + rest, row


@triton.jit
def fill_edge(out, end, mask):
    """Zeros from the end of a part to where the next one starts."""
    at = end + tl.arange(0, EDGE)
    tl.store(out + at, tl.zeros((EDGE,), out.dtype.element_ty), mask=mask & (at < (end + EDGE - 1) // EDGE * EDGE))


@triton.jit
def pack_weights_forward_kernel(
    re, im, out, firsts, sizes, rows, windows, starts, LAYERS: tl.constexpr, LAST: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One tile of A and of B, each to its two quarters: [[A, -B], [B, A]]."""
    tile = tl.program_id(0)
    a, b, size, row, window, start, own = layer_of(tile, firsts, re, im, sizes, rows, windows, starts, LAYERS)
    e = own.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = e < size
    kind = re[0].dtype
    x = tl.load(a.to(kind) + e, mask=inside, other=0.0).to(out.dtype.element_ty)
    y = tl.load(b.to(kind) + e, mask=inside, other=0.0).to(out.dtype.element_ty)
    at, right = block_place(e, row, window, LAST)
    upper = out + start + at
    lower = upper + 2 * size
    tl.store(upper, x, mask=inside)
    tl.store(upper + right, -y, mask=inside)
    tl.store(lower, y, mask=inside)
    tl.store(lower + right, x, mask=inside)
    fill_edge(out + start, 4 * size, own == 0)


@triton.jit
def pack_weights_backward_kernel(
    grads, out, firsts, sizes, rows, windows, starts, LAYERS: tl.constexpr, LAST: tl.constexpr, TILE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One tile of the gradients of A, the sum of its two quarters', and of B, the difference of its."""
    tile = tl.program_id(0)
    block, _, size, row, window, start, own = layer_of(tile, firsts, grads, grads, sizes, rows, windows, starts, LAYERS)
    e = own.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = e < size
    at, right = block_place(e, row, window, LAST)
    upper = block.to(grads[0].dtype) + at
    lower = upper + 2 * size
    a = tl.load(upper, mask=inside, other=0.0).to(WIDE) + tl.load(lower + right, mask=inside, other=0.0).to(WIDE)
    b = tl.load(lower, mask=inside, other=0.0).to(WIDE) - tl.load(upper + right, mask=inside, other=0.0).to(WIDE)
    second = start + (size + EDGE - 1) // EDGE * EDGE
    tl.store(out + start + e, a.to(out.dtype.element_ty), mask=inside)
    tl.store(out + second + e, b.to(out.dtype.element_ty), mask=inside)
    fill_edge(out + start, size, own == 0)
    fill_edge(out + second, size, own == 0)


# --- launchers --------------------------------------------------------------------------------------------------------


def pack_weights_forward(re, im, dtype, channels_last):
    """The registered operator: the blocks of all layers in one flat buffer of ``dtype``. Parts contiguous."""
    out = _fake_forward(re, im, dtype, channels_last)
    layers, start = [], 0
    for a, b in zip(re, im, strict=True):
        if a.numel():
            layers.append(((a, b), a.numel(), a[0].numel(), a[0, 0].numel(), start))
        start += pack_aligned(4 * a.numel())
    with torch.cuda.device_of(out):
        for grid, parts, table in _launches(layers):
            pack_weights_forward_kernel[grid](*parts, out, *table, LAST=channels_last, TILE=TILE, **OPTIONS)
    return out


def pack_weights_backward(grads, dtype, channels_last):
    """The registered operator: the gradients of the parts from those of the blocks, in one flat buffer of ``dtype``."""
    out = _fake_backward(grads, dtype, channels_last)
    layers, start = [], 0
    for g in grads:
        size = g.numel() // 4
        if size:
            layers.append(((g,), size, g[0].numel() // 2, g[0, 0].numel(), start))
        start += 2 * pack_aligned(size)
    wide = tl.float64 if torch.float64 in (dtype, grads[0].dtype) else tl.float32
    with torch.cuda.device_of(out):
        for grid, parts, table in _launches(layers):
            pack_weights_backward_kernel[grid](*parts, out, *table, LAST=channels_last, TILE=TILE, WIDE=wide, **OPTIONS)
    return out


def _launches(layers):
    """Grid, tuples of the layers' tensors, and the tuples of numbers that say where each stands, `LAYERS` at a time."""
    for begin in range(0, len(layers), LAYERS):
        some = layers[begin : begin + LAYERS]
        tensors, *numbers = zip(*some, strict=True)
        firsts = [0]
        for size in numbers[0]:
            firsts.append(firsts[-1] + triton.cdiv(size, TILE))
        yield (firsts[-1],), tuple(zip(*tensors, strict=True)), (tuple(firsts[:-1]), *numbers, len(some))


def _fake_forward(re, im, dtype, channels_last):
    return re[0].new_empty(sum(pack_aligned(4 * a.numel()) for a in re), dtype=dtype)


def _fake_backward(grads, dtype, channels_last):
    return grads[0].new_empty(sum(2 * pack_aligned(g.numel() // 4) for g in grads), dtype=dtype)


SCHEMAS = {
    pack_weights_forward: "(Tensor[] re, Tensor[] im, ScalarType dtype, bool channels_last) -> Tensor",
    pack_weights_backward: "(Tensor[] grads, ScalarType dtype, bool channels_last) -> Tensor",
}
register(SCHEMAS, {pack_weights_forward: _fake_forward, pack_weights_backward: _fake_backward})
