"""Rotation by a given phase."""

from torch import Tensor, nn

from .. import functional as F


class PhaseRotation(nn.Module):
    """`cvkernels.functional.rotate_phase`. The angle is an argument and never kept: it is half of the key."""

    def forward(self, z: Tensor, theta: Tensor) -> Tensor:
        """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` and angles ``[N]`` in radians to features like ``z``."""
        return F.rotate_phase(z, theta)
