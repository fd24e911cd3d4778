"""Modules: parameters and running statistics, plus one call into `cvkernels.functional`; `validate` and `convert`."""

from . import init
from .activation import MagnitudeReLU
from .conv import ComplexConv2d
from .convert import convert
from .dropout import ComplexDropout, ComplexDropout2d
from .flatten import ComplexFlatten
from .linear import ComplexLinear
from .norm import MagnitudeBatchNorm1d, MagnitudeBatchNorm2d, MagnitudeBatchNormReLU2d
from .pooling import ComplexAdaptiveAvgPool2d, ComplexAvgPool2d, MagnitudeMaxPool2d
from .rotation import PhaseRotation
from .validate import Finding, Findings, validate

__all__ = [
    "ComplexAdaptiveAvgPool2d",
    "ComplexAvgPool2d",
    "ComplexConv2d",
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
    "init",
    "validate",
]
