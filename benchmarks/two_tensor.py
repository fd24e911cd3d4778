"""The naive baseline: complex features as pairs of real tensors, in plain PyTorch, as a careful user writes them.

Every function takes and returns the parts (re, im) separately; autograd does the backward pass. The arithmetic is the
textbook's; where PyTorch offers two ways of writing it, the faster one on the CPU stands here.
"""

import torch
from torch import Tensor
from torch.nn import functional as real

# Keeps sqrt's gradient finite where a modulus is 0; smaller than float32 resolves beside a modulus of 1e-8.
TINY = 1e-24

Pair = tuple[Tensor, Tensor]


def rotate(a: Tensor, b: Tensor, theta: Tensor) -> Pair:
    """(a + ib) e^{i theta}; of two real tensors or of a feature's parts."""
    t = theta.view(-1, *(1,) * (a.ndim - 1))
    cos, sin = t.cos(), t.sin()
    return a * cos - b * sin, a * sin + b * cos


rotate_phase = rotate


def unrotate(re: Tensor, im: Tensor, theta: Tensor) -> Tensor:
    """Re(h e^{-i theta}); theta [N] -> [N, C, *], theta [N, K] -> [N, K, C, *]."""
    if theta.ndim == 2:  # forward 1.4 times as fast as a loop over the K angles, with its gradient as fast
        re, im = re.unsqueeze(1), im.unsqueeze(1)
    t = theta.view(*theta.shape, *(1,) * (re.ndim - theta.ndim))
    return re * t.cos() + im * t.sin()


def conv2d(re: Tensor, im: Tensor, weight_re: Tensor, weight_im: Tensor | None = None, **settings) -> Pair:
    """Four real convolutions for complex weights, two for real ones."""
    if weight_im is None:
        return real.conv2d(re, weight_re, **settings), real.conv2d(im, weight_re, **settings)
    return (
        real.conv2d(re, weight_re, **settings) - real.conv2d(im, weight_im, **settings),
        real.conv2d(re, weight_im, **settings) + real.conv2d(im, weight_re, **settings),
    )


def linear(re: Tensor, im: Tensor, weight_re: Tensor, weight_im: Tensor | None = None) -> Pair:
    if weight_im is None:
        return real.linear(re, weight_re), real.linear(im, weight_re)
    return (
        real.linear(re, weight_re) - real.linear(im, weight_im),
        real.linear(re, weight_im) + real.linear(im, weight_re),
    )


def magnitude_relu(re: Tensor, im: Tensor, c: float = 1.0) -> Pair:
    """z |z| / max(|z|, c)."""
    modulus = (re * re + im * im + TINY).sqrt()
    factor = (modulus / c).clamp(max=1)  # with its gradient 1.1 times as fast as modulus / modulus.clamp(min=c)
    return re * factor, im * factor


def magnitude_power(re: Tensor, im: Tensor) -> Tensor:
    """Sums of |z|^2 per channel over batch and positions, [C]."""
    return (re * re + im * im).sum((0, *range(2, re.ndim)))


def magnitude_batch_norm(
    re: Tensor, im: Tensor, running_power: Tensor, training: bool = True, momentum: float = 0.1, eps: float = 1e-5
) -> Pair:
    """z / sqrt(E|z|^2 + eps), E per channel over batch and positions."""
    power = running_power
    if training:
        power = (re * re + im * im).mean((0, *range(2, re.ndim)))
        with torch.no_grad():
            running_power.lerp_(power.to(running_power.dtype), momentum)
    scale = (power + eps).rsqrt().view(1, -1, *(1,) * (re.ndim - 2)).to(re.dtype)
    return re * scale, im * scale


def batch_norm_relu(
    re: Tensor, im: Tensor, running_power: Tensor, residual: Pair | None = None, training: bool = True
) -> Pair:
    re, im = magnitude_batch_norm(re, im, running_power, training)
    if residual is not None:
        re, im = re + residual[0], im + residual[1]
    return magnitude_relu(re, im)


def magnitude_max_pool2d(re: Tensor, im: Tensor, kernel_size: int) -> Pair:
    """The window's element of largest power: its square root would cost a pass and could tie two that differ."""
    power = (re * re + im * im).detach()
    index = real.max_pool2d(power, kernel_size, return_indices=True)[1]
    flat = index.flatten(2)
    return (
        re.flatten(2).gather(2, flat).view(index.shape),
        im.flatten(2).gather(2, flat).view(index.shape),
    )


def dropout(re: Tensor, im: Tensor, p: float) -> Pair:
    """One mask for both parts."""
    mask = real.dropout(re.new_ones(re.shape), p)
    return re * mask, im * mask


def dropout2d(re: Tensor, im: Tensor, p: float) -> Pair:
    """One mask of whole channels for both parts."""
    mask = real.dropout(re.new_ones((*re.shape[:2], *(1,) * (re.ndim - 2))), p)
    return re * mask, im * mask


def block(re: Tensor, im: Tensor, first: tuple, second: tuple, powers: Pair) -> Pair:
    """A residual block with 3x3 weights, a pair each or a real one: conv, norm, ReLU, conv, norm, + input, ReLU."""
    y = batch_norm_relu(*conv2d(re, im, *first, padding=1), powers[0])
    return batch_norm_relu(*conv2d(*y, *second, padding=1), powers[1], (re, im))
