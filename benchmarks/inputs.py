"""The same numbers for both sides: one planar tensor for the fused, a pair of real ones for the naive."""

import math

import torch
from torch import Tensor

from cvkernels import backend

# N, C, H, W. ResNet's three stages on CIFAR images, the report's LeNet before its second convolution, one layer of VGG.
NETWORKS = [(64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8), (128, 6, 14, 14)]
LARGE = (8, 256, 56, 56)
POINTWISE = [*NETWORKS, LARGE]
QUICK = [(4, 8, 6, 6)]
BAR_SHAPE = (64, 32, 16, 16)


class Inputs:
    """Tensors drawn on the CPU from one seed, so that every device gets the same ones."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator().manual_seed(0)

    def real(self, *shape: int, scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale
        return x.to(self.device, self.dtype)

    def feature(self, shape) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Planar [N, 2, C, *] and its parts; about half of the moduli lie under 1. Leaves: they take a gradient."""
        n, *rest = shape
        return paired(self.real(n, 2, *rest, scale=0.85))

    def weight(self, *shape: int) -> Tensor:
        return self.real(*shape, scale=(2 * math.prod(shape[1:])) ** -0.5).requires_grad_()

    def angle(self, *shape: int) -> Tensor:
        """Radians in [0, 2 pi); without a gradient, as in use."""
        theta = torch.rand(shape, generator=self._generator, dtype=torch.float64) * (2 * math.pi)
        return theta.to(self.device, self.dtype)

    def power(self, channels: int) -> Tensor:
        return torch.ones(channels, dtype=self.dtype, device=self.device)


def paired(z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return z.requires_grad_(), tuple(p.detach().clone().requires_grad_() for p in z.unbind(1))


def named(shape) -> str:
    return "x".join(map(str, shape))


def bars(shape, dtype: torch.dtype, device: torch.device, **ratios: float) -> tuple[tuple[str, float], ...]:
    """The ratios to reach, which are set for one shape in float32 on two CPU cores; nothing anywhere else."""
    if tuple(shape) != BAR_SHAPE or dtype != torch.float32 or device.type != "cpu" or torch.get_num_threads() != 2:
        return ()
    return tuple((name.replace("both", "forward+backward"), ratio) for name, ratio in ratios.items())


def kernel(op: str, z: Tensor) -> str:
    """What runs the fused side: a backend's name, or torch where the operation has no kernel of its own."""
    chosen = backend.choose(backend.OPS[op], z)
    has_own = any((backend.OPS[op].cpu, backend.OPS[op].cuda, backend.OPS[op].triton))
    return chosen if has_own or backend.forced() else "torch"
