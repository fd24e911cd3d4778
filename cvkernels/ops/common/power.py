"""The statistic of magnitude batch norm, and the vectors of a norm as kernels read them."""

import torch
from torch import Tensor


def power(z: Tensor) -> Tensor:
    """E|z|^2 per channel of planar ``[N, 2, C, *]``, over batch and positions, in float32 or wider."""
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return wide.square().sum(1).mean((0, *range(2, z.ndim - 1)))


@torch.no_grad()
def update(running_power: Tensor, batch_power: Tensor, momentum: float, batches: Tensor | None) -> None:
    """The running power moves towards the batch's; where ``batches`` is given, by its reciprocal (cumulative mean)."""
    rate = momentum if batches is None else batches.to(running_power.dtype).reciprocal()
    running_power.copy_(running_power + rate * (batch_power - running_power))


def rstd_of(mean: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean + eps), 0 where there is nothing to divide by (a channel of zeros and no eps), as in torch's batch
    norm: zeros stay zeros."""
    if eps:
        return (mean + eps).rsqrt()
    return torch.where(mean == 0, 0, torch.where(mean == 0, 1, mean).rsqrt())


def scale(z, running_power, weight, batches, training, momentum, eps) -> Tensor:
    """weight / sqrt(E|z|^2 + eps) as the reference has it, with the running update as its side effect; ``[C]``."""
    if training or running_power is None:
        mean = power(z)
        if training and running_power is not None:
            update(running_power, mean.detach(), momentum, batches)
    else:
        mean = running_power.to(torch.promote_types(z.dtype, torch.float32))
    rstd = rstd_of(mean, eps)
    return rstd if weight is None else rstd * weight.to(rstd.dtype)


def steady(vector: Tensor | None) -> Tensor | None:
    """A ``[C]`` vector as kernels read it, one number behind the other; itself where it is so, else a copy that is
    differentiable. A statistic that was moved in a copy goes back by `moved_back`."""
    if vector is None:
        return None
    # dynamo does not trace the second question
    if vector.is_contiguous() and (torch.compiler.is_compiling() or not vector.is_neg()):
        return vector
    return vector.resolve_neg().contiguous()


def moved_back(statistic: Tensor | None, steadied: Tensor | None, training: bool) -> None:
    """What an operator has written to `steady`'s copy of a running statistic, if it made one."""
    if training and statistic is not None and steadied is not None and steadied is not statistic:
        with torch.no_grad():
            statistic.copy_(steadied)


def readable(weight: Tensor | None, z: Tensor) -> bool:
    """Kernels read a scale in the features' dtype, or in float32 beside features in half precision."""
    return weight is None or weight.dtype in (z.dtype, torch.promote_types(z.dtype, torch.float32))
