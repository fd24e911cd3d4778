"""magnitude_relu in Triton: y = z |z| / max(|z|, c), c a constant or a mean modulus.

A constant takes one launch each way. So does the mean of a sample's channel: a program does all its positions, reading
them twice (the second time from the cache). A mean over more leaves partial sums in a first
launch, which each program of the second adds up, always in the same order. What is saved is the mean as it is; where it
is 0 every element is, and value and gradient are 0.
"""

import torch
import triton
import triton.language as tl

from ..common.triton_kernels import (
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
    total_of,
)

CONSTANT, SAMPLE_CHANNEL, CHANNEL, EVERYTHING = range(4)

# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def modulus_of(re, im):
    """|z|, also where its square overflows or underflows; infinite where a part is, as C's hypot."""
    power = re * re + im * im
    a, b = tl.abs(re), tl.abs(im)
    larger, smaller = tl.where(a > b, a, b), tl.where(a > b, b, a)
    ratio = smaller / tl.where(larger == 0.0, 1.0, larger)
    scaled = larger * tl.sqrt(1.0 + ratio * ratio)
    infinite = (a == float("inf")) | (b == float("inf"))
    plain = (power > 1e-30) & (power < 1e30)
    return tl.where(plain, tl.sqrt(power), tl.where(infinite, float("inf"), scaled))


@triton.jit
def relu_backward(re, im, g_re, g_im, c, DETACH: tl.constexpr):
    """dL/dz from dL/dy at constant c: inside (|z| g + Re(conj(u) g) z) / c with u = z / |z|, else g."""
    power = re * re + im * im
    inside = power < c * c
    modulus = tl.sqrt(tl.where(inside, power, 0.0))
    keep = tl.where(inside, modulus / c, 1.0)
    if DETACH:
        return keep * g_re, keep * g_im
    else:
        # asked of the modulus: a square root that flushes denormals gives 0 for a power above it
        inverse = 1.0 / tl.where(modulus > 0.0, modulus, 1.0)
        dot = tl.where(inside, (re * inverse) * g_re + (im * inverse) * g_im, 0.0) / c
        # where the square overflows it is outside, and re * 0 would be NaN for an Inf
        return tl.where(inside, keep * g_re + dot * re, g_re), tl.where(inside, keep * g_im + dot * im, g_im)


@triton.jit
def threshold_term(re, im, g_re, g_im, c):
    """-dL/dc of each element: Re(conj(z) g) |z| / c^2 inside; NaN, and not 0, where c is."""
    power = re * re + im * im
    inside = power < c * c
    modulus = tl.sqrt(tl.where(inside, power, 0.0))
    return tl.where(power >= c * c, 0.0, (re * g_re + im * g_im) * (modulus / c) / c)


@triton.jit
def along(re, im, share):
    """share z / |z|: what an element's part in the mean adds to its gradient."""
    modulus = tl.sqrt(re * re + im * im)
    nought = modulus <= 0.0
    factor = tl.where(nought, 0.0, share / tl.where(nought, 1.0, modulus))
    return factor * re, factor * im


