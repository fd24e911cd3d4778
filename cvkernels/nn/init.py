r"""Weight initialisation for complex kernels: E\|w\|² of both parts together is what the field's rule says.

Every function fills its argument in place and returns it. The argument is a pair (real, imaginary) of tensors of one
shape, as `ComplexConv2d.kernel` gives it, or one real tensor, for which torch's own rule holds.

>>> import cvkernels.nn as cnn
>>> layer = cnn.ComplexConv2d(8, 16, 3)
>>> _ = cnn.init.kaiming_normal_(layer.kernel(), nonlinearity="relu")
"""

import math

import torch
from torch import Tensor, nn

Kernel = Tensor | tuple[Tensor, Tensor]


def fans(weight: Kernel) -> tuple[int, int]:
    """(fan in, fan out) of a kernel, counted in complex numbers as torch counts real ones."""
    shape = _parts(weight)[0].shape
    if len(shape) < 2:
        raise ValueError(f"`weight` must have two axes or more, [O, I, *], got {list(shape)}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def default_(weight: Kernel, generator=None) -> Kernel:
    r"""E\|w\|² = 1 / (3 fan_in), the variance of torch's default for convolution and linear layers; uniform parts."""
    return _uniform(weight, 1 / (3 * max(fans(weight)[0], 1)), generator)


def kaiming_uniform_(
    weight: Kernel, a: float = 0.0, mode="fan_in", nonlinearity="leaky_relu", generator=None
) -> Kernel:
    r"""E\|w\|² = gain² / fan, uniform parts (He et al. 2015). Arguments as ``torch.nn.init.kaiming_uniform_``."""
    return _uniform(weight, _kaiming(weight, a, mode, nonlinearity), generator)


def kaiming_normal_(weight: Kernel, a: float = 0.0, mode="fan_in", nonlinearity="leaky_relu", generator=None) -> Kernel:
    r"""E\|w\|² = gain² / fan, normal parts (He et al. 2015). Arguments as ``torch.nn.init.kaiming_normal_``."""
    return _normal(weight, _kaiming(weight, a, mode, nonlinearity), generator)


def xavier_uniform_(weight: Kernel, gain: float = 1.0, generator=None) -> Kernel:
    r"""E\|w\|² = 2 gain² / (fan_in + fan_out), uniform parts (Glorot and Bengio 2010)."""
    return _uniform(weight, 2 * gain**2 / sum(fans(weight)), generator)


def xavier_normal_(weight: Kernel, gain: float = 1.0, generator=None) -> Kernel:
    r"""E\|w\|² = 2 gain² / (fan_in + fan_out), normal parts (Glorot and Bengio 2010)."""
    return _normal(weight, 2 * gain**2 / sum(fans(weight)), generator)


def rayleigh_(weight: tuple[Tensor, Tensor], criterion: str = "he", generator=None) -> tuple[Tensor, Tensor]:
    r"""Rayleigh modulus, uniform phase (Trabelsi et al. 2018, section 3.6).

    Args:
        weight: a pair (real, imaginary).
        criterion: ``'he'``: E\|w\|² = 2 / fan_in; ``'glorot'``: 2 / (fan_in + fan_out).
    Raises:
        TypeError: one real tensor, which has no phase.   ValueError: an unknown criterion.
    """
    re, im = _pair(weight)
    fan_in, fan_out = fans(weight)
    scales = {"he": 1 / fan_in, "glorot": 1 / (fan_in + fan_out)}
    if criterion not in scales:
        raise ValueError(f"`criterion` must be 'he' or 'glorot', got {criterion!r}")
    with torch.no_grad():
        # 1 - u lies in (0, 1]: its logarithm is finite
        modulus = (-2 * scales[criterion] * torch.log1p(-torch.rand(re.shape, **_where(re, generator)))).sqrt()
        phase = 2 * math.pi * torch.rand(re.shape, **_where(re, generator))
        re.copy_(modulus * phase.cos())
        im.copy_(modulus * phase.sin())
    return weight


def semi_unitary_(weight: Kernel, gain: float = 1.0, generator=None) -> Kernel:
    r"""W Wᴴ = gain² I or Wᴴ W = gain² I, whichever fits, for W flattened to ``[O, I kH kW]`` (Trabelsi et al. 2018).

    One real tensor becomes semi-orthogonal, as torch's ``orthogonal_`` makes it.
    """
    parts = _parts(weight)
    fans(weight)
    shape = parts[0].shape[0], math.prod(parts[0].shape[1:])
    tall = max(shape), min(shape)
    with torch.no_grad():
        drawn = [torch.randn(tall, **_where(p, generator)) for p in parts]
        q, r = torch.linalg.qr(torch.complex(*drawn) if len(drawn) == 2 else drawn[0])
        # QR alone is not uniform over the unitary matrices: the phases of r's diagonal make it so (Mezzadri 2007)
        diagonal = r.diagonal()
        q = q * (diagonal / diagonal.abs())
        q = gain * (q.mH if shape != tall else q)
        for part, value in zip(parts, (q.real, q.imag) if q.is_complex() else (q,), strict=True):
            part.copy_(value.reshape(part.shape))
    return weight


def _parts(weight: Kernel) -> tuple[Tensor, ...]:
    return (weight,) if isinstance(weight, Tensor) else _pair(weight)


def _pair(weight) -> tuple[Tensor, Tensor]:
    if not isinstance(weight, (tuple, list)) or len(weight) != 2 or weight[0].shape != weight[1].shape:
        raise TypeError(f"`weight` must be a pair (real, imaginary) of one shape, got {type(weight).__name__}")
    return weight[0], weight[1]


def _where(like: Tensor, generator) -> dict:
    # drawn in float32 or wider: half precision has too few values for a logarithm or a QR
    return {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32), "generator": generator}


def _kaiming(weight: Kernel, a: float, mode: str, nonlinearity) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"`mode` must be 'fan_in' or 'fan_out', got {mode!r}")
    return nn.init.calculate_gain(nonlinearity, a) ** 2 / fans(weight)[mode == "fan_out"]


def _uniform(weight: Kernel, variance: float, generator) -> Kernel:
    parts = _parts(weight)
    bound = math.sqrt(3 * variance / len(parts))
    with torch.no_grad():
        for part in parts:
            part.uniform_(-bound, bound, generator=generator)
    return weight


def _normal(weight: Kernel, variance: float, generator) -> Kernel:
    parts = _parts(weight)
    with torch.no_grad():
        for part in parts:
            part.normal_(0, math.sqrt(variance / len(parts)), generator=generator)
    return weight
