"""The two vocabularies a network is written in: one blueprint, read with real or with complex layers.

Both dictionaries name the same roles. A blueprint asks for `layers["conv"](6, 16, 5)` and does not know which it
got; a real feature is `[N, C, H, W]`, a complex one planar `[N, 2, C, H, W]`.
"""

from functools import partial

from torch import nn

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


def complex_layers(weights="complex", c=1.0):
    """COMPLEX with two choices made.

    Args:
        weights: `'complex'` (a kernel per part) or `'real'` (one kernel for both parts).
        c: modulus from which the magnitude ReLU passes a feature unchanged, or `'channel_mean'`.
    """
    return {
        **COMPLEX,
        "conv": partial(cnn.ComplexConv2d, weights=weights),
        "linear": partial(cnn.ComplexLinear, weights=weights),
        "act": partial(cnn.MagnitudeReLU, c),
        "conv_norm_act": partial(cnn.ComplexConvBatchNormReLU2d, weights=weights, c=c),
        "norm_act": partial(cnn.MagnitudeBatchNormReLU2d, c=c),
    }
