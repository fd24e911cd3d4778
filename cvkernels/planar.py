"""The house type: a complex feature as one real tensor ``[N, 2, C, *]``, and the doors for torch's complex dtypes.

Three dense layouts are read and written in place: contiguous, planar channels-last (strides of ``[N, *, 2, C]``) and
interleaved (what a complex tensor is underneath, strides of ``[N, C, *, 2]``). Anything else is copied once; a fourth
passes between two layers on a CPU, see `is_planes_last`.
"""

import torch
from torch import Tensor

from . import check


def to_planar(z: Tensor) -> Tensor:
    """Complex ``[N, C, *]`` to planar ``[N, 2, C, *]``, contiguous; a planar tensor is returned as it is."""
    z, was_complex = enter(z)
    return z.contiguous() if was_complex else z


def to_complex(z: Tensor) -> Tensor:
    """Planar ``[N, 2, C, *]`` (float32, float64) to complex ``[N, C, *]``; a complex tensor is returned as it is."""
    check.feature(z)
    if z.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"`z` must be float32 or float64, got {check.shown(z)}: there is no complex dtype of it")
    return z if z.is_complex() else leave(z, True)


def to_channels_last(z: Tensor) -> Tensor:
    """Planar ``[N, 2, C, H, W]`` with the strides of ``[N, H, W, 2, C]``: as ``[N, 2C, H, W]`` it is channels-last."""
    check.feature(z, spatial=2)
    if z.is_complex():
        raise TypeError(f"`z` must be planar, got {check.shown(z)}; convert it with to_planar")
    return z if is_channels_last(z) else z.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


def enter(z: Tensor, name: str = "z", spatial: int | None = None) -> tuple[Tensor, bool]:
    """Check a feature and hand it on as planar: a view, also of a complex tensor. Lazy conjugates are resolved here."""
    good = isinstance(z, Tensor) and z.dtype in check.REAL and z.ndim > 2 and z.shape[1] == 2
    if not good or spatial is not None and z.ndim != 3 + spatial:
        check.feature(z, name, spatial)
        if not z.numel():  # the backward of `view_as_real` refuses the strides of an empty gradient
            return torch.stack((z.real, z.imag), 1), True
        return torch.view_as_real(z.resolve_conj().resolve_neg()).movedim(-1, 1), True
    z = z.resolve_neg()
    if not z.is_contiguous() and is_interleaved(z) and not is_channels_last(z):
        z = z.contiguous()  # the layout is the complex dtypes' own; what is planar comes out as it is promised
    return z, False


def leave(z: Tensor, as_complex: bool) -> Tensor:
    """What `enter` was given: planar, or complex (a view where ``z`` is interleaved, else one copy)."""
    if as_complex and not z.numel():  # `contiguous` leaves the strides of an empty tensor as they are
        return torch.complex(*z.unbind(1))
    if not as_complex:
        return z
    pairs = z.movedim(1, -1).contiguous()
    if not torch.compiler.is_compiling() and pairs.storage_offset() % 2:  # dynamo does not trace the question
        pairs = pairs.clone()
    return torch.view_as_complex(pairs)


def is_channels_last(z: Tensor) -> bool:
    """Planar ``[N, 2, C, *]`` dense with the strides of ``[N, *, 2, C]``, and not contiguous as well."""
    return z.ndim > 3 and not z.is_contiguous() and z.movedim((1, 2), (-2, -1)).is_contiguous()


def is_interleaved(z: Tensor) -> bool:
    """The planar view of a contiguous complex tensor."""
    return not z.is_contiguous() and z.movedim(1, -1).is_contiguous()


def is_planes_last(z: Tensor) -> bool:
    """Planar ``[N, 2, C, H, W]`` dense with the strides of ``[N, 2, H, W, C]``, and not contiguous as well: what passes
    between a convolution with real weights and the norm after it on a CPU; as ``[2N, C, H, W]`` it is channels-last.
    """
    return z.ndim == 5 and not z.is_contiguous() and z.movedim(2, -1).is_contiguous()


def dense(z: Tensor, planes_last: bool = False) -> Tensor:
    """``z``, or a contiguous copy where it is in none of the three layouts (of four, with ``planes_last``);
    differentiable."""
    known = z.is_contiguous() or is_channels_last(z) or is_interleaved(z) or planes_last and is_planes_last(z)
    return z if known else z.contiguous()


def like(grad: Tensor, z: Tensor) -> Tensor:
    """``grad`` in the strides of ``z`` (same shape, dense): what a kernel needs that walks both together."""
    return grad if grad.stride() == z.stride() else torch.empty_like(z).copy_(grad)


def laid_out(out: Tensor, z: Tensor) -> Tensor:
    """``out`` in the layout that ``z`` came in: channels-last, interleaved, else contiguous."""
    if out.ndim == 5 and is_channels_last(z):
        return out if is_channels_last(out) else out.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    if is_interleaved(z):
        return out if is_interleaved(out) else out.movedim(1, -1).contiguous().movedim(-1, 1)
    return out.contiguous()


def resized(like: Tensor, size, channels_last: bool = False) -> Tensor:
    """Empty planar ``[N, 2, C, *size]`` in the layout of ``like``: what an operator makes, for its fake."""
    n, _, c = like.shape[:3]
    if channels_last or is_channels_last(like):
        return like.new_empty(n, *size, 2, c).permute(0, 3, 4, 1, 2)
    if is_interleaved(like):
        return like.new_empty(n, c, *size, 2).movedim(-1, 1)
    return like.new_empty(n, 2, c, *size)


def widened(z: Tensor) -> Tensor:
    """Planar to complex for a reference: half precision in complex64 (and rounded once, by `narrowed`)."""
    return leave(z.float() if z.dtype in (torch.float16, torch.bfloat16) else z, True)


def narrowed(out: Tensor, z: Tensor) -> Tensor:
    """A reference's complex result back to planar, in the dtype and layout of ``z``."""
    return laid_out(torch.stack((out.real, out.imag), 1).to(z.dtype), z)
