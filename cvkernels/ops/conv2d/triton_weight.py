"""The gradient of a complex convolution's weight in Triton: device code.

One matrix product over all positions of the output, grad conj(z): dA = g_re z_re + g_im z_im, dB = g_im z_re - g_re
z_im. The result is small and the inner axis long, so that axis is split among programs; each leaves its share in a
buffer and a second launch adds the shares up, always in the same order: no atomics, a run repeats itself bit for bit.
"""

import triton
import triton.language as tl


@triton.jit
def conv2d_backward_weight_kernel(
    grad, z, partial, positions, chunk, source_channels, height, width, channels, out_height, out_width,
    g_n, g_part, g_c, g_y, g_x, z_n, z_part, z_c, z_y, z_x,
    KY: tl.constexpr, KX: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr, PADDING_X: tl.constexpr, DILATION_Y: tl.constexpr, DILATION_X: tl.constexpr,
    COMPLEX: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """M output channels by N pairs (tap, channel read), over the ``chunk`` positions of split k: ``partial[k]``, which
    is ``[parts, channels, taps, source_channels]``. WHOLE: N divides the channels read, so that a tile has one tap.
    """
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    inner = KY * KX * source_channels
    columns = tl.cdiv(inner, N)
    split = tl.program_id(1).to(INDEX)
    o = (tl.program_id(0) // columns).to(INDEX) * M + tl.arange(0, M)
    first = tl.program_id(0) % columns * N
    i = first + tl.arange(0, N)
    tap = first // source_channels if WHOLE else i // source_channels
    ch = (i - tap * source_channels).to(INDEX)
    from_y = (tap // KX).to(INDEX) * DILATION_Y - PADDING_Y  # of one tap, or [N]
    from_x = (tap % KX).to(INDEX) * DILATION_X - PADDING_X
    across = ch * z_c + from_y * z_y + from_x * z_x  # [N]

    a = tl.zeros((M, N), tl.float32)
    b = tl.zeros((M, N), tl.float32)
    begin = split * chunk
    for start in range(begin, tl.minimum(begin + chunk, positions), K):
        m = start + tl.arange(0, K)  # chunk is a multiple of K
        n = m // (out_height * out_width)
        y = m // out_width % out_height
        x = m % out_width
        inside = m < positions
        g_at = (o * g_c)[:, None] + (n * g_n + y * g_y + x * g_x)[None, :]
        g_on = (o < channels)[:, None] & inside[None, :]
        if WHOLE:
            read_y, read_x = y * STRIDE_Y + from_y, x * STRIDE_X + from_x
            seen = (inside & (read_y >= 0) & (read_y < height) & (read_x >= 0) & (read_x < width))[:, None]
        else:
            read_y = (y * STRIDE_Y)[:, None] + from_y[None, :]
            read_x = (x * STRIDE_X)[:, None] + from_x[None, :]
            seen = inside[:, None] & (i < inner)[None, :]
            seen = seen & (read_y >= 0) & (read_y < height) & (read_x >= 0) & (read_x < width)
        z_at = (n * z_n + y * (STRIDE_Y * z_y) + x * (STRIDE_X * z_x))[:, None] + across[None, :]
        g_re = tl.load(grad + g_at, mask=g_on, other=0.0)
        g_im = tl.load(grad + g_part + g_at, mask=g_on, other=0.0)
        z_re = tl.load(z + z_at, mask=seen, other=0.0)
        z_im = tl.load(z + z_part + z_at, mask=seen, other=0.0)
        a = tl.dot(g_re, z_re, a, input_precision=PRECISION)
        a = tl.dot(g_im, z_im, a, input_precision=PRECISION)
        if COMPLEX:
            b = tl.dot(g_im, z_re, b, input_precision=PRECISION)
            b = tl.dot(-g_re, z_im, b, input_precision=PRECISION)
    stored = (o < channels)[:, None] & (i < inner)[None, :]
    at = ((split.to(tl.int64) * (PARTS * channels) + o) * inner)[:, None] + i[None, :]
    tl.store(partial + at, a, mask=stored)
    if COMPLEX:
        tl.store(partial + at + channels * inner, b, mask=stored)


@triton.jit
def conv2d_sum_kernel(
    partial, out_re, out_im, shares, size, taps, inner, SHARES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out = the sum of the shares ``[shares, parts, size]``. Each share is ``[rows, taps, inner]`` and out ``[rows,
    inner, taps]``: a weight has its taps last. Lane s of SHARES adds the shares s, s + SHARES, ...
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    s = tl.arange(0, SHARES)
    at = (i // (taps * inner) * taps + i % taps) * inner + i // taps % inner
    step = size if out_im is None else 2 * size
    at = s.to(tl.int64)[:, None] * step + at[None, :]
    re = tl.zeros((SHARES, BLOCK), tl.float32)
    im = tl.zeros((SHARES, BLOCK), tl.float32)
    for first in range(0, shares, SHARES):
        here = partial + tl.cast(first, tl.int64) * step
        some = (first + s < shares)[:, None] & inside[None, :]
        re += tl.load(here + at, mask=some, other=0.0)
        if out_im is not None:
            im += tl.load(here + size + at, mask=some, other=0.0)
    tl.store(out_re + i, tl.sum(re, 0).to(out_re.dtype.element_ty), mask=inside)
    if out_im is not None:
        tl.store(out_im + i, tl.sum(im, 0).to(out_im.dtype.element_ty), mask=inside)
