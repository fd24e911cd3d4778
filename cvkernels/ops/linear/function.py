"""The public function: a complex linear map as some of torch's own real ones."""

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


def linear(z: Tensor, weight) -> Tensor:
    r"""W z: a complex linear map without a bias, which would break the rotation law.

    Complex weights are two real maps of ``[2N, I]`` on a CPU, and one of ``[N, 2I]`` by the block weight
    [[A, -B], [B, A]] on a GPU: see `cvkernels.use_conv_form`. Real ones are one of ``[2N, I]``. Differentiable twice.
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
    form = forms.chosen_linear(z, a).partition("-")[0]
    if form == "turned":
        a, b = a.to(z.dtype), b.to(z.dtype)
        if torch.compiler.is_compiling() or mapped() or forward_ad._current_level >= 0:
            return _turned(z, a, b)
        return applied(_Linear, z, a, b)(z, a, b)
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


class _Linear(torch.autograd.Function):
    """`_turned` in one node, its gradients in two products each of the features and the weights; torch differentiates
    them in turn."""

    @staticmethod
    def forward(z, a, b):
        re, im = z.unbind(1)
        return (_rows(z) @ a.t()).addmm_(_rows(torch.stack((-im, re), 1)), b.t()).unflatten(0, (-1, 2))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        z, a, b = ctx.saved_tensors
        re, im = grad.unbind(1)
        grad, back = _rows(grad), _rows(torch.stack((im, -re), 1))  # -i g
        grad_z = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_z = (grad @ a).addmm_(back, b).unflatten(0, (-1, 2))
        if ctx.needs_input_grad[1]:
            grad_a = grad.t() @ _rows(z)
        if ctx.needs_input_grad[2]:
            grad_b = back.t() @ _rows(z)
        return grad_z, grad_a, grad_b
