"""The processor of a ResNet in every form: our modules, and what the others make of the same weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


def naive(blocks: list[Step], powers) -> Callable:
    """On pairs of real tensors, on ours' own parameters."""

    def forward(re, im):
        for step, (first, second) in zip(blocks, powers, strict=True):
            skip = step.block.shortcut(re), step.block.shortcut(im)
            stride = step.block.stride
            y = two_tensor.conv2d(re, im, *step.weights[0], stride=stride, padding=1)
            y = two_tensor.conv2d(*two_tensor.batch_norm_relu(*y, first), *step.weights[1], padding=1)
            re, im = two_tensor.batch_norm_relu(*y, second, skip)
        return re, im

    return forward


def by_complex(blocks: list[Step], powers) -> tuple[Callable, list[Tensor]]:
    """On complex tensors, with leaves of its own."""
    own = [[as_complex(w) for w in step.weights] for step in blocks]

    def forward(z):
        for step, (one, two), (first, second) in zip(blocks, own, powers, strict=True):
            skip = step.block.shortcut(z)
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
