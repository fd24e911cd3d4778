"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, leave
from ..common.angle.gradient import turned_back
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


@fused("rotate_phase", order=(0, 1), takes=2)
class _RotatePhase(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        return output if wanted[1] else None, inputs[1]

    @staticmethod
    def again(grad, out, theta):
        *parts, turn = turned_back(grad, out, theta)
        return torch.stack(parts, 1), turn


if backend.compiled:

    @torch.library.register_fake("cvkernels::rotate_phase_forward")
    def _(z, theta):
        return torch.empty_like(z)

    @torch.library.register_fake("cvkernels::rotate_phase_backward")
    def _(grad, out, theta):
        return torch.empty_like(grad), torch.empty_like(theta) if out is not None else theta.new_empty(0)
