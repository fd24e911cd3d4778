"""Complex weights as pairs of real ones, and the real block weight that stands for them."""

from typing import NamedTuple

import torch
from torch import Tensor

from ... import backend, check
from .autocast import active


class Packed(NamedTuple):
    """A complex weight beside its block weight, made before: what `cvkernels.nn.pack_weights` has a layer hand on."""

    re: Tensor
    im: Tensor
    block: Tensor


def parts(weight, z: Tensor, dims: int) -> tuple[Tensor, Tensor | None]:
    """(A, B) of a complex weight, (A, None) of a real one; checked against planar ``z``."""
    if isinstance(weight, Packed):
        a, b = weight.re, weight.im
    elif isinstance(weight, (tuple, list)):
        if len(weight) != 2:
            raise ValueError(f"`weight` must be one tensor or a pair (real, imaginary), got {len(weight)} tensors")
        a, b = weight
        check.floating(a, "weight")
        check.same(b, "weight[1]", a, "weight[0]")
        a, b = a.resolve_neg(), b.resolve_neg()
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
    if active(z) and torch.float64 not in (a.dtype, z.dtype):  # autocast brings both to one dtype
        check.device(a, "weight", z, "z")
    else:
        check.same(a, "weight", z, "z", shape=False)
    return a, b


def block(a: Tensor, b: Tensor) -> Tensor:
    """[[A, -B], [B, A]]: the real weight that does to (re, im) what A + iB does to a complex number."""
    return torch.cat((torch.cat((a, -b), 1), torch.cat((b, a), 1)), 0)


def packed_block(a: Tensor, b: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """The block weight of one layer in ``dtype``, contiguous or channels-last: one launch where there is a kernel."""
    chosen = backend.choose(backend.OPS["pack_weights"], a)
    if chosen == "reference" or torch.is_grad_enabled():
        w = block(a, b).to(dtype)
        return w.contiguous(memory_format=torch.channels_last) if channels_last and w.ndim == 4 else w
    a, b = a.contiguous(), b.contiguous()
    flat = backend.operators(chosen).pack_weights_forward.default([a], [b], dtype, channels_last)
    return pack_views(flat, [a], channels_last)[0]


def unpacked_block(grad: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradients of A and B from that of their block weight, in any strides."""
    chosen = backend.choose(backend.OPS["pack_weights"], grad)
    if chosen == "reference" or torch.is_grad_enabled():
        return gradient_of_block(grad, dtype)
    last = grad.ndim == 4 and grad.is_contiguous(memory_format=torch.channels_last)
    grad = grad if last else grad.contiguous()
    return pack_gradients(backend.operators(chosen).pack_weights_backward.default([grad], dtype, last), [grad])[0]


def pack_gradients(flat: Tensor, blocks) -> list[tuple[Tensor, Tensor]]:
    """Views of the packed gradients of A and B, for each block weight."""
    pairs, at = [], 0
    for g in blocks:
        shape = (g.shape[0] // 2, g.shape[1] // 2, *g.shape[2:])
        size = g.numel() // 4
        a, b = (flat[k : k + size].view(shape) for k in (at, at + pack_aligned(size)))
        pairs.append((a, b))
        at += 2 * pack_aligned(size)
    return pairs


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
