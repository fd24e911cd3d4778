"""Dropout with one mask for both parts, or the phase would not survive."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as real

from ... import backend
from ...planar import dense, enter, laid_out, leave
from ..common.autograd import applied, fused, mapped

# A mask that is drawn where it is used, from a seed: torch's own is written, read and kept (10 times as long).
OP = backend.op("dropout", cpu=(*backend.FLOATS, torch.bfloat16), otherwise="torch")


def dropout(z: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each complex element with probability ``p``, scale the rest by 1 / (1 - p); one mask for both parts.

    Args:
        z: features, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``.
        p: probability in [0, 1].
        training: False returns ``z``.
    Returns:
        Tensor like ``z``. The mask comes from torch's generator, and with the CPU's kernel also from the layout of
        ``z``; differentiable twice.
    """
    return _dropped(z, p, training, False)


def dropout2d(z: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero whole complex channels with probability ``p``, scale the rest by 1 / (1 - p). As `dropout` otherwise."""
    return _dropped(z, p, training, True)


def _dropped(z, p, training, channels):
    z, was_complex = _entered(z, p)
    if not (training and p):
        return leave(z, was_complex)
    if backend.choose(OP, z) != "cpu":
        return leave(_masked(z, p, (1,) * (z.ndim - 3) if channels else z.shape[3:]), was_complex)
    seed = torch.randint(2**63 - 1, (1,), device="cpu")  # whatever the default device is
    z = dense(z)
    if forward_ad._current_level < 0:
        y = applied(_Dropout, z)(z, seed, float(p), channels, "cpu")
    else:  # a tangent goes through torch's product
        y = z * torch.ops.cvkernels.dropout_forward.default(torch.ones_like(z), seed, float(p), channels)
    return leave(y, was_complex)


def _entered(z, p):
    if not 0 <= p <= 1:
        raise ValueError(f"`p` must lie in [0, 1], got {p}")
    return enter(z)


def _masked(z: Tensor, p: float, positions: tuple) -> Tensor:
    mask = torch.empty(z.shape[0], 1, z.shape[2], *positions, dtype=z.dtype, device=z.device)
    if mapped():  # functorch maps no draw that is written in place
        mask = real.dropout(torch.ones_like(mask), p, True)
    else:
        mask = mask.bernoulli_(1 - p).div_(1 - p) if p < 1 else mask.zero_()
    return laid_out(z * mask, z)


@fused("dropout", backward="dropout_forward", takes=4)
class _Dropout(torch.autograd.Function):
    @staticmethod
    def kept(inputs, output, wanted):
        return inputs[1:4]

    @staticmethod
    def again(grad, seed, p, channels):
        return (_Dropout.apply(grad, seed, p, channels, "cpu"),)

    @staticmethod
    def vmap(info, in_dims, z, seed, *settings):
        each = lambda x, axis, i: x if axis is None else x.select(axis, i)  # noqa: E731
        found = [
            _Dropout.apply(dense(each(z, in_dims[0], i)), each(seed, in_dims[1], i), *settings)
            for i in range(info.batch_size)
        ]
        return torch.stack(found), 0


if backend.compiled:

    @torch.library.register_fake("cvkernels::dropout_forward")
    def _(z, seed, p, channels):
        return torch.empty_like(z)
