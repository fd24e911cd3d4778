"""Dropout with one mask for both parts."""

from torch import Tensor, nn

from .. import functional as F


class _Dropout(nn.Module):
    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"`p` must lie in [0, 1], got {p}")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ComplexDropout(_Dropout):
    """`cvkernels.functional.dropout`: zeroes complex elements, both parts together, with probability ``p``.

    Shape:
        planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` -> the same.
    Raises:
        ValueError: ``p`` outside [0, 1].
    """

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` to the same; ``z`` itself in inference."""
        return F.dropout(z, self.p, self.training)


class ComplexDropout2d(_Dropout):
    """`cvkernels.functional.dropout2d`: zeroes whole complex channels with probability ``p``. As `ComplexDropout`."""

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` to the same; ``z`` itself in inference."""
        return F.dropout2d(z, self.p, self.training)
