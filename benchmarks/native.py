"""The baseline in torch's complex dtypes, as a careful user writes it: features are complex tensors [N, C, *].

The arithmetic is `two_tensor`'s. A power is taken from the real view, which costs half of what `abs` does and keeps
its gradient finite where a modulus is 0; a real weight convolves the parts, since torch would promote it to complex.
"""

import torch
from torch import Tensor
from torch.nn import functional as real

from .two_tensor import TINY


def phase(theta: Tensor, ndim: int) -> Tensor:
    """e^{i theta}, to be multiplied with features of so many axes."""
    t = theta.view(*theta.shape, *(1,) * (ndim - theta.ndim))
    return torch.complex(t.cos(), t.sin())


def rotate(a: Tensor, b: Tensor, theta: Tensor) -> Tensor:
    return torch.complex(a, b) * phase(theta, a.ndim)


def rotate_phase(z: Tensor, theta: Tensor) -> Tensor:
    return z * phase(theta, z.ndim)


def unrotate(h: Tensor, theta: Tensor) -> Tensor:
    if theta.ndim == 2:
        h = h.unsqueeze(1)
    return (h * phase(-theta, h.ndim)).real


def power(z: Tensor) -> Tensor:
    return torch.view_as_real(z).square().sum(-1)


def magnitude_relu(z: Tensor, c: float = 1.0) -> Tensor:
    return z * ((power(z) + TINY).sqrt() / c).clamp(max=1)


def magnitude_batch_norm(
    z: Tensor, running_power: Tensor, training: bool = True, momentum: float = 0.1, eps: float = 1e-5
) -> Tensor:
    mean = running_power
    if training:
        mean = power(z).mean((0, *range(2, z.ndim)))
        with torch.no_grad():
            running_power.lerp_(mean, momentum)
    return z * (mean + eps).rsqrt().view(1, -1, *(1,) * (z.ndim - 2))


def batch_norm_relu(z: Tensor, running_power: Tensor, residual: Tensor | None = None, training: bool = True) -> Tensor:
    y = magnitude_batch_norm(z, running_power, training)
    return magnitude_relu(y if residual is None else y + residual)


def magnitude_max_pool2d(z: Tensor, kernel_size: int) -> Tensor:
    index = real.max_pool2d(power(z.detach()), kernel_size, return_indices=True)[1]
    return z.flatten(2).gather(2, index.flatten(2)).view(index.shape)


def by_parts(function, z: Tensor, *args, **kwargs) -> Tensor:
    """A real linear operation on both parts: what complex tensors do not have themselves."""
    return torch.complex(function(z.real, *args, **kwargs), function(z.imag, *args, **kwargs))


def conv2d(z: Tensor, weight: Tensor, **settings) -> Tensor:
    if weight.is_complex():
        return real.conv2d(z, weight, **settings)
    return by_parts(real.conv2d, z, weight, **settings)


def linear(z: Tensor, weight: Tensor) -> Tensor:
    return real.linear(z, weight) if weight.is_complex() else by_parts(real.linear, z, weight)


def dropout(z: Tensor, p: float) -> Tensor:
    return z * real.dropout(torch.ones(z.shape, device=z.device), p)


def dropout2d(z: Tensor, p: float) -> Tensor:
    return z * real.dropout(torch.ones((*z.shape[:2], *(1,) * (z.ndim - 2)), device=z.device), p)


def block(z: Tensor, first: Tensor, second: Tensor, powers: tuple[Tensor, Tensor]) -> Tensor:
    y = batch_norm_relu(conv2d(z, first, padding=1), powers[0])
    return batch_norm_relu(conv2d(y, second, padding=1), powers[1], z)
