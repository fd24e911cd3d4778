"""Complex convolution in Triton, without cuDNN: launchers and operators. groups = 1, zero padding.

Features and weights are read through their strides, whatever the layout, so nothing is copied or packed. float32
follows torch's switch for cuDNN's convolutions (`torch.backends.cudnn.conv.fp32_precision`, or ``allow_tf32``); sums
are float32. The kernels are in triton_gemm.py and triton_weight.py, the sizes of their tiles in triton_config.py.
"""

import functools
import math

import torch
import triton

from ... import backend, check
from ...planar import is_channels_last, is_interleaved, like
from ..common.triton_kernels import register
from .triton_config import TENSOR_CORES, tile, weight_tile
from .triton_gemm import conv2d_kernel
from .triton_weight import conv2d_backward_weight_kernel, conv2d_sum_kernel

WIDE = 2**31  # elements from which offsets are computed in 64 bits


def architecture(z) -> int:
    """80 for sm_80. Features on the CPU are interpreted, or compiled for the target that the driver names."""
    if not z.is_cuda:
        return 80 if backend.interpreting() else triton.runtime.driver.active.get_current_target().arch
    major, minor = torch.cuda.get_device_capability(z.device)
    return 10 * major + minor


def precision(z, arch: int) -> str:
    """TF32 where torch lets its own convolutions use it."""
    allowed = z.dtype == torch.float32 and arch >= TENSOR_CORES
    return "tf32" if allowed and torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"


