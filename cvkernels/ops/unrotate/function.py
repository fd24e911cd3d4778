"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, is_channels_last, is_interleaved
from ..common.autograd import applied, fused
from .reference import unrotate as reference

OP = backend.op(
    "unrotate",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def unrotate(h: Tensor, theta: Tensor) -> Tensor:
    r"""Re(h·e^{-iθ}): the rotation taken back and the real part read.        (paper, Eq. 3)

    Args:
        h: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
        theta: angles ``[N]``, or ``[N, K]`` for K readings of each sample from one read of ``h`` (a critic's fakes);
            radians, float32 or float64.
    Returns:
        Real ``[N, C, *]``, or ``[N, K, C, *]``; channels-last where ``h`` is. A NaN angle gives NaN. Differentiable
        twice.
    Raises:
        TypeError: ``h`` not floating point, ``theta`` in half precision.
        ValueError: ``theta`` not ``[N]`` or ``[N, K]``.
    """
    h, _ = enter(h, "h")
    check.angle(theta, h, "h", fakes=True)
    chosen = backend.choose(OP, h)
    if chosen == "reference" or not theta.shape[-1]:  # no reading of a sample, or no sample: nothing to launch for
        return reference(h, theta)
    # its output is real: there is no interleaved form to keep, so a complex tensor is read where it stands
    h = dense(h)
    if theta.requires_grad and is_interleaved(h):  # its reading is contiguous, and the two are walked together
        h = h.contiguous()
    run = applied(_Unrotate, h, theta)
    return run(h, theta.contiguous(), chosen)


@fused("unrotate", order=(0, 1), takes=2)
class _Unrotate(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        h, theta, _ = inputs
        return h if wanted[1] else None, theta

    @staticmethod
    def again(grad, h, theta):
        k = theta.ndim - 1
        t = theta.view(*theta.shape, *(1,) * (grad.ndim - theta.ndim))
        cos, sin = t.cos().to(grad.dtype), t.sin().to(grad.dtype)
        parts = torch.stack([(grad * s).sum(1) if k else grad * s for s in (cos, sin)], 1)
        turn = None
        if h is not None:
            re, im = (p.unsqueeze(1) if k else p for p in h.unbind(1))
            turn = (grad * (im * cos - re * sin)).flatten(theta.ndim).to(theta.dtype).sum(-1)
        return parts, turn


if backend.compiled:

    @torch.library.register_fake("cvkernels::unrotate_forward")
    def _(h, theta):
        shape = (*theta.shape, *h.shape[2:])
        if not is_channels_last(h):
            return h.new_empty(shape)
        *lead, c = shape[: theta.ndim + 1]
        return h.new_empty(*lead, *h.shape[3:], c).movedim(-1, theta.ndim)

    @torch.library.register_fake("cvkernels::unrotate_backward")
    def _(grad, h, theta):
        n, (c, *positions) = grad.shape[0], list(grad.shape[theta.ndim :])
        part = grad.new_empty(n, 2, c, *positions)
        if positions and not grad.is_contiguous():
            part = grad.new_empty(n, *positions, 2, c).movedim((-2, -1), (1, 2))
        return part, torch.empty_like(theta) if h is not None else theta.new_empty(0)
