"""The public function: a complex linear map as some of torch's own real ones, or by a product of ours."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as real

from ... import backend
from ...planar import enter, leave
from ..common import forms
from ..common.autocast import active, lowered
from ..common.autograd import applied, mapped
from ..common.weight import Packed, block, parts
from .reference import linear as reference

OP = backend.op("linear")
PRODUCT = backend.op("linear_product", cpu=(torch.float32,))


def linear(z: Tensor, weight) -> Tensor:
    r"""W z: a complex linear map without a bias, which would break the rotation law.

    Complex weights on a CPU are Gauss's three real products in a kernel of ours (float32, more than a few samples),
    else two real maps of ``[2N, I]``; on a GPU one of ``[N, 2I]`` by the block weight [[A, -B], [B, A]]: see
    `cvkernels.use_conv_form`. Real ones are one map of ``[2N, I]``. Differentiable twice.
    Under autocast the result has autocast's dtype; complex features are left as they are.

    Args:
        z: features, planar ``[N, 2, I]`` or complex ``[N, I]``; complex ones are copied to planar once.
        weight: real ``[O, I]``, or complex as a pair of such, stacked ``[2, O, I]``, or a complex tensor.
    Returns:
        Tensor like ``z``, with O features.
    Raises:
        TypeError, ValueError: ``z`` and ``weight`` of different dtype or device, or shapes that do not fit.
    """
    z, was_complex = enter(z, spatial=0)
    a, b = parts(weight, z, dims=2)
    if a.shape[1] != z.shape[2]:
        raise ValueError(f"`weight` {list(a.shape)} must take {a.shape[1]} features, got `z` {list(z.shape)}")
    packed = weight.block if isinstance(weight, Packed) else None
    if not active(z):
        return leave(_linear(z, a, b, packed).contiguous(), was_complex)
    z = lowered(z, was_complex)
    with torch.autocast(z.device.type, enabled=False):  # dtypes are settled
        return leave(_linear(z, a, b, packed).contiguous(), was_complex)


def _linear(z: Tensor, a: Tensor, b: Tensor | None, packed: Tensor | None) -> Tensor:
    if backend.forced() == "reference":
        return reference(z, a, b)
    if forms.in_float32(z):
        return _linear(z.float(), a, b, None).to(z.dtype)
    if b is None:
        return real.linear(z, a.to(z.dtype))
    own = z.device.type == "cpu" and z.dtype in PRODUCT.cpu and backend.choose(PRODUCT, z) == "cpu"
    form = forms.chosen_linear(z, a, own).partition("-")[0]
    if form in ("turned", "product"):
        a, b = a.to(z.dtype), b.to(z.dtype)
        if mapped() or forward_ad._current_level >= 0 or form == "turned" and torch.compiler.is_compiling():
            return _turned(z, a, b)
        return applied(_Linear, z, a, b)(z, a, b, form == "product")
    if form == "block":
        w = packed if packed is not None and packed.dtype == z.dtype else block(a, b).to(z.dtype)
        return real.linear(z.flatten(1), w).unflatten(1, (2, -1))
    a, b, (x, y) = a.to(z.dtype), b.to(z.dtype), z.unbind(1)
    if form == "gauss":
        p, q, r = real.linear(x, a), real.linear(y, b), real.linear(x + y, a + b)
        return torch.stack((p - q, r - p - q), 1)
    if form == "four":
        return torch.stack((real.linear(x, a) - real.linear(y, b), real.linear(x, b) + real.linear(y, a)), 1)
    (p, r), (s, q) = (part.chunk(2, 1) for part in real.linear(z, torch.cat((a, b))).unbind(1))
    return torch.stack((p - q, r + s), 1)


def _rows(z: Tensor) -> Tensor:
    """``[N, 2, I]`` as ``[2N, I]``: the parts of a sample in turns."""
    return z.flatten(0, 1)


def _turned(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A z + B (i z): no weight is copied, and the second product adds itself to the first."""
    re, im = z.unbind(1)
    return torch.addmm(_rows(z) @ a.t(), _rows(torch.stack((-im, re), 1)), b.t()).unflatten(0, (-1, 2))


def _product(p, q, conjugate: bool, stacked: bool) -> Tensor:
    return torch.ops.cvkernels.linear_product_forward.default(*p, *q, conjugate, stacked)


class _Linear(torch.autograd.Function):
    """`_turned` in one node, its gradients in two products each of the features and the weights, or all three of them
    by the kernel; torch differentiates the former in turn."""

    @staticmethod
    def forward(z, a, b, own):
        re, im = z.unbind(1)
        if own:
            return _product((re, im), (a.t(), b.t()), False, False)
        return (_rows(z) @ a.t()).addmm_(_rows(torch.stack((-im, re), 1)), b.t()).unflatten(0, (-1, 2))

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.own = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        z, a, b = ctx.saved_tensors
        re, im = grad.unbind(1)
        grad_z = grad_a = grad_b = None
        if ctx.own and not torch.is_grad_enabled():
            if ctx.needs_input_grad[0]:
                grad_z = _product((re, im), (a, b), True, False)
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                grad_a, grad_b = _product((re.t(), im.t()), z.unbind(1), True, True).unbind(0)
            return grad_z, grad_a, grad_b, None
        grad, back = _rows(grad), _rows(torch.stack((im, -re), 1))  # -i g
        if ctx.needs_input_grad[0]:
            grad_z = (grad @ a).addmm_(back, b).unflatten(0, (-1, 2))
        if ctx.needs_input_grad[1]:
            grad_a = grad.t() @ _rows(z)
        if ctx.needs_input_grad[2]:
            grad_b = back.t() @ _rows(z)
        return grad_z, grad_a, grad_b, None


if backend.compiled:

    @torch.library.register_fake("cvkernels::linear_product_forward")
    def _(p_re, p_im, q_re, q_im, conjugate, stacked):
        m, n = p_re.shape[0], q_re.shape[1]
        return p_re.new_empty((2, m, n) if stacked else (m, 2, n))
