"""Magnitude ReLU."""

from torch import Tensor, nn

from .. import check
from .. import functional as F
from ..ops.magnitude_relu.reference import REDUCTIONS


class MagnitudeReLU(nn.Module):
    """`cvkernels.functional.magnitude_relu`: small moduli shrink, the phase is kept.

    Args:
        c: modulus from which a feature passes unchanged, > 0; or ``'channel_mean'``, the mean modulus of each sample
            and channel; ``'batch_channel_mean'`` and ``'mean'`` imitate published code.
        detach_modulus: treat the factor as a constant in the backward pass.
    Shape:
        planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` -> the same.
    Raises:
        TypeError: ``c`` neither a number nor a name.   ValueError: ``c <= 0`` or an unknown name.
    """

    def __init__(self, c: float | str = 1.0, detach_modulus: bool = False):
        super().__init__()
        self.c, self.detach_modulus = modulus(c), detach_modulus

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` to the same."""
        return F.magnitude_relu(z, self.c, self.detach_modulus)

    def extra_repr(self) -> str:
        return f"c={self.c!r}" + (", detach_modulus=True" if self.detach_modulus else "")


def modulus(c) -> float | str:
    """A constant > 0, or the name of a mean modulus."""
    if not isinstance(c, str):
        check.threshold(c)
    elif c not in REDUCTIONS:
        raise ValueError(f"`c` must be a number > 0 or one of {', '.join(REDUCTIONS)}, got {c!r}")
    return c
