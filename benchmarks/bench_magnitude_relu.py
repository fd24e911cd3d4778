"""magnitude_relu with c = 1."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("magnitude_relu",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    z = Inputs(device, dtype).feature(shape)
    yield Case(
        *NAMES,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: F.magnitude_relu(z.planar), (z.planar,), what=kernel("magnitude_relu", z.planar)),
        naive=Candidate(lambda: two_tensor.magnitude_relu(*z.pair), (z.pair,)),
        others={
            "complex": lambda: Candidate(lambda: native.magnitude_relu(z.complex), (z.complex,)),
            "real": lambda: Candidate(lambda: real.relu(z.real), (z.real,), what="relu", compared=False),
        },
        peers=lambda: peers.layers("act", z),
        cost=streaming(z.planar, 2, 3),
        jumps=True,
    )
