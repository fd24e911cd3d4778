"""The processor of the ResNet-56 alpha: ten residual blocks, the cloud's whole share, with complex and real weights.

Under bfloat16 autocast the features come as the encoder leaves them, bfloat16.
"""

import torch

from . import networks
from .bench_block import autocast, halved, naive_bfloat16
from .candidates import DEEP, Candidate, Case, multiplying
from .inputs import Inputs, kernel, named

NAMES = ("processor complex", "processor real")
SHAPES = [(64, 16, 32, 32)]
GPU_SHAPES = [(128, 16, 32, 32)]
QUICK_SHAPES = [(2, 16, 8, 8)]
DEPTH = 56


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    weights = name.split()[1]
    depth = 20 if tuple(shape) in QUICK_SHAPES else DEPTH
    z = Inputs(device, dtype).feature(shape)
    model = networks.processor(depth, weights, device, dtype)
    blocks = networks.blocks_of(model)
    leaves = tuple(networks.leaf(w) for step in blocks for w in step.weights)
    backend = kernel("batch_norm_relu", z.planar)

    def mine(feature, cast=False):
        feature = halved(feature) if cast else feature
        forward = lambda: model(feature)  # noqa: E731
        half = torch.bfloat16 if cast else None
        return Candidate(autocast(device, forward) if cast else forward, (feature, *leaves), what=backend, dtype=half)

    def pairs(cast=False):
        pair = tuple(map(halved, z.pair)) if cast else z.pair
        call = networks.naive(model)
        forward = lambda: call(*pair)  # noqa: E731
        return Candidate(
            autocast(device, forward) if cast else forward, (pair, *leaves), dtype=torch.bfloat16 if cast else None
        )

    def by_complex():
        call, own = networks.by_complex(blocks, networks.running(blocks))
        return Candidate(lambda: call(z.complex), (z.complex, *own))

    def floor():
        plain = networks.plain(depth, device, dtype)
        return Candidate(
            lambda: plain(z.real), (z.real, *plain.parameters()), what="the real processor", compared=False
        )

    others = {"ours channels-last": lambda: mine(z.channels_last), "complex": by_complex, "real": floor}
    if dtype == torch.float32:
        others |= {
            "ours bfloat16": lambda: mine(z.planar, cast=True),
            "ours channels-last bfloat16": lambda: mine(z.channels_last, cast=True),
        } | naive_bfloat16(device, lambda: pairs(cast=True))
    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=mine(z.planar),
        naive=pairs(),
        others=others,
        cost=multiplying(networks.complex_macs(blocks, shape), weights),
        jumps=True,
        deep=DEEP,
    )
