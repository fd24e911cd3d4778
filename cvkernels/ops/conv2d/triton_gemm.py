"""A complex convolution as one implicit matrix product, forwards and towards its input: device code.

Rows are positions of the result, columns its channels, and the inner axis runs over the taps of the kernel and, within
a tap, over the channels that are read. A program keeps the accumulators of both parts, so each tile of features and of
weights is loaded once: re += re A - im B, im += im A + re B; a real weight takes A alone.

Towards the input the roles change, with the weight conjugated: position y is met by output (y + padding - tap
dilation) / stride where that is whole. Which taps those are depends on y modulo the stride alone: its phase. A program
belongs to one phase and walks that phase's taps, so no product with zero is computed. Either way

    source = place * SOURCE + start + j * HOP,    tap = first + j * STEP,    j = 0 .. taps - 1

with the place's coordinate in the result ``place * PLACE + phase``. One axis of it is `along`.
"""

import triton
import triton.language as tl

from ..common.triton_kernels import relu_factor


@triton.jit
def along(
    phase, SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
    STEP: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """One axis: its first tap, how many there are, and where the first one reads at place 0. SIZE: of the kernel."""
    if BACKWARD:
        first = phase * 0 + SIZE  # no tap
        for t in tl.static_range(STEP):
            meets = (phase + PADDING - t * DILATION) % STRIDE == 0
            first = tl.where(meets, tl.minimum(first, t), first)
        taps = (SIZE - first + STEP - 1) // STEP
        ahead = phase + PADDING - first * DILATION  # a multiple of the stride, of either sign
        start = tl.where(ahead >= 0, ahead // STRIDE, -(-ahead // STRIDE))
        return first, taps, start
    else:
        return 0, SIZE, -PADDING


@triton.jit
def conv2d_kernel(
    z, weight_re, weight_im, out, scale, residual, partial, c,
    samples, source_channels, height, width, channels, out_height, out_width, across,
    z_n, z_part, z_c, z_y, z_x, out_n, out_part, out_c, out_y, out_x, w_out, w_in, w_y, w_x,
    KY: tl.constexpr, KX: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr, PADDING_X: tl.constexpr, DILATION_Y: tl.constexpr, DILATION_X: tl.constexpr,
    STEP_Y: tl.constexpr, STEP_X: tl.constexpr, BACKWARD: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """M positions of one phase and N channels. ``across``: phases along x. WHOLE: K divides the channels read, so that
    a tile lies within one tap; WIDE: a tensor has 2^31 elements or more.

    What is stored: the sums; with ``scale`` relu(sums * scale + residual, c); with ``partial`` also, in row k of it,
    the power of what this program stored.
    """
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    PLACE_Y: tl.constexpr = STRIDE_Y if BACKWARD else 1
    PLACE_X: tl.constexpr = STRIDE_X if BACKWARD else 1
    SOURCE_Y: tl.constexpr = 1 if BACKWARD else STRIDE_Y
    SOURCE_X: tl.constexpr = 1 if BACKWARD else STRIDE_X
    HOP_Y: tl.constexpr = -(STEP_Y * DILATION_Y // STRIDE_Y) if BACKWARD else DILATION_Y
    HOP_X: tl.constexpr = -(STEP_X * DILATION_X // STRIDE_X) if BACKWARD else DILATION_X
    columns = tl.cdiv(channels, N)
    block = tl.program_id(0) // columns
    phase_y = tl.program_id(1) // across
    phase_x = tl.program_id(1) % across
    first_y, taps_y, start_y = along(phase_y, KY, STRIDE_Y, PADDING_Y, DILATION_Y, STEP_Y, BACKWARD)
    first_x, taps_x, start_x = along(phase_x, KX, STRIDE_X, PADDING_X, DILATION_X, STEP_X, BACKWARD)

    # [M] positions: sample n, place (y, x) of this phase
    rows = tl.cdiv(out_height - phase_y, PLACE_Y)
    row = tl.cdiv(out_width - phase_x, PLACE_X)
    m = block.to(INDEX) * M + tl.arange(0, M)
    n = m // (rows * row)
    y = m // row % rows
    x = m % row
    inside = n < samples
    top = y * SOURCE_Y + start_y
    left = x * SOURCE_X + start_x
    from_here = n * z_n + top * z_y + left * z_x
    o = (tl.program_id(0) % columns).to(INDEX) * N + tl.arange(0, N)  # [N]

    re = tl.zeros((M, N), tl.float32)
    im = tl.zeros((M, N), tl.float32)
    total = taps_y * taps_x * source_channels
    for begin in range(0, total, K):
        k = begin + tl.arange(0, K)
        if WHOLE:
            tap = begin // source_channels
            ch = (k - tap * source_channels).to(INDEX)
            j_y, j_x = (tap // taps_x).to(INDEX), (tap % taps_x).to(INDEX)
            read_y, read_x = top + j_y * HOP_Y, left + j_x * HOP_X
            seen = (inside & (read_y >= 0) & (read_y < height) & (read_x >= 0) & (read_x < width))[:, None]
            at = (from_here + j_y * (HOP_Y * z_y) + j_x * (HOP_X * z_x))[:, None] + (ch * z_c)[None, :]
            known = (o < channels)[None, :]
        else:
            tap = k // source_channels
            ch = (k - tap * source_channels).to(INDEX)
            j_y, j_x = (tap // taps_x).to(INDEX), (tap % taps_x).to(INDEX)
            read_y = top[:, None] + (j_y * HOP_Y)[None, :]
            read_x = left[:, None] + (j_x * HOP_X)[None, :]
            seen = inside[:, None] & (k < total)[None, :]
            seen = seen & (read_y >= 0) & (read_y < height) & (read_x >= 0) & (read_x < width)
            at = from_here[:, None] + (ch * z_c + j_y * (HOP_Y * z_y) + j_x * (HOP_X * z_x))[None, :]
            known = (k < total)[:, None] & (o < channels)[None, :]
        part = (first_y + j_y * STEP_Y) * w_y + (first_x + j_x * STEP_X) * w_x
        w_at = (ch * w_in + part)[:, None] + (o * w_out)[None, :]
        z_re = tl.load(z + at, mask=seen, other=0.0)
        z_im = tl.load(z + z_part + at, mask=seen, other=0.0)
        a = tl.load(weight_re + w_at, mask=known, other=0.0)
        re = tl.dot(z_re, a, re, input_precision=PRECISION)
        im = tl.dot(z_im, a, im, input_precision=PRECISION)
        if weight_im is not None:
            b = tl.load(weight_im + w_at, mask=known, other=0.0)
            if BACKWARD:  # by the conjugate
                re = tl.dot(z_im, b, re, input_precision=PRECISION)
                im = tl.dot(-z_re, b, im, input_precision=PRECISION)
            else:
                re = tl.dot(-z_im, b, re, input_precision=PRECISION)
                im = tl.dot(z_re, b, im, input_precision=PRECISION)

    to_here = n * out_n + (y * PLACE_Y + phase_y) * out_y + (x * PLACE_X + phase_x) * out_x
    at = to_here[:, None] + (o * out_c)[None, :]
    stored = inside[:, None] & (o < channels)[None, :]
    if scale is not None:
        by = tl.load(scale + o, mask=o < channels, other=0.0)[None, :]
        re, im = re * by, im * by
        if residual is not None:
            re += tl.load(residual + at, mask=stored, other=0.0).to(tl.float32)
            im += tl.load(residual + out_part + at, mask=stored, other=0.0).to(tl.float32)
        factor = relu_factor(re, im, c)
        re, im = re * factor, im * factor
    re = re.to(out.dtype.element_ty)
    im = im.to(out.dtype.element_ty)
    tl.store(out + at, re, mask=stored)
    tl.store(out + out_part + at, im, mask=stored)
    if partial is not None:
        re, im = re.to(tl.float32), im.to(tl.float32)  # of what was rounded and stored
        power = tl.sum(tl.where(stored, re * re + im * im, 0.0), 0)
        tl.store(partial + block.to(tl.int64) * channels + o, power, mask=o < channels)
