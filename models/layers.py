"""The two vocabularies a network is written in: one blueprint, read with real or with complex layers.

Both dictionaries name the same roles. A blueprint asks for `layers["conv"](6, 16, 5)` and does not know which it
got; a real feature is `[N, C, H, W]`, a complex one planar `[N, 2, C, H, W]`.
"""

from functools import partial

import torch
from torch import nn

import cvkernels.functional as F
import cvkernels.nn as cnn


class ConvNormAct(nn.Module):
    """A convolution without a bias, which the norm would take away again, then norm, residual and activation: the real
    twin of the complex layer that does all of it."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm_act = cnn.BatchNormReLU2d(out_channels)

    def forward(self, x, residual=None):
        return self.norm_act(self.conv(x), residual)


class PublishedNorm2d(cnn.MagnitudeBatchNorm2d):
    """Magnitude batch norm as published code has it: planar `[N, 2, C, H, W]` -> the same.

    Args:
        power: E|z|² of each channel behind it; 2 where the statistic is the mean over both parts' squares.
        detach: the statistic is a constant in the backward pass.
        track_running_stats: False: the batch's own statistics in inference too.
    """

    def __init__(self, num_features, power=1.0, detach=False, track_running_stats=True):
        # they add the small number to E|z|²/power
        super().__init__(num_features, eps=1e-5 * power, track_running_stats=track_running_stats)
        self.detach = detach
        self.register_buffer("gain", torch.full((num_features,), power**0.5), persistent=False)

    def forward(self, z):
        settings = self._settings(z)
        if self.detach and settings["training"]:
            power = F.magnitude_power(z.detach()) / z[:, 0, 0].numel()
            if settings["running_power"] is not None:
                settings["running_power"].lerp_(power, self.momentum)
            settings |= {"running_power": power, "training": False}
        gain = self.gain
        if settings["weight"] is not None:  # across processes the statistic's gradient comes through it
            gain = gain * (settings["weight"].detach() if self.detach else settings["weight"])
        return F.magnitude_batch_norm(z, **settings | {"weight": gain})


class PublishedNormAct2d(nn.Module):
    """`PublishedNorm2d`, residual and magnitude ReLU, one step after another."""

    def __init__(self, num_features, c=1.0, power=1.0, detach=False, track_running_stats=True):
        super().__init__()
        self.norm = PublishedNorm2d(num_features, power, detach, track_running_stats)
        self.act = cnn.MagnitudeReLU(c, detach)

    def forward(self, z, residual=None):
        y = self.norm(z)
        return self.act(y if residual is None else y + residual)


class PublishedConvNormAct2d(nn.Module):
    """A complex convolution, then `PublishedNormAct2d`, whose options these are."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, weights="complex", **options):
        super().__init__()
        self.conv = cnn.ComplexConv2d(in_channels, out_channels, kernel_size, stride, padding, weights=weights)
        self.norm_act = PublishedNormAct2d(out_channels, **options)

    def forward(self, z, residual=None):
        return self.norm_act(self.conv(z), residual)


REAL = {
    "conv": nn.Conv2d,
    "conv_norm_act": ConvNormAct,
    "norm_act": cnn.BatchNormReLU2d,
    "norm": nn.BatchNorm2d,
    "act": nn.ReLU,
    "pool": nn.MaxPool2d,
    "avg_pool": nn.AvgPool2d,
    "dropout": nn.Dropout,
    "flatten": nn.Flatten,
    "linear": nn.Linear,
}

COMPLEX = {
    "conv": cnn.ComplexConv2d,
    "conv_norm_act": cnn.ComplexConvBatchNormReLU2d,
    "norm_act": cnn.MagnitudeBatchNormReLU2d,
    "norm": cnn.MagnitudeBatchNorm2d,
    "act": cnn.MagnitudeReLU,
    "pool": cnn.MagnitudeMaxPool2d,
    "avg_pool": cnn.ComplexAvgPool2d,
    "dropout": cnn.ComplexDropout,
    "flatten": cnn.ComplexFlatten,
    "linear": cnn.ComplexLinear,
}


def complex_layers(weights="complex", c=1.0, detach_modulus=False, norm_power=1.0, batch_statistics=False):
    """COMPLEX with its choices made.

    Args:
        weights: `'complex'` (a kernel per part) or `'real'` (one kernel for both parts).
        c: modulus from which the magnitude ReLU passes a feature unchanged, or `'channel_mean'`.
        detach_modulus: the ReLU's factor and the norm's statistic are constants in the backward pass.
        norm_power: E|z|² behind a norm.
        batch_statistics: the norms keep no running power and use the batch's in inference too.
    """
    kept = {"track_running_stats": not batch_statistics}
    if detach_modulus or norm_power != 1:
        kept |= {"power": norm_power, "detach": detach_modulus}
        conv_norm_act, norm_act, norm = PublishedConvNormAct2d, PublishedNormAct2d, PublishedNorm2d
    else:
        conv_norm_act, norm_act, norm = (COMPLEX[role] for role in ("conv_norm_act", "norm_act", "norm"))
    return {
        **COMPLEX,
        "conv": partial(cnn.ComplexConv2d, weights=weights),
        "linear": partial(cnn.ComplexLinear, weights=weights),
        "act": partial(cnn.MagnitudeReLU, c, detach_modulus),
        "conv_norm_act": partial(conv_norm_act, weights=weights, c=c, **kept),
        "norm_act": partial(norm_act, c=c, **kept),
        "norm": partial(norm, **kept),
    }
