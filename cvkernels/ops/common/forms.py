"""The forms in which a complex convolution or linear map is computed on real numbers, and which is chosen where.

========  ========================================================  ==================================================
block     one product, [[A, -B], [B, A]] on ``[N, 2C, H, W]``       four products; the subtraction in the accumulator
gauss     three, A, B, A + B on re, im, re + im                     three products; sums before and after
four      four, A and B on re and im                                four products, as one would write it by hand
batch     one, [A; B] on ``[2N, C, H, W]``; real weights: A alone   four products (real weights: two)
winograd  3x3 with stride 1, on a CPU: a kernel of ours              4/3 products (real weights: 8/9), as gauss
turned    linear: A on ``[2N, I]`` and B on i times that, added up   four products; no weight copied; by default only
product   linear in float32, on a CPU: a kernel of ours              three products, as gauss; by default only
========  ========================================================  ==================================================

All but winograd and product are torch's real convolution or linear map. ``-last`` after their names: features are
brought to channels-last first, and what comes out back again. Channels-last features are computed so under any form.
"""

import contextlib

import torch
from torch import Tensor

from ... import backend

TORCHS = tuple(f"{form}{layout}" for form in ("block", "gauss", "four", "batch") for layout in ("", "-last"))
NAMES = (*TORCHS, "winograd")
HALVES = (torch.float16, torch.bfloat16)
# Whether the processor multiplies tiles of bfloat16 in one instruction: AMX.
TILES = torch.cpu._is_amx_tile_supported()


def _products() -> tuple[torch.dtype, ...]:
    if not torch.backends.mkldnn.is_available():
        return ()
    has = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return tuple(dtype for dtype, name in has.items() if getattr(torch.ops.mkldnn, name)())


PRODUCTS = _products()  # of half precision, those that oneDNN has more than a plain loop for on this processor
FEW = 4  # samples below which a linear map reads its weights more than it multiplies them
_asked: str | None = None


@contextlib.contextmanager
def use_conv_form(form: str):
    """Have every `conv2d` and `linear` computed in one form, in the whole process, until the block ends.

    What has no choice is left alone: grouped complex weights, and the backends with a convolution of their own. Real
    weights have the form ``batch`` only; of others they take the layout, which in turn means nothing to `linear`.

    Args:
        form: ``"block"``, ``"gauss"``, ``"four"`` or ``"batch"``, each also with ``"-last"`` (channels-last inside).
    Raises:
        ValueError: another name.
    """
    global _asked
    if form not in NAMES:
        raise ValueError(f"`form` must be one of {', '.join(NAMES)}, got {form!r}")
    before, _asked = _asked, form
    try:
        yield
    finally:
        _asked = before


def in_float32(z: Tensor) -> bool:
    """Whether what is multiplied here is brought to float32 first. Half precision over that, torch's own, AVX2, two
    threads: a convolution of 32 channels, N=32, 16x16: 34 times as long; a linear map 64x512x512: 5.
    """
    return z.dtype in HALVES and z.device.type == "cpu" and z.dtype not in PRODUCTS


def chosen(z: Tensor, weight: Tensor, is_complex: bool, winograd: bool = False) -> str:
    """The form for planar ``z`` and real parts like ``weight``: what was asked for, else by the table. ``winograd``:
    whether that form can do it.
    """
    if winograd and (_asked == "winograd" or _asked is None and _filtered(z, weight, is_complex)):
        return "winograd"
    form = _table(z.device.type, z.dtype, weight.shape) if _asked in (None, "winograd") else _asked
    return form if is_complex else f"batch{'-last' if form.endswith('-last') else ''}"


