"""real_batch_norm_relu in Triton: y = relu((x - mean) rstd w + b + residual); moments, then one pass that writes;
backward likewise, its mask what came out.

Each lane keeps a mean and a sum of squared deviations of its own (Welford), a program folds its lanes into one triple
(count, mean, deviations) a channel, and each program of the second launch folds the triples of its channels (Chan),
always in the same order: a variance is never the difference of two large sums. float32 arithmetic, 64-bit offsets.
"""

import torch
import triton
import triton.language as tl

from ..common.power import rstd_of
from ..common.triton_kernels import (
    Tiles,
    add_up,
    check_vectors,
    inverse_root,
    load_channel,
    load_real,
    partial_place,
    register,
    spread,
    store_channel,
    store_partial,
    store_sums,
    tile_channel,
    tile_place,
    total_of,
)

MOMENTS = {"maxnreg": 96}  # left to itself ptxas spills two registers for the sake of occupancy (sm_80)

# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def load_triples(partial, k, c, channels, programs, LAST: tl.constexpr):
    """Counts, one a program, and means and deviations of some programs k."""
    at, here = partial_place(k, c, channels, programs, LAST)
    next = tl.cast(programs, tl.int64) * channels
    mean = tl.load(partial + at, mask=here, other=0.0)
    deviation = tl.load(partial + next + at, mask=here, other=0.0)
    count = tl.load(partial + 2 * next + k, mask=k < programs, other=0.0)
    return here, count[:, None] if LAST else count, mean, deviation


@triton.jit
def moments_of(
    partial, c, channels, programs, per_count, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr
):
    """Mean, less the pivot, and biased variance of the channels c. Means are taken from the first program's: a share of
    the data itself, it is never many standard deviations off, so nothing cancels."""
    STEP: tl.constexpr = ROWS if LAST else 32
    programs = tl.cast(programs, tl.int32)
    first_mean = load_channel(partial, c if LAST else c * programs, channels, LAST)
    shift = spread(first_mean, LAST)
    sums = tl.zeros((STEP, COLUMNS) if LAST else (STEP,), tl.float32)
    squares = tl.zeros((STEP, COLUMNS) if LAST else (STEP,), tl.float32)
    for first in range(0, programs, STEP):
        k = first + tl.arange(0, STEP)
        here, count, mean, deviation = load_triples(partial, k, c, channels, programs, LAST)
        off = tl.where(here, mean - shift, 0.0)
        sums += count * off
        squares += deviation + count * off * off
    off = tl.sum(sums, 0) * per_count
    variance = tl.sum(squares, 0) * per_count - off * off
    return first_mean + off, tl.where(variance < 0.0, 0.0, variance)  # NaN stays


@triton.jit
def pivot_of(x, c, channel, channels, LAST: tl.constexpr):
    """The channel's first value: taken from it, values far from zero lose nothing to the rounding of their mean."""
    return load_channel(x, c * channel, channels, LAST)


