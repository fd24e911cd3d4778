"""The public function, its checks, and its autograd Function."""

from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as real

from ... import backend, check
from ...planar import enter, is_channels_last, is_planes_last, laid_out, leave, to_channels_last
from ..common import forms
from ..common.autocast import active, lowered, matched
from ..common.autograd import applied, mapped, not_batched, whole
from ..common.weight import Packed, parts
from . import implicit, winograd
from .planes import OP as PLANES_OP
from .planes import PLANES, RELU
from .reference import conv2d as reference
from .through_torch import FORMS as THROUGH_TORCH
from .through_torch import Geometry

OP = backend.op(
    "conv2d",
    triton=backend.TRITON,
    otherwise="torch",
)
FORMS = {**THROUGH_TORCH, "winograd": winograd.Winograd()}


def conv2d(z: Tensor, weight, stride=1, padding=0, dilation=1, groups: int = 1) -> Tensor:
    r"""w * z: a complex convolution without a bias, which would break the rotation law.        (paper, section 3)

    Computed by torch's real convolutions in one of several forms, chosen by dtype and device: see
    `cvkernels.use_conv_form`. With ``use_backend("triton")`` and groups = 1 by kernels of our own, which follow torch's
    switch for TF32; mapping those is refused. Differentiable twice. Under autocast the result has autocast's dtype, as
    that of torch's convolution has; complex features are left as they are.

    On a CPU what is not finite reaches the results that read it and no others, as it does in torch's; with complex
    weights an Inf may be a NaN there (Gauss's sums; torch's complex convolution makes NaN of both parts), which
    ``use_conv_form("block")`` avoids.

    Args:
        z: features, planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``; complex ones are copied to planar once.
        weight: real ``[O, C/groups, kH, kW]``, or complex as a pair of such, stacked ``[2, O, C/groups, kH, kW]``, or
            a complex tensor.
        stride, padding, dilation, groups: as torch's ``conv2d``; zero padding.
    Returns:
        Tensor like ``z`` with O channels.
    Raises:
        TypeError, ValueError: ``z`` and ``weight`` of different dtype or device, or shapes that do not fit; ``padding``
        neither numbers >= 0 nor ``'same'`` (stride 1) or ``'valid'``; ``stride``, ``dilation`` or ``groups`` not an int
        >= 1.   RuntimeError: the kernel is larger than the padded map.
    """
    return _convolved(_entered(z, weight, stride, padding, dilation, groups), weight)


def conv2d_with_power(z: Tensor, weight, stride=1, padding=0, dilation=1, groups: int = 1):
    """`conv2d`, and the sums of its power per channel ``[O]``, float32, which a norm after it needs in training, where
    a kernel of our own has them at hand; else None. With real weights that are convolved channels-last inside, on a CPU
    the result stays as the convolution leaves it (`planar.is_planes_last`), which the next one then reads as it is.
    """
    z, a, b, was_complex, _, how = entered = _entered(z, weight, stride, padding, dilation, groups)
    own = _own(entered)
    if own is None:
        return _convolved(entered, weight, planes=True), None
    y, sums = implicit.conv2d(z, a, b, how.stride, how.padding, how.dilation, own, power=True)
    return leave(y, was_complex), sums


def conv2d_norm_relu(z: Tensor, weight, scale, residual, c: float, stride=1, padding=0, dilation=1, groups: int = 1):
    """(magnitude_relu(conv2d(z) * scale + residual, c), True), without a gradient, where a kernel does the end in the
    pass that writes the convolution; else (conv2d(z), False). ``scale`` ``[O]`` float32, ``residual`` as the result or
    None.
    """
    z, a, b, was_complex, _, how = entered = _entered(z, weight, stride, padding, dilation, groups)
    if residual is not None:
        residual, residual_complex = enter(residual, "residual")
        if residual_complex != was_complex:
            raise TypeError("`residual` must be planar or complex as `z` is; convert it with to_planar or to_complex")
        residual = matched(residual, z)
        check.same(residual, "residual", z, "z", shape=False)
        wanted = (z.shape[0], 2, a.shape[0], *how.result(z.shape[3:], a.shape[2:]))
        if residual.shape != wanted:
            raise ValueError(f"`residual` must have the shape of the result {list(wanted)}, got {list(residual.shape)}")
    own = _own(entered)
    if own is not None:
        rest = (how.stride, how.padding, how.dilation, c, own)
        return leave(implicit.conv2d_norm_relu(z, a, b, scale, residual, *rest), was_complex), True
    if mapped() or b is not None and how.groups > 1 or backend.choose(RELU, z) == "reference":
        return _convolved(entered, weight), False
    dtype = z.dtype
    z = z.float() if _in_float32(z, a, b, how) else z
    name, a, b, inside, outside = _form(z, a, b, _block(weight), how)
    form, outside = FORMS[name], bool(outside)
    if not inside or not form.ends:
        return _convolved(entered, weight), False
    if residual is not None:
        residual = residual.to(z.dtype)
        residual = to_channels_last(residual) if outside else residual.contiguous()
    scale = scale.to(torch.promote_types(z.dtype, torch.float32)).contiguous()
    with torch.autocast(z.device.type, enabled=False):
        y = form.run_relu(z, a, b, how, outside, scale, residual, float(c))
    return leave(y.to(dtype), was_complex), True


