"""Batch statistics over all processes of a group, differentiably.

A process sums up its own batch, one collective joins the sums, and the norm is then the ordinary one in inference, on
these statistics. Its gradient reaches them through a scale of one (and an offset of zero) that depends on them: so
every backend's kernels serve, and what a backward adds is one collective and one term. Sums travel in float64.

It stands here and not among the operations: a group belongs to a module, and operations do not call one another.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from .. import functional as F
from ..ops.common.autograd import once
from ..planar import enter

WORLD = "world"
NAME = "a batch norm across processes"


def checked(group):
    """``group`` if it is None, ``'world'`` or a process group, else the error that names it."""
    if group is None or group == WORLD or dist.is_available() and isinstance(group, dist.ProcessGroup):
        return group
    raise TypeError(
        f"`process_group` must be None (each process for itself), 'world' or a torch.distributed.ProcessGroup, "
        f"got {type(group).__name__} {group!r}"
    )


def joined(group):
    """The process group whose batches count as one, or None where there is none: not initialised, or a group of one."""
    if group is None or not dist.is_available() or not dist.is_initialized():
        return None
    found = dist.group.WORLD if group == WORLD else group
    return found if dist.get_world_size(found) > 1 else None


def power(z: Tensor, group) -> tuple[Tensor, Tensor]:
    r"""(E\|z\|² ``[C]`` over the batches of all processes, float32 or wider; the number of values, ``[1]`` float64)."""
    return _Power.apply(enter(z)[0], group)


def moments(x: Tensor, group) -> tuple[Tensor, Tensor, Tensor]:
    """(mean ``[C]``, biased variance ``[C]``, number of values) of real ``[N, C, *]``, in all processes as `power`."""
    return _Moments.apply(x, group)


def ratio(seen: Tensor, eps: float) -> Tensor:
    """1, with the gradient of 1/sqrt(seen + eps) relative to its value: what a frozen norm's scale is multiplied by."""
    whole = seen + eps
    whole = torch.where(whole == 0, 1, whole)  # a channel of zeros and no eps: its scale is 0 and stays that
    return (whole.detach() / whole).sqrt()


def _over(v: Tensor, x: Tensor, axis: int) -> Tensor:
    return v.view(-1, *(1,) * (x.ndim - axis - 1))


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(z, group):
        sums = F.magnitude_power(z)
        joint = torch.cat((sums.double(), sums.new_full((1,), z[:, 0, 0].numel(), dtype=torch.float64)))
        dist.all_reduce(joint, group=group)
        count = joint[-1:].clone()
        return (joint[:-1] / count.clamp(min=1)).to(sums.dtype), count

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, ctx.group = inputs
        ctx.save_for_backward(z, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once(NAME)
    def backward(ctx, grad, _):
        z, count = ctx.saved_tensors
        total = grad.double()  # a copy also where it is float64 already: what came in is not written to
        total = total.clone() if total is grad else total
        dist.all_reduce(total, group=ctx.group)
        factor = (2 * total / count.clamp(min=1)).to(grad.dtype)
        return (z * _over(factor, z, 2)).to(z.dtype), None


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(x, group):
        channels, wide = x.shape[1], torch.promote_types(x.dtype, torch.float32)
        mine = x.new_zeros(2 * channels + 1, dtype=torch.float64)
        if x.numel():
            mean, var = torch.batch_norm_update_stats(x.to(wide), None, None, 0.0)
            values = x.numel() // channels
            torch.cat((mean.double(), var.double() * values, mean.new_full((1,), values).double()), out=mine)
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(every, mine, group=group)
        means, squares, counts = torch.stack(every).split((channels, channels, 1), 1)
        count = counts.sum(0)
        # each batch's squares about its own mean, then about the mean of all (Chan): no difference of two large sums
        mean = (counts * means).sum(0) / count.clamp(min=1)
        var = (squares + counts * (means - mean).square()).sum(0) / count.clamp(min=1)
        return mean.to(wide), var.to(wide), count

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.group = inputs
        mean, _, count = output
        ctx.save_for_backward(x, mean, count)
        ctx.mark_non_differentiable(count)

    @staticmethod
    @once(NAME)
    def backward(ctx, grad_mean, grad_var, _):
        x, mean, count = ctx.saved_tensors
        joint = torch.cat((grad_mean, 2 * grad_var)).double()
        dist.all_reduce(joint, group=ctx.group)
        offset, factor = (joint / count.clamp(min=1)).to(mean.dtype).chunk(2)
        return torch.addcmul(_over(offset, x, 1), x - _over(mean, x, 1), _over(factor, x, 1)).to(x.dtype), None


# Collectives inside a Function do not trace; dynamo leaves these two alone and compiles around them. The attribute is
# what torch.compiler.disable sets: calling it would import dynamo here, see backend.py.
power._torchdynamo_disable = moments._torchdynamo_disable = True  # type: ignore[attr-defined]
