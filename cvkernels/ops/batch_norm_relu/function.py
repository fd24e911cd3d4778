"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, leave
from ..common.autocast import matched
from ..common.autograd import applied, fused
from ..common.forms import HALVES
from ..common.power import moved_back, readable, steady
from .reference import batch_norm_relu as reference

OP = backend.op(
    "batch_norm_relu",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def batch_norm_relu(
    z: Tensor,
    running_power: Tensor | None = None,
    weight: Tensor | None = None,
    residual: Tensor | None = None,
    c: float = 1.0,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    power_sums: Tensor | None = None,
) -> Tensor:
    r"""magnitude_relu(magnitude_batch_norm(z) + residual, c) as one operation each way.    (paper, Eq. 7, 6)

    Its gradient is worked out from its output, which the next layer keeps anyway: neither ``z`` nor the normalised
    tensor is stored (with a ``weight`` ``z`` is, and in training in half precision beside a ``residual``).

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
        residual: added before the ReLU; shape, dtype and device of ``z``, or None. Autocast rounds a float32 one to the
            half precision that a convolution has left ``z`` in.
        c: modulus from which a feature passes unchanged; > 0.
        running_power, weight, training, momentum, eps: as in `magnitude_batch_norm`.
        power_sums: the sums of |z|^2 per channel ``[C]``, float32, where what made ``z`` has them; a training step
            in Triton then does not read ``z`` for them.
    Returns:
        Tensor like ``z``.
    Raises:
        As `magnitude_batch_norm` and `magnitude_relu`; TypeError or ValueError for a ``residual`` unlike ``z`` and
        for ``power_sums`` unlike a running power, also where nothing reads them.
    """
    z, was_complex = enter(z)
    if residual is not None:
        residual, residual_complex = enter(residual, "residual")
        if residual_complex != was_complex:
            raise TypeError("`residual` must be planar or complex as `z` is; convert it with to_planar or to_complex")
        residual = matched(residual, z)
        check.same(residual, "residual", z, "z")
    check.threshold(c)
    batches, training, momentum, eps = check.batch_norm(z, running_power, weight, training, momentum, eps)
    if power_sums is not None:
        check.running(power_sums, "power_sums", z)
    settings = (batches, training, momentum, eps, float(c))
    chosen = backend.choose(OP, z)
    if chosen == "reference" or not readable(weight, z):
        return leave(reference(z, running_power, weight, residual, *settings), was_complex)
    z = dense(z, planes_last=chosen == "cpu")
    if residual is not None:
        residual = residual if residual.stride() == z.stride() else _as(residual, z)
    # outside the Function for its write to the running power: see magnitude_batch_norm
    run = backend.operators(chosen)
    weight, running = steady(weight), steady(running_power)
    held = [None if t is None else t.detach() for t in (weight, residual)]
    if power_sums is not None and training and chosen == "triton":
        rest = (batches, momentum, eps, float(c))
        sums = steady(power_sums.detach())
        y, rstd = run.batch_norm_relu_summed_forward.default(z.detach(), sums, running, *held, *rest)
    else:
        y, rstd = run.batch_norm_relu_forward.default(z.detach(), running, *held, *settings)
    moved_back(running_power, running, training)
    attach = applied(_BatchNormReLU, z, weight, residual)
    y = attach(z, weight, residual, y, rstd, training or running_power is None, float(c), chosen)
    return leave(y, was_complex)


def _as(residual: Tensor, z: Tensor) -> Tensor:
    """``residual`` in the strides of ``z``, differentiably."""
    strides = z.stride()
    order = sorted(range(z.ndim), key=lambda d: (-strides[d], d))
    back = sorted(range(z.ndim), key=order.__getitem__)
    return residual.permute(order).contiguous().permute(back)


@fused("batch_norm_relu", order=(0, 2, 1))
class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(z, weight, residual, y, rstd, training, c, chosen):
        return y.detach()

    @staticmethod
    def kept(inputs, output, wanted):
        z, weight, residual, _, rstd, training, c, _ = inputs
        # output minus residual is the norm's only to the residual's last bit: in half precision too coarse to lean on
        coarse = residual is not None and training and z.dtype in HALVES
        return output, z if coarse or weight is not None else None, weight, residual, rstd, training, c


if backend.compiled:

    @torch.library.register_fake("cvkernels::batch_norm_relu_forward")
    def _(z, running_power, weight, residual, batches, training, momentum, eps, c):
        return torch.empty_like(z), z.new_empty(z.shape[2], dtype=torch.promote_types(z.dtype, torch.float32))

    @torch.library.register_fake("cvkernels::batch_norm_relu_backward")
    def _(grad, out, z, weight, residual, rstd, training, c):
        grad_residual = grad.new_empty(0) if residual is None else torch.empty_like(out)
        return torch.empty_like(out), grad_residual, grad.new_empty(0) if weight is None else torch.empty_like(weight)
