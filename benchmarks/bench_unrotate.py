"""unrotate: Re(h e^{-i theta}), with one angle a sample and with the seven of a critic's fakes."""

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

FAKES = 7  # k - 1 of k = 8
NAMES = ("unrotate", f"unrotate K={FAKES}")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    for op, fakes in zip(NAMES, ((), (FAKES,)), strict=True):
        yield _case(op, shape, device, dtype, fakes)


def _case(op, shape, device, dtype, fakes):
    inputs = Inputs(device, dtype)
    h = inputs.feature(shape)
    theta = inputs.angle(shape[0], *fakes)
    moved = 1 + 0.5 * (fakes[0] if fakes else 1)
    return Case(
        op,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: F.unrotate(h.planar, theta), (h.planar,), what=kernel("unrotate", h.planar)),
        naive=Candidate(lambda: two_tensor.unrotate(*h.pair, theta), (h.pair,)),
        others={"complex": lambda: Candidate(lambda: native.unrotate(h.complex, theta), (h.complex,))},
        peers=dict if fakes else lambda: peers.layers("unrotate", h, theta),
        cost=streaming(h.planar, moved, moved),
    )
