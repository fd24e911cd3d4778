"""Magnitude batch norm, with a magnitude ReLU after it or (``c`` is None) without: statistics, then one pass that
writes; backward likewise.

Two launches each way in training, one with a running power (two where a weight wants its gradient). A first launch
leaves partial sums; each program of the second adds up those of its channels, always in the same
order: no atomics, so a run repeats itself bit for bit. float32 arithmetic, 64-bit offsets.
"""

import torch
import triton
import triton.language as tl

from ..power import rstd_of
from ..triton_kernels import (
    Tiles,
    add_up,
    check_vectors,
    inverse_root,
    load_channel,
    load_parts,
    relu_factor,
    spread,
    store_channel,
    store_parts,
    store_sums,
    tile_channel,
    tile_place,
)

BACKWARD = {"maxnreg": 96}  # left to itself ptxas spills two registers for the sake of occupancy (sm_86)

# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def gate(y_re, y_im, g_re, g_im, c):
    """From what came out: dL/dv, and the root with v = root * y (y = v |v| / c inside, so |v| = sqrt(c |y|))."""
    power = y_re * y_re + y_im * y_im
    inside = power < c * c
    modulus = tl.sqrt(tl.where(inside, power, 0.0))
    # asked of the modulus: a square root that flushes denormals gives 0 for a power above it
    inverse = 1.0 / tl.where(modulus > 0.0, modulus, 1.0)
    u_re, u_im = y_re * inverse, y_im * inverse
    turn = tl.where(inside, u_re * g_re + u_im * g_im, 0.0)
    keep = tl.where(inside, tl.sqrt(modulus / c), 1.0)  # |v| / c
    root = tl.where(inside, tl.sqrt(c * inverse), 1.0)
    return keep * tl.where(inside, g_re + turn * u_re, g_re), keep * tl.where(inside, g_im + turn * u_im, g_im), root


@triton.jit
def arriving(grad, out, at, inside, part, c, PAIRS: tl.constexpr):
    """dL/dv of the tile, what came out, and the root with v = root * y. Without a ReLU only the first is meant."""
    g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
    if c is None:
        return g_re, g_im, g_re, g_im, g_re
    else:
        y_re, y_im = load_parts(out, at, inside, part, PAIRS)
        v_re, v_im, root = gate(y_re, y_im, g_re, g_im, c)
        return v_re, v_im, y_re, y_im, root


