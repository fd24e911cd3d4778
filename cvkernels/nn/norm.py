"""Magnitude batch norm, alone and fused with the residual and the ReLU that follow it."""

import torch
from torch import Tensor, nn

from .. import check
from .. import functional as F
from .activation import modulus
from .weight import positive, real_dtype


class _MagnitudeBatchNorm(nn.Module):
    weight: Tensor | None
    running_power: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.num_features = positive(num_features, "num_features")
        real_dtype(dtype)
        if not eps >= 0:
            raise ValueError(f"`eps` must be >= 0, got {eps}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must lie in [0, 1] or be None (plain mean of all batches), got {momentum}")
        self.eps, self.momentum = eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        ones = torch.ones(num_features, device=device, dtype=dtype)
        self.register_parameter("weight", nn.Parameter(ones) if affine else None)
        # statistics stay in float32 or wider whatever the parameters are: 65504 ends float16
        power = torch.ones(num_features, device=device, dtype=torch.promote_types(ones.dtype, torch.float32))
        self.register_buffer("running_power", power if track_running_stats else None)
        count = torch.zeros((), device=device, dtype=torch.int64)
        self.register_buffer("num_batches_tracked", count if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Running power 1 and no batches seen, as at construction."""
        if self.running_power is not None and self.num_batches_tracked is not None:
            self.running_power.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Running statistics as at construction, scale 1."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def _apply(self, fn, recurse=True):
        before = self.running_power
        super()._apply(fn, recurse)
        after = self.running_power
        if before is not None and after is not None and torch.finfo(after.dtype).bits < 32:
            self.running_power = before.to(after.device, torch.float32)  # from before: .half() has clipped the other
        return self

    def _settings(self, z: Tensor) -> dict:
        """The keyword arguments of the functional; counts the batch."""
        channels = z.shape[1 if z.is_complex() else 2]
        if channels != self.num_features:
            raise ValueError(f"`z` must have num_features={self.num_features} channels, got {check.shown(z)}")
        count = self.num_batches_tracked
        if self.training and count is not None:
            count.add_(1)
        momentum: float | Tensor | None = self.momentum
        if momentum is None:  # the count itself, on its device: nothing is read back to the host
            momentum = 0.0 if count is None else count
        return {
            "running_power": self.running_power,
            "weight": self.weight,
            "training": self.training,
            "momentum": momentum,
            "eps": self.eps,
        }

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class MagnitudeBatchNorm2d(_MagnitudeBatchNorm):
    r"""`cvkernels.functional.magnitude_batch_norm` with its running power.

    Args:
        num_features, eps, momentum, track_running_stats, device, dtype: as ``torch.nn.BatchNorm2d``. ``momentum=None``:
            running power as the plain mean over all batches. Without running statistics, inference uses the batch's.
        affine: a real scale per channel, ``weight``; never an offset, which would break the rotation law.
    Buffers:
        ``running_power`` ``[num_features]``, E\|z\|², 1 at first, float32 or wider; ``num_batches_tracked``, int64.
    Shape:
        planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` -> the same.
    Raises:
        TypeError: ``dtype`` not real floating point.   ValueError: ``num_features`` < 1, ``momentum`` outside [0, 1],
        another number of channels, in training one value per channel.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` to the same; updates the running power in training."""
        check.feature(z, spatial=2)
        return F.magnitude_batch_norm(z, **self._settings(z))


class MagnitudeBatchNorm1d(_MagnitudeBatchNorm):
    """`MagnitudeBatchNorm2d` for planar ``[N, 2, C]`` or ``[N, 2, C, L]``, complex ``[N, C]`` or ``[N, C, L]``."""

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C]``, ``[N, 2, C, L]`` or complex to the same; updates the running power in training."""
        check.tensor(z, "z")
        check.feature(z, spatial=0 if z.ndim == (2 if z.is_complex() else 3) else 1)
        return F.magnitude_batch_norm(z, **self._settings(z))


class MagnitudeBatchNormReLU2d(_MagnitudeBatchNorm):
    """`cvkernels.functional.batch_norm_relu` with its running power: norm, plus a residual, then magnitude ReLU.

    One operator each way where ``c`` is a number; with a named mean (see `magnitude_relu`) one step after another.

    Args:
        num_features: channels.
        c: modulus from which a feature passes unchanged, > 0; or ``'channel_mean'`` and its like.
        eps, momentum, affine, track_running_stats, device, dtype: as in `MagnitudeBatchNorm2d`.
    Shape:
        planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]``, the residual the same -> the same.
    """

    def __init__(
        self,
        num_features: int,
        c: float | str = 1.0,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.c = modulus(c)

    def forward(self, z: Tensor, residual: Tensor | None = None) -> Tensor:
        """Features and a residual shaped like them, or None, to features; updates the running power in training."""
        check.feature(z, spatial=2)
        if not isinstance(self.c, str):
            return F.batch_norm_relu(z, residual=residual, c=self.c, **self._settings(z))
        if residual is not None:
            check.same(residual, "residual", z, "z")
        y = F.magnitude_batch_norm(z, **self._settings(z))
        return F.magnitude_relu(y if residual is None else y + residual, self.c)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, c={self.c!r}"
