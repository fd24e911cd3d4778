"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, leave
from ..common.autograd import applied, fused
from .reference import rotate_phase as reference

OP = backend.op(
    "rotate_phase",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def rotate_phase(z: Tensor, theta: Tensor) -> Tensor:
    r"""z·e^{iθ}: each sample turned by its own angle.

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
        theta: angles ``[N]``, radians, float32 or float64.
    Returns:
        Tensor like ``z``. A NaN angle gives NaN. Differentiable twice.
    Raises:
        TypeError: ``z`` not floating point, ``theta`` in half precision.   ValueError: ``theta`` not ``[N]``.
    """
    z, was_complex = enter(z)
    check.angle(theta, z, "z")
    chosen = backend.choose(OP, z)
    if chosen == "reference":
        y = reference(z, theta)
    else:
        run = applied(_RotatePhase, z, theta)
        y = run(dense(z), theta.contiguous(), chosen)
    return leave(y, was_complex)


@fused("rotate_phase", order=(0, 1))
class _RotatePhase(torch.autograd.Function):
    @staticmethod
    def forward(z, theta, chosen):
        return backend.operators(chosen).rotate_phase_forward.default(z, theta)

    @staticmethod
    def kept(inputs, output, wanted):
        return output if wanted[1] else None, inputs[1]

    @staticmethod
    def again(grad, out, theta):
        re, im = grad.unbind(1)
        t = theta.view(-1, *(1,) * (re.ndim - 1))
        cos, sin = t.cos().to(grad.dtype), t.sin().to(grad.dtype)
        turn = None
        if out is not None:
            turn = (im * out[:, 0] - re * out[:, 1]).flatten(1).to(theta.dtype).sum(1)
        return torch.stack((re * cos + im * sin, im * cos - re * sin), 1), turn


if backend.compiled:

    @torch.library.register_fake("cvkernels::rotate_phase_forward")
    def _(z, theta):
        return torch.empty_like(z)

    @torch.library.register_fake("cvkernels::rotate_phase_backward")
    def _(grad, out, theta):
        return torch.empty_like(grad), torch.empty_like(theta) if out is not None else theta.new_empty(0)