@triton.jit
def limit_of(mean, c, channels, LAST: tl.constexpr):
    """The threshold that a mean is, over its tile."""
    average = load_channel(mean, c, channels, LAST)
    return spread(tl.where(average == 0.0, 1.0, average), LAST)


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def magnitude_relu_sums_kernel(
    grad, z, mean, partial, programs, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Share k of ``partial``: sums over the tiles k, k + programs, ... of the moduli or, with ``grad``, of -dL/dc."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    if grad is not None:
        limit = limit_of(mean, ch, channels, LAST)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        if grad is not None:
            g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
            sums += threshold_term(re, im, g_re, g_im, limit)
        else:
            sums += modulus_of(re, im)
    store_sums(partial, k, ch, channels, programs, sums, LAST)


@triton.jit
def magnitude_relu_forward_kernel(
    z, partial, mean, out, c, programs, per_count, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Some tiles; c the constant or, with ``partial``, the block's mean."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    if partial is not None:
        ch = tile_channel(block, COLUMNS, LAST)
        average = add_up(partial, ch, channels, programs, ROWS, COLUMNS, LAST) * per_count
        if first == 0:
            store_channel(mean, ch, channels, average, LAST)
        limit = spread(tl.where(average == 0.0, 1.0, average), LAST)
    else:
        limit = c
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        factor = relu_factor(re, im, limit)
        store_parts(out, at, inside, part, re * factor, im * factor, PAIRS)


@triton.jit
def magnitude_relu_backward_kernel(
    grad, z, partial, mean, grad_z, c, programs, per_count, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, DETACH: tl.constexpr,
):  # fmt: skip
    """Some tiles; with ``mean`` c is the block's, and ``partial``, if given, has what flows back through it."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    limit = c if mean is None else limit_of(mean, ch, channels, LAST)
    if partial is not None:
        share = spread(-add_up(partial, ch, channels, programs, ROWS, COLUMNS, LAST) * per_count, LAST)
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
        to_re, to_im = relu_backward(re, im, g_re, g_im, limit, DETACH)
        if partial is not None:
            more_re, more_im = along(re, im, share)
            to_re += more_re
            to_im += more_im
        store_parts(grad_z, at, inside, part, to_re, to_im, PAIRS)


@triton.jit
def magnitude_relu_sample_forward_kernel(
    z, mean, out, sample, per_count, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """All positions of a sample's channel or block of channels: their mean modulus, then they."""
    n = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    z += n * sample
    out += n * sample
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(0, tiles):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        sums += modulus_of(re, im)
    average = total_of(sums, LAST) * per_count
    store_channel(mean + n * channels, ch, channels, average, LAST)
    limit = spread(tl.where(average == 0.0, 1.0, average), LAST)
    for tile in range(0, tiles):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        factor = relu_factor(re, im, limit)
        store_parts(out, at, inside, part, re * factor, im * factor, PAIRS)


@triton.jit
def magnitude_relu_sample_backward_kernel(
    grad, z, mean, grad_z, sample, per_count, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, DETACH: tl.constexpr,
):  # fmt: skip
    """The same back: what flows through the mean, then the gradient."""
    n = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    grad += n * sample
    z += n * sample
    grad_z += n * sample
    limit = limit_of(mean + n * channels, ch, channels, LAST)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    if not DETACH:
        for tile in range(0, tiles):
            at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
            re, im = load_parts(z, at, inside, part, PAIRS)
            g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
            sums += threshold_term(re, im, g_re, g_im, limit)
    share = spread(-total_of(sums, LAST) * per_count, LAST)
    for tile in range(0, tiles):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        re, im = load_parts(z, at, inside, part, PAIRS)
        g_re, g_im = load_parts(grad, at, inside, part, PAIRS)
        to_re, to_im = relu_backward(re, im, g_re, g_im, limit, DETACH)
        if not DETACH:
            more_re, more_im = along(re, im, share)
            to_re += more_re
            to_im += more_im
        store_parts(grad_z, at, inside, part, to_re, to_im, PAIRS)


# --- launchers --------------------------------------------------------------------------------------------------------


def magnitude_relu_forward(z, c, reduce):
    """The registered operator: out, and the means, float32 (none for a constant). z dense."""
    out, mean = _fake_forward(z, c, reduce)
    if not z.numel():
        return out, mean.fill_(torch.nan)
    t = _walk(z, reduce)
    with torch.cuda.device_of(z):
        if reduce == SAMPLE_CHANNEL:
            magnitude_relu_sample_forward_kernel[(z.shape[0] * t.blocks,)](
                z, mean, out, z[0].numel(), 1.0 / t.count, **t.arguments(), **t.options
            )
            return out, mean
        partial = None
        if reduce != CONSTANT:
            partial = z.new_empty(t.programs, t.channels, dtype=torch.float32)
            magnitude_relu_sums_kernel[(t.programs * t.blocks,)](
                None, z, None, partial, t.programs, **t.arguments(), **t.options
            )
        magnitude_relu_forward_kernel[(t.writers * t.blocks,)](
            z, partial, mean if reduce != CONSTANT else None, out, c, t.programs, 1.0 / t.count,
            **t.arguments(), **t.options,
        )  # fmt: skip
    return out, mean


def magnitude_relu_backward(grad, z, mean, c, reduce, detach_modulus):
    """The registered operator: the gradient of z; grad in its strides."""
    grad_z = torch.empty_like(z)
    if not z.numel():
        return grad_z
    t = _walk(z, reduce)
    with torch.cuda.device_of(z):
        if reduce == SAMPLE_CHANNEL:
            magnitude_relu_sample_backward_kernel[(z.shape[0] * t.blocks,)](
                grad, z, mean, grad_z, z[0].numel(), 1.0 / t.count, **t.arguments(), DETACH=detach_modulus,
                **t.options,
            )  # fmt: skip
            return grad_z
        partial = None
        if reduce != CONSTANT and not detach_modulus:
            partial = z.new_empty(t.programs, t.channels, dtype=torch.float32)
            magnitude_relu_sums_kernel[(t.programs * t.blocks,)](
                grad, z, mean, partial, t.programs, **t.arguments(), **t.options
            )
        magnitude_relu_backward_kernel[(t.writers * t.blocks,)](
            grad, z, partial, mean if reduce != CONSTANT else None, grad_z, c, t.programs, 1.0 / t.count,
            **t.arguments(), DETACH=detach_modulus, **t.options,
        )  # fmt: skip
    return grad_z


def _walk(z, reduce) -> Tiles:
    """Tiles by what shares a threshold; for a mean of each sample's channel, those of one sample."""
    if reduce in (CONSTANT, EVERYTHING):
        return Tiles.of_all(z)
    return Tiles.of(z[:1] if reduce == SAMPLE_CHANNEL else z)


def _fake_forward(z, c, reduce):
    n, channels = z.shape[0], z.shape[2]
    means = {CONSTANT: 0, SAMPLE_CHANNEL: n * channels, CHANNEL: channels, EVERYTHING: 1}[reduce]
    return torch.empty_like(z), z.new_empty(means, dtype=torch.float32)


SCHEMAS = {
    magnitude_relu_forward: "(Tensor z, float c, int reduce) -> (Tensor, Tensor)",
    magnitude_relu_backward: "(Tensor grad, Tensor z, Tensor mean, float c, int reduce, bool detach_modulus) -> Tensor",
}
FAKES = {
    magnitude_relu_forward: _fake_forward,
    magnitude_relu_backward: lambda grad, z, *_: torch.empty_like(z),
}
register(SCHEMAS, FAKES)
