"""The processor of a ResNet in every form: our modules, and what the others make of the same weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as real

import cvkernels.nn as cnn
from models.resnet import Block, resnet

from . import native, two_tensor
from .inputs import as_complex


@dataclass(frozen=True)
class Step:
    """One residual block of a processor: its two weights, as ours holds them, and what its shortcut does."""

    block: Block
    weights: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # pairs, or single real ones

    @property
    def channels(self) -> int:
        return self.weights[0][0].shape[0]


def processor(depth: int, weights: str, device, dtype) -> nn.Module:
    """Ours, in training mode: stage 2 and the first block of stage 3 at variant alpha."""
    torch.manual_seed(0)
    return resnet(depth, "alpha", "complex", weights=weights).processor.to(device, dtype).train()


def plain(depth: int, device, dtype) -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth, "alpha", "original").processor.to(device, dtype).train()


def blocks_of(ours: nn.Module) -> list[Step]:
    found = []
    for block in (m for m in ours.modules() if isinstance(m, Block)):
        convs = [m for m in block.modules() if isinstance(m, cnn.ComplexConv2d)]
        found.append(Step(block, tuple(tuple(p for p in m.parameters(recurse=False)) for m in convs)))
    return found


def leaf(weights: tuple[Tensor, ...]):
    """A weight as one leaf: a pair, or the real tensor."""
    return weights if len(weights) == 2 else weights[0]


def running(blocks: list[Step]) -> list[tuple[Tensor, Tensor]]:
    """Fresh running powers, two a block."""
    return [tuple(torch.ones_like(s.weights[0][0][:, 0, 0, 0]).detach() for _ in range(2)) for s in blocks]


def shortcut(block: Block, x: Tensor) -> Tensor:
    """A block's shortcut as torch has it: a slice between zeros."""
    if block.stride == 1:
        return x
    before = block.added // 2
    return real.pad(x[..., :: block.stride, :: block.stride], (0, 0, 0, 0, before, block.added - before))


def naive(module: nn.Module) -> Callable:
    """What a careful user's two-tensor code makes of a module of ours: (re, im) -> (re, im), on the same parameters."""
    if isinstance(module, nn.Sequential):
        stages = [naive(stage) for stage in module]
        return lambda re, im: functools.reduce(lambda pair, stage: stage(*pair), stages, (re, im))
    if isinstance(module, Block):
        first, second = naive(module.first), naive(module.second)
        return lambda re, im: second(*first(re, im), (shortcut(module, re), shortcut(module, im)))
    if isinstance(module, cnn.ComplexConvBatchNormReLU2d):
        conv, norm = naive(module.conv), module.norm_act
        return lambda re, im, residual=None: two_tensor.batch_norm_relu(*conv(re, im), norm.running_power, residual)
    if isinstance(module, cnn.ComplexConv2d):
        weight, how = tuple(module.parameters()), {"stride": module.stride, "padding": module.padding}
        return lambda re, im: two_tensor.conv2d(re, im, *weight, **how)
    if isinstance(module, cnn.ComplexLinear):
        weight = tuple(module.parameters())
        return lambda re, im: two_tensor.linear(re, im, *weight)
    if isinstance(module, cnn.MagnitudeReLU):
        return lambda re, im: two_tensor.magnitude_relu(re, im, module.c)
    if isinstance(module, cnn.MagnitudeMaxPool2d):
        return lambda re, im: two_tensor.magnitude_max_pool2d(re, im, module.kernel_size)
    if isinstance(module, cnn.ComplexFlatten):
        return lambda re, im: (re.flatten(1), im.flatten(1))
    raise TypeError(f"the naive layers have no {type(module).__name__}")


class BatchNormReLU(nn.Module):
    """Batch norm, addition and ReLU as torch has them, one after the other."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x, residual=None):
        y = self.norm(x)
        return real.relu(y if residual is None else y + residual)


def unfused(module: nn.Module) -> nn.Module:
    """A real network, its fused norms in torch's own layers; changed in place, its norms fresh."""
    for name, child in module.named_children():
        if isinstance(child, cnn.BatchNormReLU2d):
            where = {"device": child.weight.device, "dtype": child.weight.dtype}
            setattr(module, name, BatchNormReLU(child.num_features).to(**where).train(child.training))
        else:
            unfused(child)
    return module


def by_complex(blocks: list[Step], powers) -> tuple[Callable, list[Tensor]]:
    """On complex tensors, with leaves of its own."""
    own = [[as_complex(w) for w in step.weights] for step in blocks]

    def forward(z):
        for step, (one, two), (first, second) in zip(blocks, own, powers, strict=True):
            skip = shortcut(step.block, z)
            y = native.batch_norm_relu(native.conv2d(z, one, stride=step.block.stride, padding=1), first)
            z = native.batch_norm_relu(native.conv2d(y, two, padding=1), second, skip)
        return z

    return forward, [w for pair in own for w in pair]


def complex_macs(blocks: list[Step], shape) -> float:
    """Complex multiply-adds of one forward pass over [N, C, H, W]."""
    n, _, height, width = shape
    total = 0
    for step in blocks:
        height, width = height // step.block.stride, width // step.block.stride
        total += sum(n * height * width * w[0].numel() for w in step.weights)
    return total
