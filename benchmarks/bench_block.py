"""A residual block of ResNet: conv, batch_norm_relu, conv, batch_norm_relu with the block's input.

Complex and real weights, contiguous and channels-last, in float32 and under bfloat16 autocast, where the input is what
the block before it leaves, bfloat16. The naive float32 eager block stands beside all of them; the naive one under the
same autocast is shown too, where torch has more than a plain loop for it: one of those takes 15 to 60 times as long.
"""

import torch
from torch.nn import functional as real

from cvkernels import functional as F
from cvkernels.ops.common.forms import PRODUCTS

from . import native, peers, two_tensor
from .candidates import Candidate, Case, multiplying
from .inputs import QUICK, STAGES, Inputs, as_complex, kernel, named

NAMES = ("block complex", "block real")
SHAPES = STAGES
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def ours(z, first, second, powers):
    y = F.batch_norm_relu(F.conv2d(z, first, padding=1), powers[0], training=True)
    return F.batch_norm_relu(F.conv2d(y, second, padding=1), powers[1], residual=z, training=True)


def plain(x, first, second, means, powers):
    """The real network's block."""
    y = real.relu(real.batch_norm(real.conv2d(x, first, padding=1), means[0], powers[0], training=True))
    return real.relu(real.batch_norm(real.conv2d(y, second, padding=1), means[1], powers[1], training=True) + x)


def autocast(device, forward):
    def call():
        with torch.autocast(device.type, torch.bfloat16):
            return forward()

    return call


def naive_bfloat16(device, made) -> dict:
    """The candidate, where it is worth its minutes."""
    return {"naive bfloat16": made} if device.type != "cpu" or torch.bfloat16 in PRODUCTS else {}


def halved(x):
    return x.detach().to(torch.bfloat16).requires_grad_()


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    n, channels, height, width = shape
    weights = [
        tuple(inputs.weight(channels, channels, 3, 3) for _ in range(2 if "complex" in name else 1)) for _ in "12"
    ]
    first, second = (w if len(w) == 2 else w[0] for w in weights)

    def fresh():
        return tuple(inputs.ones(channels) for _ in range(2))

    def fused(feature, cast=False):
        feature, powers = halved(feature) if cast else feature, fresh()
        forward = lambda: ours(feature, first, second, powers)  # noqa: E731
        return Candidate(
            autocast(device, forward) if cast else forward,
            (feature, first, second),
            powers,
            what=kernel("batch_norm_relu", z.planar),
            dtype=torch.bfloat16 if cast else None,
        )

    def pairs(pair, cast=False):
        pair, powers = tuple(map(halved, pair)) if cast else pair, fresh()
        forward = lambda: two_tensor.block(*pair, weights[0], weights[1], powers)  # noqa: E731
        return Candidate(
            autocast(device, forward) if cast else forward,
            (pair, first, second),
            powers,
            dtype=torch.bfloat16 if cast else None,
        )

    def by_complex():
        own, powers = [as_complex(w) for w in weights], fresh()
        return Candidate(lambda: native.block(z.complex, *own, powers), (z.complex, *own), powers)

    def floor():
        own, means, powers = [w[0].detach().clone().requires_grad_() for w in weights], fresh(), fresh()
        call = lambda: plain(z.real, *own, means, powers)  # noqa: E731
        return Candidate(call, (z.real, *own), what="conv2d, batch_norm, relu", compared=False)

    others = {
        "ours channels-last": lambda: fused(z.channels_last),
        "naive channels-last": lambda: pairs(z.pair_channels_last),
        "complex": by_complex,
        "real": floor,
    }
    if dtype == torch.float32:
        others |= {
            "ours bfloat16": lambda: fused(z.planar, cast=True),
            "ours channels-last bfloat16": lambda: fused(z.channels_last, cast=True),
        } | naive_bfloat16(device, lambda: pairs(z.pair, cast=True))
    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=fused(z.planar),
        naive=pairs(z.pair),
        others=others,
        peers=(lambda: peers.blocks(z, *weights)) if "complex" in name else dict,
        cost=multiplying(2 * 9 * n * channels**2 * height * width, name.split()[1]),
        jumps=True,
        # a jump behind the second convolution reaches every weight's gradient of the first (apart by 1.2e-2 of the RMS
        # at most, at N=8, C=256, 56x56)
        spread=True,
    )
