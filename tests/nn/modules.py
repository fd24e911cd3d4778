"""Every module of cvkernels.nn with a feature it takes: what the tests of this folder run through."""

import torch

import cvkernels.nn as cnn

REAL = (4, 6, 8, 7)
MAP, ROW, FLAT = (4, 2, 6, 8, 7), (4, 2, 6, 9), (4, 2, 6)

# name -> (how it is made, given dtype and device arguments where it has any; the planar shape it takes, or a real one)
MODULES = {
    "ComplexConv2d": (lambda **k: cnn.ComplexConv2d(6, 4, 3, 2, padding=1, dilation=2, groups=2, **k), MAP),
    "ComplexConv2d-real": (lambda **k: cnn.ComplexConv2d(6, 5, (3, 1), padding="same", weights="real", **k), MAP),
    "ComplexConv2d-replicate": (lambda **k: cnn.ComplexConv2d(6, 5, 3, padding=1, padding_mode="replicate", **k), MAP),
    "ComplexConvBatchNormReLU2d": (lambda **k: cnn.ComplexConvBatchNormReLU2d(6, 5, 3, 2, 1, affine=True, **k), MAP),
    "ComplexLinear": (lambda **k: cnn.ComplexLinear(6, 3, **k), FLAT),
    "ComplexLinear-real": (lambda **k: cnn.ComplexLinear(6, 3, weights="real", **k), FLAT),
    "MagnitudeBatchNorm2d": (lambda **k: cnn.MagnitudeBatchNorm2d(6, **k), MAP),
    "MagnitudeBatchNorm2d-affine": (lambda **k: cnn.MagnitudeBatchNorm2d(6, momentum=None, affine=True, **k), MAP),
    "MagnitudeBatchNorm1d": (lambda **k: cnn.MagnitudeBatchNorm1d(6, **k), ROW),
    "MagnitudeBatchNormReLU2d": (lambda **k: cnn.MagnitudeBatchNormReLU2d(6, affine=True, **k), MAP),
    "MagnitudeBatchNormReLU2d-mean": (lambda **k: cnn.MagnitudeBatchNormReLU2d(6, "channel_mean", **k), MAP),
    "BatchNormReLU2d": (lambda **k: cnn.BatchNormReLU2d(6, **k), REAL),
    "BatchNormReLU2d-plain": (lambda **k: cnn.BatchNormReLU2d(6, momentum=None, affine=False, **k), REAL),
    "MagnitudeReLU": (lambda **k: cnn.MagnitudeReLU(0.8), MAP),
    "MagnitudeReLU-mean": (lambda **k: cnn.MagnitudeReLU("channel_mean", detach_modulus=True), ROW),
    "MagnitudeMaxPool2d": (lambda **k: cnn.MagnitudeMaxPool2d(3, 2, 1), MAP),
    "ComplexAvgPool2d": (lambda **k: cnn.ComplexAvgPool2d(2), MAP),
    "ComplexAdaptiveAvgPool2d": (lambda **k: cnn.ComplexAdaptiveAvgPool2d((2, 1)), MAP),
    "ComplexDropout": (lambda **k: cnn.ComplexDropout(0.3), MAP),
    "ComplexDropout2d": (lambda **k: cnn.ComplexDropout2d(0.3), MAP),
    "ComplexFlatten": (lambda **k: cnn.ComplexFlatten(), MAP),
}
# the modules that hold a tensor
HOLDERS = [
    name for name in MODULES if name.startswith(("ComplexConv", "ComplexLinear", "MagnitudeBatchNorm", "BatchNorm"))
]


def made(name: str, **where):
    """The module and a feature for it."""
    make, shape = MODULES[name]
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(shape, generator=generator, dtype=where.get("dtype", torch.float32))
    return make(**where), z.to(where.get("device", "cpu"))
