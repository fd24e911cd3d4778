"""Flattening that keeps the two parts apart."""

from torch import Tensor, nn

from .. import check


class ComplexFlatten(nn.Module):
    """``torch.nn.Flatten`` that counts the axes of the complex feature ``[N, C, *]``: planar keeps its two parts.

    Args:
        start_dim, end_dim: as ``torch.nn.Flatten``, not 0: samples stay apart.
    Shape:
        by default planar ``[N, 2, C, *]`` -> ``[N, 2, F]``, complex ``[N, C, *]`` -> ``[N, F]``.
    Raises:
        ValueError: an axis of 0.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        for name, value in (("start_dim", start_dim), ("end_dim", end_dim)):
            if value == 0:
                raise ValueError(f"`{name}` must not be 0, which would join samples that have their own angles")
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]`` to the same form with fewer axes."""
        check.feature(z)
        parts = 0 if z.is_complex() else 1
        ends = (d + parts if d > 0 else d + z.ndim for d in (self.start_dim, self.end_dim))
        start, end = ends
        if start < 1 + parts:
            raise ValueError(f"`start_dim`={self.start_dim} reaches the samples or the parts of `z` {list(z.shape)}")
        return z.flatten(start, end)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