def chosen_linear(z: Tensor, weight: Tensor, product: bool) -> str:
    """The same of a linear map; ``product``: whether that can be had. On a CPU else ``turned``: gauss, four, block over
    it, forward and with backward, two threads (Intel Xeon, AVX-512, AMX). float32 128x400x120: 1.1, 1.1; 1.1, 1.2; 1.3,
    1.0. 64x512x512: 1.3, 1.2; 1.3, 1.4; 2.0, 1.5. 256x1024x1024: 1.0, 0.9; 1.2, 1.1; 1.5, 1.3. One sample, 512x512:
    3.1, 1.8; 1.7, 1.8; 13, 3.1. bfloat16 64x512x512: 1.4, 1.5; 1.3, 1.5; 1.8, 1.3. 32x4096x4096: 1.9, 1.9; 1.4, 2.2;
    7.2, 3.7.

    Turned over product (AMD EPYC, AVX2, float32, three runs): 128x400x120 1.2 to 1.3, 1.2 to 1.3; 64x512x512 1.25 to
    1.4, 1.2 to 1.3; 256x1024x1024 1.3 to 1.4, 1.2 to 1.6; 32x4096x4096 1.7 to 2.0, 1.2 to 1.3; 4 samples, 512x512, 1.2,
    1.2; one 0.8, 0.8.
    """
    if _asked not in (None, "winograd") or z.device.type != "cpu":
        return chosen(z, weight, True)
    return "product" if product and z.shape[0] >= FEW else "turned"


def _filtered(z: Tensor, weight: Tensor, is_complex: bool) -> bool:
    """Whether Winograd's filtering wins, where it can be had: by it over `_table`'s form, two threads, AVX-512, forward
    alone and with backward, complex and real weights. 16 channels at N=64, 32x32: 1.6, 1.6; 1.3, 1.2. 32, 16x16: 1.7,
    1.5; 1.5, 1.4. 64, 8x8: 1.6, 1.6; 1.5, 1.5. 128 at N=128, 16x16: 1.8, 1.8; 1.9, 1.8. 256, 8x8: 1.3, 1.1; 1.6, 1.6.
    One sample: 1.5 to 2.9. With AVX2 alone the same, with SSE more. Not with 8 channels: 0.7, 0.7; 0.6, 0.5; nor with
    512, whose weights no cache holds: 0.9, 0.7; 1.1, 1.1. bfloat16, which it computes in float32, over block with the
    processor's own products (AVX-512): complex 16 channels 1.0, 1.0; 32 1.2, 1.1; 64 1.2, 1.2; 128 1.3, 1.25; 256 1.1,
    1.1; real 0.8 to 1.1. With AMX's never: complex 0.2 to 0.6, real 0.3 to 0.9.
    """
    out, channels = weight.shape[:2]
    half = z.dtype in HALVES and not in_float32(z)
    if half and TILES:
        return False
    few = 32 if half else 16
    return min(out, channels) >= few and out * channels <= 256 * 256 and (is_complex or not half)


def _table(device_type: str, dtype: torch.dtype, weight: torch.Size) -> str:
    if device_type == "cpu" and backend.compiled:
        # Forward and backward of one 3x3 convolution, two threads, AVX-512, ms, planes ready (block, gauss, four; -last
        # unless said; four contiguous). float32: 16x32x32 18.6, 14.8, 29.2; 32x16x16 17.5, 15.0, 23.4; 64x8x8 16.7,
        # 13.7, 22.0. bfloat16: 9.6, 8.3, 14.4; 10.0, 8.9, 13.0; 9.3, 8.7, 12.4: there Gauss would gain a tenth, and its
        # sums, rounded once more, have 2.5 times the error.
        if dtype in HALVES:
            return "block-last"
        # Fewer channels than a vector has lanes, or little work for each: the planes cost more than they save. Four
        # over block and over gauss-last, one thread: 3 channels 1.5, 1.2; 6, 5x5 1.4, 1.2; 8 1.9, 1.3; 1x1 1.6, 1.1.
        small = len(weight) == 4 and (weight[1] < 16 or weight[2] * weight[3] == 1)
        return "block" if small else "gauss-last"
    # cuDNN, not measured yet. Half precision: one matrix product on tensor cores, the more accurate one. float32: the
    # library's own transforms would be undone by a split into planes that costs a pass each.
    return "block"
