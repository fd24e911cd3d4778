"""Complex weights as pairs of real ones, and the real block weight that stands for them."""

import torch
from torch import Tensor

from ... import check


def parts(weight, z: Tensor, dims: int) -> tuple[Tensor, Tensor | None]:
    """(A, B) of a complex weight, (A, None) of a real one; checked against planar ``z``."""
    if isinstance(weight, (tuple, list)):
        if len(weight) != 2:
            raise ValueError(f"`weight` must be one tensor or a pair (real, imaginary), got {len(weight)} tensors")
        a, b = weight
        check.floating(a, "weight")
        check.same(b, "weight[1]", a, "weight[0]")
    else:
        check.floating(weight, "weight", complex_too=True)
        if weight.is_complex():
            a, b = torch.view_as_real(weight.resolve_conj()).unbind(-1)
        elif weight.ndim == dims + 1 and weight.shape[0] == 2:
            a, b = weight.unbind(0)
        else:
            a, b = weight, None
    if a.ndim != dims:
        shape = "[O, C/groups, kH, kW]" if dims == 4 else "[O, I]"
        raise ValueError(f"`weight` must be {shape}, a pair of such, or stacked [2, {shape[1:]}, got {list(a.shape)}")
    # under autocast torch's convolution brings both to one dtype; the meta device has none and refuses the question
    if z.device.type != "meta" and torch.is_autocast_enabled(z.device.type):
        check.device(a, "weight", z, "z")
    else:
        check.same(a, "weight", z, "z", shape=False)
    return a, b


def block(a: Tensor, b: Tensor) -> Tensor:
    """[[A, -B], [B, A]]: the real weight that does to (re, im) what A + iB does to a complex number."""
    return torch.cat((torch.cat((a, -b), 1), torch.cat((b, a), 1)), 0)


def gradient_of_block(grad: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradients of A and B from that of their block weight, summed in the wider of the two dtypes."""
    o, i = grad.shape[0] // 2, grad.shape[1] // 2
    g = grad.to(torch.promote_types(grad.dtype, dtype))
    return (g[:o, :i] + g[o:, i:]).to(dtype), (g[o:, :i] - g[:o, i:]).to(dtype)


def pack_aligned(elements: int) -> int:
    """What a layer takes in a packed buffer: a multiple of 16 elements."""
    return (elements + 15) // 16 * 16


def pack_views(flat: Tensor, weights, channels_last: bool) -> tuple[Tensor, ...]:
    """The block weights ``[2O, 2I, *]`` of layers with such weights ``[O, I, *]``, views of their packed buffer."""
    views, at = [], 0
    for a in weights:
        o, i, *window = a.shape
        size = 4 * a.numel()
        part = flat[at : at + size]
        if channels_last:
            views.append(part.view(2 * o, *window, 2 * i).movedim(-1, 1))
        else:
            views.append(part.view(2 * o, 2 * i, *window))
        at += pack_aligned(size)
    return tuple(views)