@triton.jit
def normalised(z, residual, y_re, y_im, root, at, inside, part, rstd, PAIRS: tl.constexpr):
    """z / sqrt(E|z|^2 + eps): from z where it was kept, else recovered from what came out."""
    if z is not None:
        re, im = load_parts(z, at, inside, part, PAIRS)
        return re * rstd, im * rstd
    elif residual is not None:
        res_re, res_im = load_parts(residual, at, inside, part, PAIRS)
        return root * y_re - res_re, root * y_im - res_im
    else:
        return root * y_re, root * y_im


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def power_sums_kernel(
    z, partial, programs, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Share k of ``partial``: sums of |z|^2 over the tiles k, k + programs, ..."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        sums += re * re + im * im
    store_sums(partial, k, tile_channel(block, COLUMNS, LAST), channels, programs, sums, LAST)


@triton.jit
def norm_forward_kernel(
    z, residual, weight, running, batches, partial, out, rstd, programs, per_count, momentum, eps, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Some tiles. With ``partial`` by the batch's power, and then ``running``, if given, moves towards it; else by
    it."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    if partial is not None:
        power = add_up(partial, ch, channels, programs, ROWS, COLUMNS, LAST) * per_count
    else:
        power = load_channel(running, ch, channels, LAST)
    r = inverse_root(power + eps)
    if first == 0:
        store_channel(rstd, ch, channels, r, LAST)
        if partial is not None and running is not None:
            rate = momentum if batches is None else 1.0 / tl.load(batches).to(tl.float32)
            before = load_channel(running, ch, channels, LAST)
            store_channel(running, ch, channels, before + rate * (power - before), LAST)
    scale = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        re *= spread(scale, LAST)
        im *= spread(scale, LAST)
        if residual is not None:
            res_re, res_im = load_parts(residual, at, inside, part, PAIRS)
            re += res_re
            im += res_im
        if c is not None:
            factor = relu_factor(re, im, c)
            re *= factor
            im *= factor
        store_parts(out, at, inside, part, re, im, PAIRS)


@triton.jit
def norm_backward_sums_kernel(
    grad, out, z, residual, rstd, partial, programs, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Share k of ``partial``: sums of Re(conj(x) dL/dv) over the tiles k, k + programs, ...; x the normalised z."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    r = spread(load_channel(rstd, ch, channels, LAST), LAST)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        v_re, v_im, y_re, y_im, root = arriving(grad, out, at, inside, part, c, PAIRS)
        x_re, x_im = normalised(z, residual, y_re, y_im, root, at, inside, part, r, PAIRS)
        sums += x_re * v_re + x_im * v_im
    store_sums(partial, k, ch, channels, programs, sums, LAST)


@triton.jit
def norm_backward_kernel(
    grad, out, z, weight, residual, rstd, partial, grad_z, grad_residual, grad_weight, programs, per_count, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Some tiles: dL/dv, and dL/dz = rstd w (dL/dv - x E[Re(conj(x) dL/dv)]), without the mean where it was frozen."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    r = load_channel(rstd, ch, channels, LAST)
    alpha = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    if partial is not None:
        total = add_up(partial, ch, channels, programs, ROWS, COLUMNS, LAST)
        if grad_weight is not None:
            if first == 0:
                store_channel(grad_weight, ch, channels, total, LAST)
        beta = -alpha * (total * per_count)
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        v_re, v_im, y_re, y_im, root = arriving(grad, out, at, inside, part, c, PAIRS)
        to_re, to_im = spread(alpha, LAST) * v_re, spread(alpha, LAST) * v_im
        if BATCH:
            x_re, x_im = normalised(z, residual, y_re, y_im, root, at, inside, part, spread(r, LAST), PAIRS)
            to_re += spread(beta, LAST) * x_re
            to_im += spread(beta, LAST) * x_im
        store_parts(grad_z, at, inside, part, to_re, to_im, PAIRS)
        if grad_residual is not None:
            store_parts(grad_residual, at, inside, part, v_re, v_im, PAIRS)


# --- launchers --------------------------------------------------------------------------------------------------------


def power_sums(z) -> tuple[torch.Tensor, Tiles]:
    """Partial sums of |z|^2 (`store_partial`), and the walk that made them."""
    t = Tiles.of(z)
    partial = z.new_empty(t.programs, t.channels, dtype=torch.float32)
    power_sums_kernel[(t.programs * t.blocks,)](z, partial, t.programs, **t.arguments(), **t.options)
    return partial, t


def norm_forward(z, running_power, weight, residual, batches, training, momentum, eps, c=None, sums=None):
    """out, rstd ``[C]`` float32. z dense, residual in its strides; ``c`` None: no ReLU. ``sums``: of |z|^2 per channel,
    where they are known."""
    check_vectors(running_power=running_power, weight=weight, sums=sums)
    out, rstd = fake_forward(z)
    batch = training or running_power is None
    if not z.numel():
        # no position to add up: the running power is all there is
        return out, rstd.copy_(rstd_of(running_power, eps)) if not batch else rstd.fill_(torch.nan)
    with torch.cuda.device_of(z):
        # sums that are known are the partial sums of a single program
        partial, t = (sums, Tiles.of(z)) if sums is not None or not batch else power_sums(z)
        running = running_power if training or not batch else None
        norm_forward_kernel[(t.writers * t.blocks,)](
            z, residual, weight, running, batches if training else None, partial, out, rstd,
            t.programs if sums is None else 1, 1.0 / t.count, momentum, eps, c, **t.arguments(), **t.options,
        )  # fmt: skip
    return out, rstd


def norm_backward(grad, out, z, weight, residual, rstd, training, c=None):
    """Gradients of z, residual and weight, the last two of no elements where not asked for."""
    check_vectors(rstd=rstd, weight=weight)
    grad_z, grad_residual, grad_weight = grads = fake_backward(grad, weight, residual)
    t = Tiles.of(grad)
    if not grad.numel():
        grad_weight.zero_()
        return grads
    with torch.cuda.device_of(grad):
        partial = None
        if training or weight is not None:
            partial = grad.new_empty(t.programs, t.channels, dtype=torch.float32)
            norm_backward_sums_kernel[(t.programs * t.blocks,)](
                grad, out, z, residual, rstd, partial, t.programs, c, **t.arguments(), **t.options
            )
        norm_backward_kernel[(t.writers * t.blocks,)](
            grad, out, z, weight, residual, rstd, partial,
            grad_z, grad_residual if residual is not None else None, grad_weight if weight is not None else None,
            t.programs, 1.0 / t.count, c, **t.arguments(), BATCH=training, **t.options | BACKWARD,
        )  # fmt: skip
    return grads


def fake_forward(z):
    """What `norm_forward` returns, not computed."""
    return torch.empty_like(z), z.new_empty(z.shape[2], dtype=torch.float32)


def fake_backward(grad, weight, residual):
    """What `norm_backward` returns, not computed."""
    return (
        torch.empty_like(grad),
        grad.new_empty(0) if residual is None else torch.empty_like(grad),
        grad.new_empty(0) if weight is None else torch.empty_like(weight),
    )
