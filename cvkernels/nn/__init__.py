"""Modules: parameters and running statistics, plus one call into `cvkernels.functional`; `validate` and `convert`."""

from . import init
from .activation import MagnitudeReLU
from .conv import ComplexConv2d
from .conv_norm import ComplexConvBatchNormReLU2d
from .convert import convert
from .dropout import ComplexDropout, ComplexDropout2d
from .flatten import ComplexFlatten
from .linear import ComplexLinear
from .norm import (
    BatchNormReLU2d,
    MagnitudeBatchNorm1d,
    MagnitudeBatchNorm2d,
    MagnitudeBatchNormReLU2d,
    convert_sync_batch_norm,
)
from .packing import pack_weights
from .pooling import ComplexAdaptiveAvgPool2d, ComplexAvgPool2d, MagnitudeMaxPool2d
from .rotation import PhaseRotation
from .validate import Finding, Findings, validate

__all__ = [
    "BatchNormReLU2d",
    "ComplexAdaptiveAvgPool2d",
    "ComplexAvgPool2d",
    "ComplexConv2d",
    "ComplexConvBatchNormReLU2d",
    "ComplexDropout",
    "ComplexDropout2d",
    "ComplexFlatten",
    "ComplexLinear",
    "Finding",
    "Findings",
    "MagnitudeBatchNorm1d",
    "MagnitudeBatchNorm2d",
    "MagnitudeBatchNormReLU2d",
    "MagnitudeMaxPool2d",
    "MagnitudeReLU",
    "PhaseRotation",
    "convert",
    "convert_sync_batch_norm",
    "init",
    "pack_weights",
    "validate",
]