@triton.jit
def passed(grad, out, at, inside):
    """What the ReLU lets through; NaN came out of NaN and lets it, as torch's does."""
    y = load_real(out, at, inside)
    return tl.where(y <= 0.0, 0.0, load_real(grad, at, inside))


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def real_batch_norm_relu_moments_kernel(
    x, partial, programs, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Shares k of ``partial``: mean less the pivot, squared deviations and, once for all channels, the count of values
    over the tiles k, k + programs, ..."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    count = tl.zeros((ROWS, COLUMNS), tl.float32)
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    deviation = tl.zeros((ROWS, COLUMNS), tl.float32)
    pivot = spread(pivot_of(x, ch, channel, channels, LAST), LAST)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        value = load_real(x, at, inside) - pivot
        count += tl.where(inside, 1.0, 0.0)
        delta = tl.where(inside, value - mean, 0.0)
        mean += delta / tl.maximum(count, 1.0)
        deviation += delta * (value - mean)
    number = total_of(count, LAST)
    average = total_of(count * mean, LAST) / tl.maximum(number, 1.0)
    off = mean - spread(average, LAST)
    deviation += count * off * off
    next = tl.cast(programs, tl.int64) * channels
    store_partial(partial, k, ch, channels, programs, average, LAST)
    store_sums(partial + next, k, ch, channels, programs, deviation, LAST)
    if block == 0:
        tl.store(partial + 2 * next + k, tl.max(number, 0) if LAST else number)  # a column past the last has none


@triton.jit
def real_batch_norm_relu_forward_kernel(
    x, residual, weight, bias, running_mean, running_var, batches, partial, out, mean, rstd,
    programs, per_count, unbias, momentum, eps,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Some tiles. With ``partial`` by the batch's moments, and then the running ones, if given, move towards them."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    if partial is not None:
        average, variance = moments_of(partial, ch, channels, programs, per_count, ROWS, COLUMNS, LAST)
        average += pivot_of(x, ch, channel, channels, LAST)
    else:
        average = load_channel(running_mean, ch, channels, LAST)
        variance = load_channel(running_var, ch, channels, LAST)
    r = inverse_root(variance + eps)
    if first == 0:
        store_channel(mean, ch, channels, average, LAST)
        store_channel(rstd, ch, channels, r, LAST)
        if partial is not None and running_mean is not None:
            rate = momentum if batches is None else 1.0 / tl.load(batches).to(tl.float32)
            before = load_channel(running_mean, ch, channels, LAST)
            store_channel(running_mean, ch, channels, before + rate * (average - before), LAST)
            before = load_channel(running_var, ch, channels, LAST)
            store_channel(running_var, ch, channels, before + rate * (variance * unbias - before), LAST)
    scale = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    if bias is not None:
        shift = load_channel(bias, ch, channels, LAST)
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        y = (load_real(x, at, inside) - spread(average, LAST)) * spread(scale, LAST)
        if bias is not None:
            y += spread(shift, LAST)
        if residual is not None:
            y += load_real(residual, at, inside)
        tl.store(out + at, tl.where(y <= 0.0, 0.0, y).to(out.dtype.element_ty), mask=inside)


@triton.jit
def real_batch_norm_relu_backward_sums_kernel(
    grad, out, x, mean, rstd, partial, programs, rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Shares k of the two ``partial``: sums of g x^ and of g over the tiles k, k + programs, ..."""
    k = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    average = spread(load_channel(mean, ch, channels, LAST), LAST)
    r = spread(load_channel(rstd, ch, channels, LAST), LAST)
    along = tl.zeros((ROWS, COLUMNS), tl.float32)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(k, tiles, programs):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        g = passed(grad, out, at, inside)
        along += g * tl.where(inside, (load_real(x, at, inside) - average) * r, 0.0)
        sums += g
    store_sums(partial, k, ch, channels, programs, along, LAST)
    next = tl.cast(programs, tl.int64) * channels
    store_sums(partial + next, k, ch, channels, programs, sums, LAST)


@triton.jit
def real_batch_norm_relu_backward_kernel(
    grad, out, x, weight, mean, rstd, partial, grad_x, grad_residual, grad_weight, grad_bias, programs, per_count,
    rows, columns, channels, row, channel, part, tiles, blocks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Some tiles: dL/dx = rstd w (g - E[g] - x^ E[g x^]), without the means where the statistics were frozen."""
    first = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    ch = tile_channel(block, COLUMNS, LAST)
    r = load_channel(rstd, ch, channels, LAST)
    alpha = r if weight is None else r * load_channel(weight, ch, channels, LAST)
    if partial is not None:
        along = add_up(partial, ch, channels, programs, ROWS, COLUMNS, LAST)
        next = tl.cast(programs, tl.int64) * channels
        sums = add_up(partial + next, ch, channels, programs, ROWS, COLUMNS, LAST)
        if grad_weight is not None:
            if first == 0:
                store_channel(grad_weight, ch, channels, along, LAST)
                store_channel(grad_bias, ch, channels, sums, LAST)
    if BATCH:
        average = load_channel(mean, ch, channels, LAST)
    for tile in range(first, tiles, tl.num_programs(0) // blocks):
        at, inside = tile_place(tile, block, rows, columns, row, channel, ROWS, COLUMNS, LAST, PAIRS)
        g = passed(grad, out, at, inside)
        if grad_residual is not None:
            tl.store(grad_residual + at, g.to(grad_residual.dtype.element_ty), mask=inside)
        if BATCH:
            hat = (load_real(x, at, inside) - spread(average, LAST)) * spread(r, LAST)
            g -= spread(sums * per_count, LAST) + hat * spread(along * per_count, LAST)
        tl.store(grad_x + at, (g * spread(alpha, LAST)).to(grad_x.dtype.element_ty), mask=inside)


# --- launchers --------------------------------------------------------------------------------------------------------


def real_batch_norm_relu_forward(
    x, running_mean, running_var, weight, bias, residual, batches, training, momentum, eps
):  # fmt: skip
    """The registered operator: out, mean and rstd ``[C]`` float32. x contiguous or channels-last, residual alike."""
    check_vectors(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    out, mean, rstd = _fake_forward(x)
    t = Tiles.of_real(x)
    batch = training or running_mean is None
    if not x.numel():
        # no position to average: the running statistics are all there is
        if batch:
            return out, mean.fill_(torch.nan), rstd.fill_(torch.nan)
        return out, mean.copy_(running_mean), rstd.copy_(rstd_of(running_var, eps))
    with torch.cuda.device_of(x):
        partial = None
        if batch:
            partial = x.new_empty((2 * t.channels + 1) * t.programs, dtype=torch.float32)
            grid = (t.programs * t.blocks,)
            real_batch_norm_relu_moments_kernel[grid](x, partial, t.programs, **t.arguments(), **t.options | MOMENTS)
        running = (running_mean, running_var) if training or not batch else (None, None)
        real_batch_norm_relu_forward_kernel[(t.writers * t.blocks,)](
            x, residual, weight, bias, *running, batches if training else None, partial, out, mean, rstd,
            t.programs, 1.0 / t.count, t.count / max(1, t.count - 1), momentum, eps, **t.arguments(), **t.options,
        )  # fmt: skip
    return out, mean, rstd


def real_batch_norm_relu_backward(grad, out, x, weight, mean, rstd, training, has_residual):
    """The registered operator: gradients of x, residual, weight and bias; the second of no elements where there was no
    residual, the last two without a weight. grad and out in the strides of x."""
    check_vectors(weight=weight, mean=mean, rstd=rstd)
    grads = _fake_backward(grad, out, x, weight, mean, rstd, training, has_residual)
    t = Tiles.of_real(x)
    if not x.numel():
        return *grads[:2], grads[2].zero_(), grads[3].zero_()
    given = [g if g.numel() else None for g in grads]
    with torch.cuda.device_of(x):
        partial = None
        if training or weight is not None:
            partial = x.new_empty(2, t.programs, t.channels, dtype=torch.float32)
            real_batch_norm_relu_backward_sums_kernel[(t.programs * t.blocks,)](
                grad, out, x, mean, rstd, partial, t.programs, **t.arguments(), **t.options
            )
        real_batch_norm_relu_backward_kernel[(t.writers * t.blocks,)](
            grad, out, x, weight, mean, rstd, partial, *given, t.programs, 1.0 / t.count,
            **t.arguments(), BATCH=training, **t.options,
        )  # fmt: skip
    return grads


def _fake_forward(x, *_):
    statistic = x.new_empty(x.shape[1], dtype=torch.float32)
    return torch.empty_like(x), statistic, torch.empty_like(statistic)


def _fake_backward(grad, out, x, weight, mean, rstd, training, has_residual):
    per_channel = grad.new_empty(0) if weight is None else torch.empty_like(weight)
    grad_residual = torch.empty_like(x) if has_residual else grad.new_empty(0)
    return torch.empty_like(x), grad_residual, per_channel, torch.empty_like(per_channel)


SCHEMAS = {
    real_batch_norm_relu_forward: "(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight, "
    "Tensor? bias, Tensor? residual, Tensor? batches, bool training, float momentum, float eps) -> "
    "(Tensor, Tensor, Tensor)",
    real_batch_norm_relu_backward: "(Tensor grad, Tensor out, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, "
    "bool training, bool has_residual) -> (Tensor, Tensor, Tensor, Tensor)",
}
register(SCHEMAS, {real_batch_norm_relu_forward: _fake_forward, real_batch_norm_relu_backward: _fake_backward})
