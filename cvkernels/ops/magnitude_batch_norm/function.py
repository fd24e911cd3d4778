"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, leave
from ..common.autograd import applied, fused
from ..common.power import moved_back, readable, steady
from .reference import magnitude_batch_norm as reference

OP = backend.op(
    "magnitude_batch_norm",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def magnitude_batch_norm(
    z: Tensor,
    running_power: Tensor | None = None,
    weight: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""z / sqrt(E\|z\|² + eps), E per channel over batch and positions; no mean is subtracted.        (paper, Eq. 7)

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
        running_power: running E\|z\|² ``[C]``; read in inference, updated in place in training. None: batch statistics.
        weight: real scale ``[C]``, or None. There is no offset: it would break the rotation law.
        training: normalise by this batch's power.
        momentum: how far the running power moves towards the batch's. A tensor of one element is taken for the number
            of batches so far, the running power for their plain mean; nothing of it is read back to the host.
        eps: added to the power.
    Returns:
        Tensor like ``z``.
    Raises:
        TypeError: ``z`` not floating point.   ValueError: a ``[C]`` vector of another length; in training, one value
        or none per channel (torch's rule).
    """
    z, was_complex = enter(z)
    settings = check.batch_norm(z, running_power, weight, training, momentum, eps)
    chosen = backend.choose(OP, z)
    if chosen == "reference" or not readable(weight, z):
        return leave(reference(z, running_power, weight, *settings), was_complex)
    z = dense(z)
    # The operator writes the running power, so it is called here and not inside the Function: traced there, its write
    # is dropped without a word (measured with aot_eager and Inductor). The Function only attaches the gradient.
    weight, running = steady(weight), steady(running_power)
    held = None if weight is None else weight.detach()
    y, rstd = backend.operators(chosen).magnitude_batch_norm_forward.default(z.detach(), running, held, *settings)
    moved_back(running_power, running, settings[1])
    attach = applied(_MagnitudeBatchNorm, z, weight)
    return leave(attach(z, weight, y, rstd, settings[1] or running_power is None, chosen), was_complex)


@fused("magnitude_batch_norm", order=(0, 1))
class _MagnitudeBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(z, weight, y, rstd, training, chosen):
        return y.detach()

    @staticmethod
    def kept(inputs, output, wanted):
        z, weight, _, rstd, training, _ = inputs
        return z, weight, rstd, training


if backend.compiled:

    @torch.library.register_fake("cvkernels::magnitude_batch_norm_forward")
    def _(z, running_power, weight, batches, training, momentum, eps):
        return torch.empty_like(z), z.new_empty(z.shape[2], dtype=torch.promote_types(z.dtype, torch.float32))

    @torch.library.register_fake("cvkernels::magnitude_batch_norm_backward")
    def _(grad, z, weight, rstd, training):
        return torch.empty_like(z), z.new_empty(0) if weight is None else torch.empty_like(weight)