def _convolved(entered, weight, planes: bool = False) -> Tensor:
    """`conv2d` of arguments that have been checked; ``planes``: in any layout."""
    z, a, b, was_complex, lower, how = entered
    if not lower:
        return leave(_conv2d(z, a, b, _block(weight), how, planes), was_complex)
    with torch.autocast(z.device.type, enabled=False):  # dtypes are settled here, in the backward as well
        return leave(_conv2d(z, a, b, _block(weight), how, planes), was_complex)


def _block(weight) -> Tensor | None:
    """The block weight that was made before, if one was."""
    return weight.block if isinstance(weight, Packed) else None


def _own(entered) -> str | None:
    """The backend whose kernels convolve, None where torch's do."""
    z, *_, how = entered
    own = backend.choose(OP, z)
    return own if own != "reference" and how.groups == 1 and not mapped() else None


def _entered(z, weight, stride, padding, dilation, groups):
    """The arguments checked: planar z in the dtype to compute in, the weight's parts, whether z was complex, whether
    autocast is to be left, the numbers.
    """
    z, was_complex = enter(z, spatial=2)
    a, b = parts(weight, z, dims=4)
    if isinstance(groups, bool) or not isinstance(groups, Integral):
        raise TypeError(f"`groups` must be an int, got {check.shown(groups)}")
    if groups < 1 or z.shape[2] != a.shape[1] * groups or a.shape[0] % groups:
        raise ValueError(
            f"`weight` {list(a.shape)} with groups={groups} must take {a.shape[1] * groups} channels and give a "
            f"multiple of {groups}, got `z` {list(z.shape)}"
        )
    z, how = _geometry(z, a.shape[2:], stride, padding, dilation, int(groups))
    lower = active(z)
    return lowered(z, was_complex) if lower else z, a, b, was_complex, lower, how


def _conv2d(z, a, b, block, how: Geometry, planes: bool = False) -> Tensor:
    if backend.forced() == "reference":
        return reference(z, a, b, *how)
    own = backend.choose(OP, z)
    if own != "reference" and how.groups == 1:
        return implicit.conv2d(z, a, b, how.stride, how.padding, how.dilation, own)
    if _in_float32(z, a, b, how):
        return _conv2d(z.float(), a, b, None, how, planes).to(z.dtype)
    if b is not None and how.groups > 1:
        return laid_out(_grouped(z, a.to(z.dtype), b.to(z.dtype), how), z)
    planes = planes and b is None and backend.choose(PLANES_OP, z) == "cpu"
    name, a, b, inside, outside = _form(z, a, b, block, how)
    result = PLANES if planes and inside else outside
    return applied(_Conv2d, z, a, b)(z, a, b, how, name, inside, outside, result)


def _in_float32(z, a, b, how: Geometry) -> bool:
    """`forms.in_float32`, unless the kernel that is to do it does so itself."""
    if not forms.in_float32(z):
        return False
    return forms.chosen(z, a, b is not None, winograd.fits(z, a, how)) != "winograd"


