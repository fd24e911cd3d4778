"""Rotation-equivariant complex-valued layers for PyTorch, their costly parts fused Triton and C++/CUDA kernels.

A complex feature is one real tensor ``[N, 2, C, *]`` (planar); complex tensors ``[N, C, *]`` are taken too.
"""

__version__ = "0.1.0"

from . import functional, nn
from .backend import use_backend
from .ops.common.forms import use_conv_form
from .planar import to_channels_last, to_complex, to_planar

__all__ = [
    "__version__",
    "functional",
    "nn",
    "to_channels_last",
    "to_complex",
    "to_planar",
    "use_backend",
    "use_conv_form",
]
