"""The power sums that processes add up before they divide, and their autograd Function."""

import torch
from torch import Tensor

from ... import backend
from ...planar import dense, enter
from ..common.autograd import applied
from .reference import magnitude_power as reference

OP = backend.op(
    "magnitude_power",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def magnitude_power(z: Tensor) -> Tensor:
    r"""Sums of \|z\|² per channel over batch and positions.

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
    Returns:
        ``[C]``, float32 or wider; zeros for an empty batch. Differentiable as often as you like.
    Raises:
        TypeError: ``z`` not floating point.   ValueError: no axis of size 2 where the parts stand.
    """
    z, _ = enter(z)
    chosen = backend.choose(OP, z)
    if chosen == "reference":
        return reference(z)
    z = dense(z)
    run = applied(_MagnitudePower, z)
    return run(z, chosen)


class _MagnitudePower(torch.autograd.Function):
    @staticmethod
    def forward(z, chosen):
        return backend.operators(chosen).magnitude_power_forward.default(z)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        # in plain torch: the statistics across processes have a backward of their own, so no step reaches this one
        return (z.to(grad.dtype) * (2 * grad).view(-1, *(1,) * (z.ndim - 3))).to(z.dtype), None


if backend.compiled:

    @torch.library.register_fake("cvkernels::magnitude_power_forward")
    def _(z):
        return z.new_empty(z.shape[2], dtype=torch.promote_types(z.dtype, torch.float32))