def _size(size, weight, stride, padding, dilation) -> tuple[int, int]:
    """Height and width of the output."""
    return tuple(
        (size[d] + 2 * padding[d] - dilation[d] * (weight[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    )  # fmt: skip


def _like(z, channels, height, width):
    """An empty feature in the layout of ``z``."""
    n = z.shape[0]
    if is_channels_last(z):
        return z.new_empty(n, height, width, 2, channels).permute(0, 3, 4, 1, 2)
    if is_interleaved(z):
        return z.new_empty(n, channels, height, width, 2).movedim(-1, 1)
    return z.new_empty(n, 2, channels, height, width)


def _spans(*layouts) -> bool:
    """Whether an offset within one of these (shape, strides) can pass 31 bits."""
    return any(1 + sum((n - 1) * s for n, s in zip(*layout, strict=True)) >= WIDE for layout in layouts)


def _layout(t) -> tuple:
    return tuple(t.shape), t.stride()


def _paired(weight_re, weight_im):
    """One set of strides serves both parts."""
    if weight_im is not None and weight_im.stride() != weight_re.stride():
        return weight_re.contiguous(), weight_im.contiguous()
    return weight_re, weight_im


def _geometry(kernel, stride, padding, dilation) -> dict:
    values = {"K": kernel, "STRIDE_": stride, "PADDING_": padding, "DILATION_": dilation}
    return {f"{name}{axis}": value[d] for name, value in values.items() for d, axis in enumerate("YX")}


# What a launch binds depends on shapes and strides alone. Kept: worked out anew it is most of a call's time in Python
@functools.lru_cache(4096)
def _plan(arch, dtype, PRECISION, z, out, weight, stride, padding, dilation, backward):
    """Blocks of positions, the grid, integers and constants of a launch of the forward kernel, either way."""
    (n, _, source, *size), (_, _, channels, *out_size) = z[0], out[0]
    kernel, (w_out, w_in, w_y, w_x) = weight[0][2:], weight[1]
    # positions of one phase: towards the input every residue of the stride is one
    every = stride if backward else (1, 1)
    phases = tuple(min(s, length) for s, length in zip(every, out_size, strict=True))
    positions = n * math.prod(triton.cdiv(length, s) for length, s in zip(out_size, every, strict=True))
    wide, taps = z[1][2] == 1, math.prod(kernel)
    t = tile(arch, dtype, PRECISION, wide, positions * math.prod(phases), channels, source, taps)
    blocks = triton.cdiv(positions, t.M)
    steps = tuple(s // math.gcd(s, d) for s, d in zip(every, dilation, strict=True))
    integers = (
        n, source, *size, channels, *out_size, phases[1],
        *z[1], *out[1], *((w_in, w_out) if backward else (w_out, w_in)), w_y, w_x,
    )  # fmt: skip
    constants = _geometry(kernel, stride, padding, dilation) | t.arguments()
    constants |= {
        "STEP_Y": steps[0],
        "STEP_X": steps[1],
        "BACKWARD": backward,
        "WHOLE": source % t.K == 0,
        "WIDE": _spans(z, out, weight) or positions + t.M >= WIDE,
        "PRECISION": PRECISION,
        "enable_fp_fusion": True,
    }
    return blocks, (blocks * triton.cdiv(channels, t.N), math.prod(phases)), integers, constants


def _launch(
    z, weight_re, weight_im, out, stride, padding, dilation, *, backward=False, scale=None, residual=None, c=0.0,
    power=False,
):  # fmt: skip
    """``out`` from ``z``, whichever direction; with ``power`` returns the partial sums ``[programs, channels]``."""
    weight_re, weight_im = _paired(weight_re, weight_im)
    arch = architecture(z)
    how = (tuple(stride), tuple(padding), tuple(dilation))
    layouts = (_layout(z), _layout(out), _layout(weight_re))
    blocks, grid, integers, constants = _plan(arch, z.dtype, precision(z, arch), *layouts, *how, backward)
    partial = z.new_empty(blocks, out.shape[2], dtype=torch.float32) if power else None
    conv2d_kernel[grid](z, weight_re, weight_im, out, scale, residual, partial, c, *integers, **constants)
    return partial


@functools.lru_cache(4096)
def _weight_plan(arch, dtype, PRECISION, grad, z, kernel, is_complex, stride, padding, dilation):
    """The grid, whose second axis are the shares, integers and constants of the weight gradient's launch."""
    (n, _, channels, *out_size), (_, _, source, *size) = grad[0], z[0]
    inner, positions = source * math.prod(kernel), n * math.prod(out_size)
    t, chunk = weight_tile(arch, dtype, PRECISION, z[1][2] == 1, positions, channels, inner)
    grid = triton.cdiv(channels, t.M) * triton.cdiv(inner, t.N), triton.cdiv(positions, chunk)
    integers = (positions, chunk, source, *size, channels, *out_size, *grad[1], *z[1])
    constants = _geometry(kernel, stride, padding, dilation) | t.arguments()
    constants |= {
        "COMPLEX": is_complex,
        "WHOLE": source % t.N == 0,
        "WIDE": _spans(grad, z) or positions + chunk >= WIDE,
        "PRECISION": PRECISION,
        "enable_fp_fusion": True,
    }
    return grid, integers, constants


def _sum(partial, out_re, out_im, taps, inner):
    """Adds up ``partial [shares, parts * size]``."""
    size = out_re.numel()
    SHARES = min(64, triton.next_power_of_2(partial.shape[0]))
    BLOCK = min(max(16, 1024 // SHARES), triton.next_power_of_2(size))
    conv2d_sum_kernel[(triton.cdiv(size, BLOCK),)](
        partial, out_re, out_im, partial.shape[0], size, taps, inner, SHARES=SHARES, BLOCK=BLOCK, num_warps=4
    )


# --- operators --------------------------------------------------------------------------------------------------------


def conv2d_forward(z, weight_re, weight_im, stride, padding, dilation):
    """The registered operator: the convolution of ``z`` ``[N, 2, C, H, W]``, in its layout."""
    out = _fake_forward(z, weight_re, weight_im, stride, padding, dilation)
    if out.numel():
        with torch.cuda.device_of(z):
            _launch(z, weight_re, weight_im, out, stride, padding, dilation)
    return out


def conv2d_power_forward(z, weight_re, weight_im, stride, padding, dilation):
    """The registered operator: the convolution, and the sums of its power per channel ``[C]``, float32: what a norm
    after it needs of a training batch, without a pass over the features.
    """
    out, sums = _fake_power_forward(z, weight_re, weight_im, stride, padding, dilation)
    if not out.numel():
        return out, sums.zero_()
    with torch.cuda.device_of(z):
        partial = _launch(z, weight_re, weight_im, out, stride, padding, dilation, power=True)
        _sum(partial, sums, None, 1, 1)
    return out, sums


def conv2d_norm_relu_forward(z, weight_re, weight_im, scale, residual, stride, padding, dilation, c):
    """The registered operator: magnitude_relu(conv2d(z) * scale + residual, c) for inference; ``scale`` ``[C]``, what
    the running power and a norm's weight come to. ``residual`` in the output's strides.
    """
    if scale.shape != weight_re.shape[:1] or not scale.is_contiguous():
        raise ValueError(f"`scale` must be [{weight_re.shape[0]}] and contiguous, got {list(scale.shape)}")
    out = _fake_forward(z, weight_re, weight_im, stride, padding, dilation)
    if residual is not None:
        check.same(residual, "residual", out, "the convolution of z")
        residual = like(residual, out)
    if out.numel():
        with torch.cuda.device_of(z):
            _launch(z, weight_re, weight_im, out, stride, padding, dilation, scale=scale, residual=residual, c=c)
    return out


def conv2d_backward_data(grad, weight_re, weight_im, input_size, stride, padding, dilation):
    """The registered operator: the gradient of the features, ``[N, 2, C, *input_size]`` in the layout of ``grad``."""
    out = _fake_backward_data(grad, weight_re, weight_im, input_size, stride, padding, dilation)
    if not grad.numel():
        return out.zero_()
    if out.numel():
        with torch.cuda.device_of(grad):
            _launch(grad, weight_re, weight_im, out, stride, padding, dilation, backward=True)
    return out


def conv2d_backward_weight(grad, z, kernel_size, is_complex, stride, padding, dilation):
    """The registered operator: the gradients of the weight's parts ``[O, C, kH, kW]``, the second of no elements where
    the weight is real.
    """
    out_re, out_im = _fake_backward_weight(grad, z, kernel_size, is_complex, stride, padding, dilation)
    if not grad.numel() or not out_re.numel():
        return out_re.zero_(), out_im.zero_()
    arch = architecture(z)
    how = (tuple(kernel_size), is_complex, tuple(stride), tuple(padding), tuple(dilation))
    grid, integers, constants = _weight_plan(arch, z.dtype, precision(z, arch), _layout(grad), _layout(z), *how)
    with torch.cuda.device_of(z):
        partial = z.new_empty(grid[1], (2 if is_complex else 1) * out_re.numel(), dtype=torch.float32)
        conv2d_backward_weight_kernel[grid](grad, z, partial, *integers, **constants)
        _sum(partial, out_re, out_im if is_complex else None, math.prod(kernel_size), z.shape[2])
    return out_re, out_im


def _fake_forward(z, weight_re, weight_im, stride, padding, dilation):
    return _like(z, weight_re.shape[0], *_size(z.shape[3:], weight_re.shape[2:], stride, padding, dilation))


def _fake_power_forward(z, weight_re, weight_im, stride, padding, dilation):
    out = _fake_forward(z, weight_re, weight_im, stride, padding, dilation)
    return out, z.new_empty(weight_re.shape[0], dtype=torch.float32)


def _fake_norm_relu_forward(z, weight_re, weight_im, scale, residual, stride, padding, dilation, c):
    return _fake_forward(z, weight_re, weight_im, stride, padding, dilation)


def _fake_backward_data(grad, weight_re, weight_im, input_size, stride, padding, dilation):
    return _like(grad, weight_re.shape[1], *input_size)


def _fake_backward_weight(grad, z, kernel_size, is_complex, stride, padding, dilation):
    out = z.new_empty(grad.shape[2], z.shape[2], *kernel_size)
    return out, torch.empty_like(out) if is_complex else z.new_empty(0)


_WEIGHT = "Tensor weight_re, Tensor? weight_im"
_HOW = "int[] stride, int[] padding, int[] dilation"
SCHEMAS = {
    conv2d_forward: f"(Tensor z, {_WEIGHT}, {_HOW}) -> Tensor",
    conv2d_power_forward: f"(Tensor z, {_WEIGHT}, {_HOW}) -> (Tensor, Tensor)",
    conv2d_norm_relu_forward: f"(Tensor z, {_WEIGHT}, Tensor scale, Tensor? residual, {_HOW}, float c) -> Tensor",
    conv2d_backward_data: f"(Tensor grad, {_WEIGHT}, int[] input_size, {_HOW}) -> Tensor",
    conv2d_backward_weight: (
        f"(Tensor grad, Tensor z, int[] kernel_size, bool is_complex, {_HOW}) -> (Tensor, Tensor)"
    ),
}
FAKES = {
    conv2d_forward: _fake_forward,
    conv2d_power_forward: _fake_power_forward,
    conv2d_norm_relu_forward: _fake_norm_relu_forward,
    conv2d_backward_data: _fake_backward_data,
    conv2d_backward_weight: _fake_backward_weight,
}
register(SCHEMAS, FAKES)