def _form(z, a, b, block, how: Geometry):
    """The name of the form and its weights; whether it is channels-last inside; the layout of ``z``."""
    name, _, last = forms.chosen(z, a, b is not None, winograd.fits(z, a, how)).partition("-")
    outside: bool | str = is_channels_last(z)
    if b is None:
        name, outside = "real" if name == "batch" else name, PLANES if is_planes_last(z) else outside
    elif name == "block" and block is not None and block.dtype == z.dtype:
        name, a, b = "packed", block, None
    return name, a, b, bool(outside or last or name == "winograd"), outside


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(z, a, b, how, name, inside, outside, result):
        return whole(FORMS[name].run(z, a, b, how, inside, result))

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, a, b, *ctx.settings = inputs
        ctx.save_for_backward(z, a, b)

    @staticmethod
    def backward(ctx, grad):
        not_batched("conv2d", grad)
        z, a, b = ctx.saved_tensors
        how, name, inside, outside, _ = ctx.settings
        if torch.is_grad_enabled():  # a double backward: in steps that torch differentiates
            name = "block" if b is not None else "real" if name == "winograd" else name
            inside, outside = False, False
        return *FORMS[name].gradients(z, a, b, grad, how, ctx.needs_input_grad, inside, outside), *(None,) * 5

    @staticmethod
    def vmap(info, in_dims, z, a, b, *settings):
        if in_dims[1] is None and in_dims[2] is None:
            y = _Conv2d.apply(z.movedim(in_dims[0], 0).flatten(0, 1), a, b, *settings)
            return y.unflatten(0, (info.batch_size, -1)), 0
        one = lambda x, d, i: x if d is None else x.select(d, i)  # noqa: E731
        each = [
            _Conv2d.apply(*(one(x, d, i) for x, d in zip((z, a, b), in_dims, strict=False)), *settings)
            for i in range(info.batch_size)
        ]
        return torch.stack(each), 0


def _geometry(z: Tensor, kernel, stride, padding, dilation, groups) -> tuple[Tensor, Geometry]:
    """The numbers, and ``z`` padded where 'same' wants one row more at its end than at its start, as torch does it."""
    stride, dilation = check.pair(stride, "stride"), check.pair(dilation, "dilation")
    pad = (0, 0) if isinstance(padding, str) else check.pair(padding, "padding")
    _check_numbers(kernel, stride, pad, dilation)
    if not isinstance(padding, str):
        return z, _fitting(z, kernel, Geometry(stride, pad, dilation, groups))
    if padding not in ("same", "valid"):
        raise ValueError(f"`padding` must be an int, a pair, 'same' or 'valid', got {padding!r}")
    if padding == "valid":
        return z, _fitting(z, kernel, Geometry(stride, pad, dilation, groups))
    if stride != (1, 1):
        raise ValueError(f"`padding`='same' needs stride 1, got stride {stride}; give the padding in numbers")
    total = [dilation[d] * (kernel[d] - 1) for d in (0, 1)]
    if total[0] % 2 or total[1] % 2:
        z = real.pad(z.flatten(1, 2), (0, total[1] % 2, 0, total[0] % 2)).unflatten(1, (2, -1))
    return z, Geometry(stride, (total[0] // 2, total[1] // 2), dilation, groups)


def _check_numbers(kernel, stride, padding, dilation) -> None:
    """Here, for all kernels alike: torch's own differ in what they refuse and how they say so."""
    for name, values, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if min(values) < least:
            raise ValueError(f"`{name}` must be >= {least}, got {tuple(values)}")
    if min(kernel) < 1:
        raise ValueError(f"`weight` must have kernels of 1 x 1 or more, got {kernel[0]} x {kernel[1]}")


def _fitting(z: Tensor, kernel, how: Geometry) -> Geometry:
    """``how``, or torch's error where the kernel is larger than the map."""
    padded = tuple(n + 2 * p for n, p in zip(z.shape[3:], how.padding, strict=True))
    covered = tuple(d * (k - 1) + 1 for k, d in zip(kernel, how.dilation, strict=True))
    if padded[0] < covered[0] or padded[1] < covered[1]:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: "
            f"({covered[0]} x {covered[1]}). Kernel size can't be greater than actual input size"
        )
    return how


def _grouped(z, a, b, how: Geometry):
    """A and B stacked per group, one convolution on ``[2N, C]``, then one combining pass."""
    groups = how.groups
    o = a.shape[0] // groups
    both = torch.stack((a.unflatten(0, (groups, o)), b.unflatten(0, (groups, o))), 1).flatten(0, 2)
    y = real.conv2d(z.flatten(0, 1), both, None, how.stride, how.padding, how.dilation, groups)
    y = y.unflatten(0, (-1, 2)).unflatten(2, (groups, 2, o))  # [N, part of z, g, part of w, o, H, W]
    re = y[:, 0, :, 0] - y[:, 1, :, 1]
    im = y[:, 0, :, 1] + y[:, 1, :, 0]
    return torch.stack((re, im), 1).flatten(2, 3)
