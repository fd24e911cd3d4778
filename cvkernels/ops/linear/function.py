"""The public function: a complex linear map as some of torch's own real ones, or by a product of ours."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as real

from ... import backend
from ...planar import enter, leave
from ..common import forms
from ..common.autocast import active, lowered
from ..common.autograd import applied, fused, mapped, not_batched, whole
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
        if form == "turned":
            return applied(_Turned, z, a, b)(z, a, b)
        b = b if b.stride() == a.stride() else b.contiguous()
        return applied(_Product, z, a, b)(z, a if b.stride() == a.stride() else a.contiguous(), b, "cpu")
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


def _gradients(grad: Tensor, z: Tensor, a: Tensor, b: Tensor, wanted) -> tuple:
    """Of `_turned`, in products that torch differentiates."""
    re, im = grad.unbind(1)
    grad, back = _rows(grad), _rows(torch.stack((im, -re), 1))  # -i g
    with torch.autocast(grad.device.type, enabled=False):  # the forward's dtype holds where only a backward is under it
        return (
            (grad @ a).addmm_(back, b).unflatten(0, (-1, 2)) if wanted[0] else None,
            grad.t() @ _rows(z) if wanted[1] else None,
            back.t() @ _rows(z) if wanted[2] else None,
        )


class _Turned(torch.autograd.Function):
    """`_turned` in one node, its gradients in two products each of the features and the weights."""

    @staticmethod
    def forward(z, a, b):
        re, im = z.unbind(1)
        y = (_rows(z) @ a.t()).addmm_(_rows(torch.stack((-im, re), 1)), b.t())
        return whole(y.unflatten(0, (-1, 2)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        not_batched("linear", grad)
        return _gradients(grad, *ctx.saved_tensors, ctx.needs_input_grad)


@fused("linear_product", order=(0, 1, 2), takes=3)
class _Product(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        return *inputs[:3], wanted[0], wanted[1] or wanted[2]

    @staticmethod
    def again(grad, z, a, b, of_z, of_weight):
        return _gradients(grad, z, a, b, (of_z, of_weight, of_weight))


if backend.compiled:

    @torch.library.register_fake("cvkernels::linear_product_forward")
    def _(z, a, b):
        return z.new_empty(z.shape[0], 2, a.shape[0])

    @torch.library.register_fake("cvkernels::linear_product_backward")
    def _(grad, z, a, b, of_z, of_weight):
        grad_z = z.new_empty(z.shape) if of_z else z.new_empty(0)
        return grad_z, *(w.new_empty(w.shape if of_weight else 0) for w in (a, b))
