"""The same numbers for every candidate: each form of a feature is a leaf of its own."""

import math
from functools import cached_property

import torch
from torch import Tensor

from cvkernels import backend, to_channels_last
from cvkernels.ops.common import forms
from cvkernels.ops.conv2d.through_torch import Geometry
from cvkernels.ops.conv2d.winograd import fits
from cvkernels.ops.linear.function import PRODUCT

# N, C, H, W. ResNet's three stages on CIFAR images, the report's LeNet before its second convolution, one layer of VGG.
STAGES = [(64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8)]
LARGE = (8, 256, 56, 56)
NETWORKS = [*STAGES, (128, 6, 14, 14)]
POINTWISE = [*NETWORKS, LARGE]
QUICK = [(4, 8, 6, 6)]


class Feature:
    """A planar [N, 2, C, *] feature and what the others make of it; about half of the moduli lie under 1."""

    def __init__(self, z: Tensor):
        self.planar = z.requires_grad_()
        self.channels = z.shape[2]

    @cached_property
    def channels_last(self) -> Tensor:
        return to_channels_last(self.planar.detach()).requires_grad_()

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor]:
        return tuple(p.detach().clone().requires_grad_() for p in self.planar.unbind(1))

    @cached_property
    def pair_channels_last(self) -> tuple[Tensor, Tensor]:
        return tuple(p.detach().to(memory_format=torch.channels_last).requires_grad_() for p in self.pair)

    @cached_property
    def complex(self) -> Tensor:
        return torch.complex(*self.pair).detach().requires_grad_()

    @cached_property
    def real(self) -> Tensor:
        """What the plain real network has here: the real part alone."""
        return self.pair[0].detach().clone().requires_grad_()


class Inputs:
    """Tensors drawn on the CPU from one seed, so that every device gets the same ones."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(0)

    def real(self, *shape: int, scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale
        return x.to(self.device, self.dtype)

    def feature(self, shape) -> Feature:
        n, *rest = shape
        return Feature(self.real(n, 2, *rest, scale=0.85))

    def weight(self, *shape: int) -> Tensor:
        return self.real(*shape, scale=(2 * math.prod(shape[1:])) ** -0.5).requires_grad_()

    def angle(self, *shape: int) -> Tensor:
        """Radians in [0, 2 pi), float32 or wider; without a gradient, as in use."""
        theta = torch.rand(shape, generator=self._generator, dtype=torch.float64) * (2 * math.pi)
        return theta.to(self.device, torch.promote_types(self.dtype, torch.float32))

    def ones(self, channels: int, **settings) -> Tensor:
        """A running power, a running variance, a scale: float32 or wider."""
        return torch.ones(
            channels, dtype=torch.promote_types(self.dtype, torch.float32), device=self.device, **settings
        )


def as_complex(weights) -> Tensor:
    """A pair of real weights as one complex leaf; a real one stays real."""
    parts = [w.detach() for w in weights]
    return (torch.complex(*parts) if len(parts) == 2 else parts[0].clone()).requires_grad_()


def named(shape) -> str:
    return "x".join(map(str, shape))


def kernel(op: str, z: Tensor) -> str:
    """What runs ours: a backend's name, or torch where no kernel of ours does and there is no reference for it."""
    return backend.OPS[op].runs(backend.choose(backend.OPS[op], z))


def multiplied_by(op: str, z: Tensor, weights) -> str:
    """The same of a product, ``conv2d`` with padding 1 or ``linear``: with torch's, or a CPU kernel's, the form."""
    by, a = kernel(op, z), weights[0]
    if by != "torch":
        return by
    if op == "linear":
        own = len(weights) == 2 and backend.choose(PRODUCT, z) == "cpu"
        form = forms.chosen_linear(z, a, own) if len(weights) == 2 else "batch"
    else:
        form = forms.chosen(z, a, len(weights) == 2, fits(z, a, Geometry((1, 1), (1, 1), (1, 1), 1)))
    return f"{'cpu' if form in ('winograd', 'product') else by}, {form}"
