"""Batch norms: of magnitudes, alone and fused with the residual and the ReLU that follow it, and the real fused one."""

import torch
from torch import Tensor, nn

from .. import check
from .. import functional as F
from ..ops.common.autocast import matched
from ..ops.common.power import update
from . import processes
from .activation import modulus
from .weight import positive, real_dtype


class BatchNorm(nn.Module):
    """What the batch norms of this package share: parameters, running statistics and over whom they are taken."""

    PARAMETERS: dict[str, float]  # of each channel, and what they are at first
    STATISTICS: dict[str, float]
    weight: Tensor | None
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
        process_group=None,
    ):
        super().__init__()
        self.num_features = positive(num_features, "num_features")
        real_dtype(dtype)
        check.norm_eps(eps)
        if momentum is not None:
            check.number(momentum, "momentum")  # no tensor: the functional takes one for a count of batches
            if not 0 <= momentum <= 1:
                raise ValueError(
                    f"`momentum` must lie in [0, 1] or be None (plain mean of all batches), got {momentum}"
                )
        self.eps, self.momentum = eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.process_group = processes.checked(process_group)
        like = torch.empty(num_features, device=device, dtype=dtype)
        for name, value in self.PARAMETERS.items():
            self.register_parameter(name, nn.Parameter(torch.full_like(like, value)) if affine else None)
        # statistics stay in float32 or wider whatever the parameters are: 65504 ends float16
        wide = torch.promote_types(like.dtype, torch.float32)
        for name, value in self.STATISTICS.items():
            self.register_buffer(name, torch.full_like(like, value, dtype=wide) if track_running_stats else None)
        count = torch.zeros((), device=device, dtype=torch.int64)
        self.register_buffer("num_batches_tracked", count if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Running statistics and the count of batches as at construction."""
        if self.num_batches_tracked is not None:
            for name, value in self.STATISTICS.items():
                getattr(self, name).fill_(value)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Running statistics and parameters as at construction."""
        self.reset_running_stats()
        for name, value in self.PARAMETERS.items():
            if getattr(self, name) is not None:
                nn.init.constant_(getattr(self, name), value)

    def _apply(self, fn, recurse=True):
        before = {name: getattr(self, name) for name in self.STATISTICS}
        super()._apply(fn, recurse)
        for name, was in before.items():
            after = getattr(self, name)
            if was is not None and after is not None and torch.finfo(after.dtype).bits < 32:
                setattr(self, name, was.to(after.device, torch.float32))  # .half() has clipped what it left
        return self

    def _settings(self, z: Tensor, name: str = "z", axis: int = 2) -> dict:
        """The keyword arguments of the functional; counts the batch."""
        channels = z.shape[1 if z.is_complex() else axis]
        if channels != self.num_features:
            raise ValueError(f"`{name}` must have num_features={self.num_features} channels, got {check.shown(z)}")
        count = self.num_batches_tracked
        if self.training and count is not None:
            count.add_(1)
        momentum: float | Tensor | None = self.momentum
        if momentum is None:  # the count itself, on its device: nothing is read back to the host
            momentum = 0.0 if count is None else count
        held = {name: getattr(self, name) for name in (*self.STATISTICS, *self.PARAMETERS)}
        settings = {**held, "training": self.training, "momentum": momentum, "eps": self.eps}
        group = processes.joined(self.process_group) if self.training else None
        return settings if group is None else settings | {"training": False} | self._joint(z, group, momentum)

    def _joint(self, z: Tensor, group, momentum) -> dict:
        """The settings of a frozen norm on the statistics of all processes; moves the running ones."""
        raise NotImplementedError

    def _move(self, name: str, seen: Tensor, count: Tensor, momentum) -> None:
        running = getattr(self, name)
        if running is not None:
            batches = momentum if isinstance(momentum, Tensor) else None
            # where every process came without a value there is nothing to move to
            update(running, torch.where(count > 0, seen.detach(), running), momentum, batches)

    def extra_repr(self) -> str:
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
        group = self.process_group
        return text if group is None else f"{text}, process_group={'world' if group == 'world' else '...'}"


class _MagnitudeBatchNorm(BatchNorm):
    PARAMETERS = {"weight": 1.0}
    STATISTICS = {"running_power": 1.0}
    running_power: Tensor | None

    def _joint(self, z, group, momentum):
        power, count = processes.power(z, group)
        self._move("running_power", power, count, momentum)
        weight = self.weight
        if power.requires_grad:
            scale = processes.ratio(power, self.eps)
            weight = scale if weight is None else weight * scale
        return {"running_power": power.detach(), "weight": weight}


class MagnitudeBatchNorm2d(_MagnitudeBatchNorm):
    r"""`cvkernels.functional.magnitude_batch_norm` with its running power.

    Args:
        num_features, eps, momentum, track_running_stats, device, dtype: as ``torch.nn.BatchNorm2d``. ``momentum=None``:
            running power as the plain mean over all batches. Without running statistics, inference uses the batch's.
        process_group: over which processes the statistics of a training step are taken: None (each for itself),
            ``'world'`` or a process group. See `convert_sync_batch_norm`.
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
        eps, momentum, affine, track_running_stats, device, dtype, process_group: as in `MagnitudeBatchNorm2d`.
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
        process_group=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, process_group)
        self.c = modulus(c)

    def forward(self, z: Tensor, residual: Tensor | None = None, power_sums: Tensor | None = None) -> Tensor:
        """Features and a residual shaped like them, or None, to features; updates the running power in training.

        ``power_sums``: as in `cvkernels.functional.batch_norm_relu`.
        """
        check.feature(z, spatial=2)
        if not isinstance(self.c, str):
            return F.batch_norm_relu(z, residual=residual, c=self.c, power_sums=power_sums, **self._settings(z))
        if residual is not None:
            residual = matched(residual, z)
            check.same(residual, "residual", z, "z")
        y = F.magnitude_batch_norm(z, **self._settings(z))
        return F.magnitude_relu(y if residual is None else y + residual, self.c)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, c={self.c!r}"


class BatchNormReLU2d(BatchNorm):
    """`cvkernels.functional.real_batch_norm_relu` with its statistics: ordinary batch norm, plus a residual, then ReLU.

    For the real networks around the rotated part. Parameters and buffers are those of ``torch.nn.BatchNorm2d``, so that
    each loads the other's ``state_dict``.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as ``torch.nn.BatchNorm2d``; the
            running statistics stay in float32 or wider.
        process_group: as in `MagnitudeBatchNorm2d`.
    Shape:
        real ``[N, C, H, W]``, the residual the same -> the same.
    Raises:
        TypeError: ``dtype`` not real floating point.   ValueError: ``num_features`` < 1, ``momentum`` outside [0, 1],
        another number of channels, in training one value per channel.
    """

    PARAMETERS = {"weight": 1.0, "bias": 0.0}
    STATISTICS = {"running_mean": 0.0, "running_var": 1.0}
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        process_group=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, process_group)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Real features and a residual shaped like them, or None, to features; updates the statistics in training."""
        check.floating(x, "x")
        if x.ndim != 4:
            raise ValueError(f"`x` must be [N, C, H, W], got {check.shown(x)}")
        return F.real_batch_norm_relu(x, residual=residual, **self._settings(x, "x", 1))

    def _joint(self, x, group, momentum):
        mean, var, count = processes.moments(x, group)
        self._move("running_mean", mean, count, momentum)
        unbiased = var.detach() * (count / (count - 1).clamp(min=1)).to(var.dtype)
        self._move("running_var", unbiased, count, momentum)
        seen = {"running_mean": mean.detach(), "running_var": var.detach()}
        if not mean.requires_grad:
            return seen
        scale = processes.ratio(var, self.eps)
        weight = scale if self.weight is None else self.weight * scale
        # the mean's gradient; the offset's value is the bias to the last bit
        shift = (mean.detach() - mean) * (var.detach() + self.eps).rsqrt() * weight.detach()
        return {**seen, "weight": weight, "bias": shift if self.bias is None else self.bias + shift}


def convert_sync_batch_norm(module: nn.Module, process_group=None) -> nn.Module:
    """Make every batch norm of this package in ``module`` take its training statistics over a process group.

    The layers are changed in place and keep their names, parameters and buffers; a gradient step on each process then
    equals one on the whole batch (gradients of parameters are left to DistributedDataParallel). Batches may be of
    unequal size, and empty on some processes. torch's own batch norms are left alone: convert them with
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, which works on a GPU only and leaves these alone. In inference,
    in a group of one, and where torch.distributed is not initialised, a layer is the ordinary one.

    Args:
        module: the network; on CPU (gloo) or GPU (nccl).
        process_group: from ``torch.distributed.new_group``; None: all processes.
    Returns:
        ``module`` itself.
    Raises:
        TypeError: ``module`` is no module, ``process_group`` no process group.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}")
    group = processes.checked(processes.WORLD if process_group is None else process_group)
    for layer in module.modules():
        if isinstance(layer, BatchNorm):
            layer.process_group = group
    return module
