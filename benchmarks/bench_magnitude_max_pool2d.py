"""magnitude_max_pool2d, 2x2."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Feature, Inputs, kernel, named

NAMES = ("magnitude_max_pool2d",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK
# Multiples of 2^-8: their powers are exact in float32, so no rounding decides which of two elements is larger.
STEP = 2.0**-8


def cases(shape, device, dtype):
    n, *rest = shape
    z = Feature((Inputs(device, dtype).real(n, 2, *rest) / STEP).round() * STEP)
    index = 1 / (4 * 2 * z.planar.element_size())  # a byte for each output, in units of the feature
    yield Case(
        *NAMES,
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.magnitude_max_pool2d(z.planar, 2), (z.planar,), what=kernel("magnitude_max_pool2d", z.planar)
        ),
        naive=Candidate(lambda: two_tensor.magnitude_max_pool2d(*z.pair, 2), (z.pair,)),
        others={
            "complex": lambda: Candidate(lambda: native.magnitude_max_pool2d(z.complex, 2), (z.complex,)),
            "real": lambda: Candidate(lambda: real.max_pool2d(z.real, 2), (z.real,), what="max_pool2d", compared=False),
        },
        peers=lambda: peers.layers("pool", z, 2),
        cost=streaming(z.planar, 1.25 + index, 1.25 + index),
    )
