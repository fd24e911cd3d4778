"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import is_channels_last, like
from ..common.angle.gradient import turned_back
from ..common.autograd import applied, fused
from .reference import rotate as reference

OP = backend.op(
    "rotate",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def rotate(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    r"""(a + ib)·e^{iθ}: two real features become one complex feature, hidden by its angle.        (paper, Eq. 2)

    Args:
        a, b: real features ``[N, C, *]`` of one shape, dtype and device, any strides.
        theta: angles ``[N]``, radians, float32 or float64 whatever the features' dtype.
    Returns:
        Planar ``[N, 2, C, *]`` in the dtype of ``a``; planar channels-last where ``a`` is channels-last. A NaN angle
        gives NaN. Differentiable twice.
    Raises:
        TypeError: ``a`` or ``b`` not real, dtypes that differ, ``theta`` in half precision.
        ValueError: shapes or devices that do not match, ``theta`` of another length than N.

    >>> import torch, cvkernels.functional as F
    >>> z = F.rotate(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.tensor([1.5708]))    # [1, 2, 3, 4, 4]
    """
    check.floating(a, "a")
    check.floating(b, "b")
    if a.ndim < 2:
        raise ValueError(f"`a` must be [N, C, *], got {check.shown(a)}")
    check.same(b, "b", a, "a")
    check.angle(theta, a, "a")
    chosen = backend.choose(OP, a)
    if chosen == "reference":
        return reference(a, b, theta)
    a = a.resolve_neg()
    a = a if a.is_contiguous() or _channels_last(a) else a.contiguous()
    b = b.resolve_neg()
    run = applied(_Rotate, a, b, theta)
    return run(a, b, theta.contiguous(), chosen)


def _channels_last(a: Tensor) -> bool:
    return a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last)


@fused("rotate", order=(0, 1, 2))
class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(a, b, theta, chosen):
        return backend.operators(chosen).rotate_forward.default(a, like(b, a), theta)

    @staticmethod
    def kept(inputs, output, wanted):
        return output if wanted[2] else None, inputs[2]

    @staticmethod
    def again(grad, out, theta):
        return turned_back(grad, out, theta)


if backend.compiled:

    @torch.library.register_fake("cvkernels::rotate_forward")
    def _(a, b, theta):
        if _channels_last(a) and not a.is_contiguous():
            n, c, h, w = a.shape
            return a.new_empty(n, h, w, 2, c).permute(0, 3, 4, 1, 2)
        return a.new_empty(a.shape[0], 2, *a.shape[1:])

    @torch.library.register_fake("cvkernels::rotate_backward")
    def _(grad, out, theta):
        part = grad.new_empty(grad.shape[0], *grad.shape[2:])
        if is_channels_last(grad):
            n, c, h, w = part.shape
            part = grad.new_empty(n, h, w, c).permute(0, 3, 1, 2)
        return part, torch.empty_like(part), torch.empty_like(theta) if out is not None else theta.new_empty(0)
