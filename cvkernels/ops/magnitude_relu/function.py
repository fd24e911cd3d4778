"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ...planar import dense, enter, laid_out, leave
from ..common.autograd import applied, fused
from .reference import REDUCTIONS
from .reference import magnitude_relu as reference

OP = backend.op(
    "magnitude_relu",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def magnitude_relu(z: Tensor, c: float | str = 1.0, detach_modulus: bool = False) -> Tensor:
    r"""Scale each feature by \|z\| / max(\|z\|, c); its phase is kept.        (paper, Eq. 6)

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, any strides.
        c: modulus from which a feature passes unchanged; > 0, in the units of ``z``. ``'channel_mean'``: the mean
            modulus of each sample and channel (the paper's form for networks other than ResNets; a flat ``[N, 2, C]``
            has no positions, so there the mean of its features: paper silent). ``'batch_channel_mean'`` and ``'mean'``
            (over the batch too; over everything) make a sample's output depend on the others: to imitate others' code.
        detach_modulus: take the factor \|z\| / max(\|z\|, c) for a constant in the backward pass, as the 2022 code.
    Returns:
        Tensor like ``z``. At ``z = 0`` value and gradient are 0; where re² + im² >= c², ``z`` itself.
    Raises:
        TypeError: ``z`` is not floating point, ``c`` not a number or name.   ValueError: ``c <= 0`` or an unknown name.
    """
    z, was_complex = enter(z)
    if isinstance(c, str):
        if c not in REDUCTIONS:
            raise ValueError(f"`c` must be a number > 0 or one of {', '.join(REDUCTIONS)}, got {c!r}")
    else:
        check.threshold(c)
    chosen = backend.choose(OP, z)
    if chosen == "reference":
        return leave(reference(z, c, detach_modulus), was_complex)
    if not isinstance(c, str):
        return leave(_run(dense(z), float(c), 0, detach_modulus, chosen), was_complex)
    # a flat feature's features are its one channel's positions; C++ takes means of contiguous planes
    planes = z.unsqueeze(2) if z.ndim == 3 and c == "channel_mean" else z
    planes = dense(planes) if chosen == "triton" else planes.contiguous()
    y = _run(planes, 1.0, REDUCTIONS[c], detach_modulus, chosen)
    return leave(laid_out(y.view(z.shape), z), was_complex)


def _run(z, *settings):
    return applied(_MagnitudeReLU, z)(z, *settings)[0]


@fused("magnitude_relu", takes=3)
class _MagnitudeReLU(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        z, c, reduce, detach_modulus, _ = inputs
        return z, output[1], c, reduce, detach_modulus


if backend.compiled:

    @torch.library.register_fake("cvkernels::magnitude_relu_forward")
    def _(z, c, reduce):
        means = {0: 0, 1: z.shape[0] * z.shape[2], 2: z.shape[2], 3: 1}[reduce]
        return torch.empty_like(z), z.new_empty(means, dtype=torch.promote_types(z.dtype, torch.float32))

    @torch.library.register_fake("cvkernels::magnitude_relu_backward")
    def _(grad, z, mean, c, reduce, detach_modulus):
        return torch.empty_like(z)
