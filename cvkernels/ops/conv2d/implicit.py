"""The convolution by our own operators: an implicit matrix product, as often differentiable as torch's.

y = F(z, w) is linear in both. So is each of its gradients, D(g, w) of the features and W(g, z) of the weight, and the
derivatives of the three are the three again: for any u like z and v like w

    <F(z, v), g> = <z, D(g, v)> = <v, W(g, z)>    and    <F(u, w), g> = <u, D(g, w)> = <w, W(g, u)>
"""

import torch
from torch import Tensor

from ... import backend
from ...planar import is_channels_last, is_interleaved
from ..common.autograd import applied


def conv2d(z: Tensor, a: Tensor, b: Tensor | None, stride, padding, dilation, chosen: str, power: bool = False):
    """w * z with w = a + ib, or a alone, in the dtype and the layout of planar ``z``; pairs of ints, groups = 1.

    With ``power`` also the sums of its power per channel, float32: a statistic, whose gradient is its user's affair.
    """
    how = (tuple(stride), tuple(padding), tuple(dilation))
    a, b = _stored(a, z), None if b is None else _stored(b, z)
    function = _WithPower if power else _Forward
    return applied(function, z, a, b)(z, a, b, how, chosen)


def conv2d_norm_relu(z, a, b, scale, residual, stride, padding, dilation, c: float, chosen: str) -> Tensor:
    """magnitude_relu(w * z * scale + residual, c) in one pass; has no gradient."""
    a, b = _stored(a, z), None if b is None else _stored(b, z)
    run = backend.operators(chosen).conv2d_norm_relu_forward.default
    return run(z, a, b, scale, residual, stride, padding, dilation, c)


def _stored(w: Tensor, z: Tensor) -> Tensor:
    """In the dtype of ``z``. Where that copies it, channels-last: the channels read are then neighbours."""
    return w if w.dtype == z.dtype else w.to(z.dtype, memory_format=torch.channels_last)


class _Own(torch.autograd.Function):
    @staticmethod
    def vmap(info, in_dims, *args):
        raise RuntimeError("conv2d's own kernels cannot be mapped; leave use_backend, or use 'reference'")


# functions, not methods of one Function that another calls: torch.compile does not trace that
def _save(ctx, inputs, output):
    z, a, b, ctx.how, ctx.chosen = inputs
    ctx.size, ctx.order = z.shape[3:], _order(output)
    ctx.save_for_backward(z, a, b)


def _gradients(ctx, grad):
    z, a, b = ctx.saved_tensors
    grad_z = grad_a = grad_b = None
    grad = _ordered(grad, ctx.order)  # the gradient of z then comes in the layout of z
    if ctx.needs_input_grad[0]:
        grad_z = applied(_Data, grad, a, b)(grad, a, b, ctx.size, ctx.how, ctx.chosen)
    if any(ctx.needs_input_grad[1:3]):
        grad_a, grad_b = _weight(grad, z, a, b, ctx.how, ctx.chosen)
    return grad_z, grad_a, grad_b, None, None


class _Forward(_Own):
    @staticmethod
    def forward(z, a, b, how, chosen):
        return backend.operators(chosen).conv2d_forward.default(z, a, b, *how)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx, grad):
        return _gradients(ctx, grad)


class _WithPower(_Own):
    @staticmethod
    def forward(z, a, b, how, chosen):
        return backend.operators(chosen).conv2d_power_forward.default(z, a, b, *how)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, inputs, output[0])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, grad, _):
        return _gradients(ctx, grad)


class _Data(_Own):
    """D(g, w)."""

    @staticmethod
    def forward(grad, a, b, size, how, chosen):
        return backend.operators(chosen).conv2d_backward_data.default(grad, a, b, size, *how)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, a, b, _, ctx.how, ctx.chosen = inputs
        ctx.save_for_backward(grad, a, b)

    @staticmethod
    def backward(ctx, u):
        grad, a, b = ctx.saved_tensors
        grad_g = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_g = applied(_Forward, u, a, b)(u, a, b, ctx.how, ctx.chosen)
        if any(ctx.needs_input_grad[1:3]):
            grad_a, grad_b = _weight(grad, u, a, b, ctx.how, ctx.chosen)
        return grad_g, grad_a, grad_b, None, None, None


class _Weight(_Own):
    """W(g, z), the second part of no elements where the weight is real."""

    @staticmethod
    def forward(grad, z, kernel_size, is_complex, how, chosen):
        return backend.operators(chosen).conv2d_backward_weight.default(grad, z, kernel_size, is_complex, *how)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, z, _, ctx.is_complex, ctx.how, ctx.chosen = inputs
        ctx.save_for_backward(grad, z)

    @staticmethod
    def backward(ctx, v, v_im):
        grad, z = ctx.saved_tensors
        v_im = v_im if ctx.is_complex else None
        grad_g = grad_z = None
        if ctx.needs_input_grad[0]:
            grad_g = applied(_Forward, z, v, v_im)(z, v, v_im, ctx.how, ctx.chosen)
        if ctx.needs_input_grad[1]:
            grad_z = applied(_Data, grad, v, v_im)(grad, v, v_im, z.shape[3:], ctx.how, ctx.chosen)
        return grad_g, grad_z, None, None, None, None


def _weight(grad, z, a, b, how, chosen):
    grad_a, grad_b = applied(_Weight, grad, z)(grad, z, a.shape[2:], b is not None, how, chosen)
    return grad_a, grad_b if b is not None else None


def _order(z: Tensor) -> tuple[int, ...] | None:
    """The axes of planar ``z`` as they lie in memory, where that is not their own order."""
    return (0, 3, 4, 1, 2) if is_channels_last(z) else (0, 2, 3, 4, 1) if is_interleaved(z) else None


def _ordered(grad: Tensor, order) -> Tensor:
    if order is None:
        return grad.contiguous()
    back = sorted(range(grad.ndim), key=order.__getitem__)
    return grad.permute(order).contiguous().permute(back)
