"""The public function: a complex linear map as one of torch's own real ones."""

from torch import Tensor
from torch.nn import functional as real

from ... import backend
from ...planar import enter, leave
from ..common.weight import block, parts
from .reference import linear as reference

OP = backend.op("linear")


def linear(z: Tensor, weight) -> Tensor:
    r"""W z: a complex linear map without a bias, which would break the rotation law.

    Complex weights are one real map of ``[N, 2I]`` by the block weight [[A, -B], [B, A]], real ones one of ``[2N, I]``.
    Differentiable twice.

    Args:
        z: features, planar ``[N, 2, I]`` or complex ``[N, I]``; complex ones are copied to planar once.
        weight: real ``[O, I]``, or complex as a pair of such, stacked ``[2, O, I]``, or a complex tensor.
    Returns:
        Tensor like ``z``, with O features.
    Raises:
        TypeError, ValueError: ``z`` and ``weight`` of different dtype or device, or shapes that do not fit.
    """
    z, was_complex = enter(z, spatial=0)
    a, b = parts(weight, z, dims=2)
    if a.shape[1] != z.shape[2]:
        raise ValueError(f"`weight` {list(a.shape)} must take {a.shape[1]} features, got `z` {list(z.shape)}")
    if backend.forced() == "reference":
        y = reference(z, a, b)
    elif b is None:
        y = real.linear(z, a)
    else:
        y = real.linear(z.flatten(1), block(a, b)).unflatten(1, (2, -1))
    return leave(y.contiguous(), was_complex)
