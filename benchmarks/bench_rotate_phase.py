"""rotate_phase: z e^{i theta}."""

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("rotate_phase",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    theta = inputs.angle(shape[0])
    yield Case(
        *NAMES,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: F.rotate_phase(z.planar, theta), (z.planar,), what=kernel("rotate_phase", z.planar)),
        naive=Candidate(lambda: two_tensor.rotate_phase(*z.pair, theta), (z.pair,)),
        others={"complex": lambda: Candidate(lambda: native.rotate_phase(z.complex, theta), (z.complex,))},
        peers=lambda: peers.layers("rotate_phase", z, theta, z.pair[0]),
        cost=streaming(z.planar, 2, 2),
    )
