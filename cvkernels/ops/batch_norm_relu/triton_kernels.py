"""batch_norm_relu in Triton: statistics, then one pass that writes; backward likewise, from what came out.

Two launches each way in training, one with a running power (two where a weight wants its gradient). A first launch
leaves partial sums ``[programs, C]``; each program of the second adds up those of its channels, always in the same
order: no atomics, so a run repeats itself bit for bit. float32 arithmetic, 64-bit offsets.
"""

import torch
import triton
import triton.language as tl

from ..common.triton_kernels import (
    OPTIONS,
    Tiles,
    add_up,
    load_channel,
    load_parts,
    register,
    relu_factor,
    spread,
    store_channel,
    store_parts,
    store_sums,
    tile_channel,
    tile_place,
)

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
def normalised(z, residual, y_re, y_im, root, at, inside, part, rstd, PAIRS: tl.constexpr):
    """z / sqrt(E|z|^2 + eps): from z where it was kept (there is a weight), else recovered from what came out."""
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
def batch_norm_relu_statistics_kernel(
    z, partial, programs, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Row k of ``partial``: sums of |z|^2 over the tiles k, k + programs, ..."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        sums += re * re + im * im
    store_sums(partial, k, tile_channel(block, COLUMNS, LAST), channels, sums, LAST)


@triton.jit
def batch_norm_relu_forward_kernel(
    z, residual, weight, running, batches, partial, out, rstd, programs, per_count, momentum, eps, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """One tile. With ``partial`` by the batch's power, and then ``running``, if given, moves towards it; else by it."""
    tile = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    if partial is not None:
        power = add_up(partial, ch, channels, programs, COLUMNS, LAST) * per_count
    else:
        power = load_channel(running, ch, channels, LAST)
    r = 1.0 / tl.sqrt_rn(power + eps)
    if tile == 0:
        store_channel(rstd, ch, channels, r, LAST)
        if partial is not None and running is not None:
            rate = momentum if batches is None else 1.0 / tl.load(batches).to(tl.float32)
            before = load_channel(running, ch, channels, LAST)
            store_channel(running, ch, channels, before + rate * (power - before), LAST)
    scale = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    re, im = load_parts(z, at, inside, part, PAIRS)
    re *= spread(scale, LAST)
    im *= spread(scale, LAST)
    if residual is not None:
        res_re, res_im = load_parts(residual, at, inside, part, PAIRS)
        re += res_re
        im += res_im
    factor = relu_factor(re, im, c)
    store_parts(out, at, inside, part, re * factor, im * factor, PAIRS)


@triton.jit
def batch_norm_relu_backward_sums_kernel(
    grad, out, z, residual, rstd, partial, programs, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Row k of ``partial``: sums of Re(conj(x) dL/dv) over the tiles k, k + programs, ...; x the normalised z."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    r = spread(load_channel(rstd, ch, channels, LAST), LAST)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        y_re, y_im = load_parts(out, at, inside, part, PAIRS)
        g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
        v_re, v_im, root = gate(y_re, y_im, g_re, g_im, c)
        x_re, x_im = normalised(z, residual, y_re, y_im, root, at, inside, part, r, PAIRS)
        sums += x_re * v_re + x_im * v_im
    store_sums(partial, k, ch, channels, sums, LAST)


@triton.jit
def batch_norm_relu_backward_kernel(
    grad, out, z, weight, residual, rstd, partial, grad_z, grad_residual, grad_weight, programs, per_count, c,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """One tile: dL/dv, and dL/dz = rstd w (dL/dv - x E[Re(conj(x) dL/dv)]), without the mean where it was frozen."""
    tile = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    r = load_channel(rstd, ch, channels, LAST)
    alpha = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
    y_re, y_im = load_parts(out, at, inside, part, PAIRS)
    g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
    v_re, v_im, root = gate(y_re, y_im, g_re, g_im, c)
    to_re, to_im = spread(alpha, LAST) * v_re, spread(alpha, LAST) * v_im
    if partial is not None:
        total = add_up(partial, ch, channels, programs, COLUMNS, LAST)
        if grad_weight is not None:
            if tile == 0:
                store_channel(grad_weight, ch, channels, total, LAST)
        if BATCH:
            x_re, x_im = normalised(z, residual, y_re, y_im, root, at, inside, part, spread(r, LAST), PAIRS)
            beta = spread(-alpha * (total * per_count), LAST)
            to_re += beta * x_re
            to_im += beta * x_im
    store_parts(grad_z, at, inside, part, to_re, to_im, PAIRS)
    if residual is not None:
        store_parts(grad_residual, at, inside, part, v_re, v_im, PAIRS)


# --- launchers --------------------------------------------------------------------------------------------------------


def batch_norm_relu_forward(z, running_power, weight, residual, batches, training, momentum, eps, c):
    """The registered operator: out, rstd ``[C]`` float32. z dense, residual in its strides."""
    _check_vectors(running_power=running_power, weight=weight)
    out, rstd = _fake_forward(z, running_power, weight, residual, batches, training, momentum, eps, c)
    t = Tiles.of(z)
    batch = training or running_power is None
    if not z.numel():
        # no position to add up: the running power is all there is
        return out, rstd.copy_((running_power + eps).rsqrt()) if not batch else rstd.fill_(torch.nan)
    with torch.cuda.device_of(z):
        partial = z.new_empty(t.programs, t.channels, dtype=torch.float32) if batch else None
        if batch:
            grid = (t.programs * t.blocks,)
            batch_norm_relu_statistics_kernel[grid](z, partial, t.programs, **t.arguments(), **OPTIONS)
        running = running_power if training or not batch else None
        batch_norm_relu_forward_kernel[(t.tiles * t.blocks,)](
            z, residual, weight, running, batches if training else None, partial, out, rstd,
            t.programs, 1.0 / t.count, momentum, eps, c, **t.arguments(), **OPTIONS,
        )  # fmt: skip
    return out, rstd


def batch_norm_relu_summed_forward(z, sums, running_power, weight, residual, batches, momentum, eps, c):
    """The registered operator: `batch_norm_relu_forward` in training where the sums of |z|^2 per channel are known:
    one launch, and one pass over ``z`` less.
    """
    _check_vectors(running_power=running_power, weight=weight, sums=sums)
    out, rstd = _fake_summed(z, sums, running_power, weight, residual, batches, momentum, eps, c)
    t = Tiles.of(z)
    if not z.numel():
        return out, rstd.fill_(torch.nan)
    with torch.cuda.device_of(z):
        # the sums are the partial sums of a single program
        batch_norm_relu_forward_kernel[(t.tiles * t.blocks,)](
            z, residual, weight, running_power, batches, sums, out, rstd,
            1, 1.0 / t.count, momentum, eps, c, **t.arguments(), **OPTIONS,
        )  # fmt: skip
    return out, rstd


def batch_norm_relu_backward(grad, out, z, weight, residual, rstd, training, c):
    """The registered operator: gradients of z, residual and weight, the last two of no elements where not asked for."""
    _check_vectors(rstd=rstd, weight=weight)
    grads = _fake_backward(grad, out, z, weight, residual, rstd, training, c)
    grad_z, grad_residual, grad_weight = grads
    t = Tiles.of(out)
    if not out.numel():
        grad_weight.zero_()
        return grads
    with torch.cuda.device_of(out):
        partial = None
        if training or weight is not None:
            partial = out.new_empty(t.programs, t.channels, dtype=torch.float32)
            batch_norm_relu_backward_sums_kernel[(t.programs * t.blocks,)](
                grad, out, z, residual, rstd, partial, t.programs, c, **t.arguments(), **OPTIONS
            )
        batch_norm_relu_backward_kernel[(t.tiles * t.blocks,)](
            grad, out, z, weight, residual, rstd, partial,
            grad_z, grad_residual if residual is not None else None, grad_weight if weight is not None else None,
            t.programs, 1.0 / t.count, c, **t.arguments(), BATCH=training, **OPTIONS,
        )  # fmt: skip
    return grads


def _check_vectors(**vectors):
    for name, vector in vectors.items():
        if vector is not None and not vector.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous, got strides {vector.stride()}")


# --- operators: the schemas of csrc/ops.cpp ---------------------------------------------------------------------------


def _fake_forward(z, running_power, weight, residual, batches, training, momentum, eps, c):
    return torch.empty_like(z), z.new_empty(z.shape[2], dtype=torch.float32)


def _fake_summed(z, sums, running_power, weight, residual, batches, momentum, eps, c):
    return torch.empty_like(z), z.new_empty(z.shape[2], dtype=torch.float32)


def _fake_backward(grad, out, z, weight, residual, rstd, training, c):
    grad_residual = grad.new_empty(0) if residual is None else torch.empty_like(out)
    return torch.empty_like(out), grad_residual, grad.new_empty(0 if weight is None else out.shape[2])


SCHEMAS = {
    batch_norm_relu_forward: "(Tensor z, Tensor(a!)? running_power, Tensor? weight, Tensor? residual, Tensor? batches, "
    "bool training, float momentum, float eps, float c) -> (Tensor, Tensor)",
    batch_norm_relu_backward: "(Tensor grad, Tensor out, Tensor? z, Tensor? weight, Tensor? residual, Tensor rstd, "
    "bool training, float c) -> (Tensor, Tensor, Tensor)",
}
register(SCHEMAS, {batch_norm_relu_forward: _fake_forward, batch_norm_relu_backward: _fake_backward})
# Triton's alone, as the convolution that leaves sums is
SUMMED = {
    batch_norm_relu_summed_forward: "(Tensor z, Tensor sums, Tensor(a!)? running_power, Tensor? weight, Tensor? "
    "residual, Tensor? batches, float momentum, float eps, float c) -> (Tensor, Tensor)",
}
register(SUMMED, {batch_norm_relu_summed_forward: _fake_summed})
