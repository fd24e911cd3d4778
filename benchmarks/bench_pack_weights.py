"""pack_weights: the block weights of every complex layer of the ResNet-56-alpha processor, in one launch.

A shape is a stage of it: layers x channels out x channels in x kernel.
"""

import torch

from cvkernels import functional as F

from .candidates import Candidate, Case, streaming
from .inputs import Inputs, kernel, named

NAMES = ("pack_weights",)
SHAPES = [(18, 32, 32, 3), (2, 64, 64, 3), (4, 256, 256, 3)]
QUICK_SHAPES = [(3, 4, 4, 3)]


def cases(shape, device, dtype):
    layers, out, channels, side = shape
    inputs = Inputs(device, dtype)
    pairs = [tuple(inputs.weight(out, channels, side, side) for _ in range(2)) for _ in range(layers)]

    def block(a, b):
        return torch.cat((torch.cat((a, -b), 1), torch.cat((b, a), 1)))

    flat = torch.cat([w.detach().flatten() for pair in pairs for w in pair])
    yield Case(
        *NAMES,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: list(F.pack_weights(pairs)), tuple(pairs), what=kernel("pack_weights", flat)),
        naive=Candidate(lambda: [block(*pair) for pair in pairs], tuple(pairs), what="cat"),
        cost=streaming(flat, 3, 3),
    )
