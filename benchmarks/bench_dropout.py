"""dropout and dropout2d, p = 1/2, one mask for both parts, drawn anew in each call."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("dropout", "dropout2d")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK
P = 0.5


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(name, shape, device, dtype)


def _case(name, shape, device, dtype):
    z = Inputs(device, dtype).feature(shape)
    ours, naive, by_complex, plain = (getattr(module, name) for module in (F, two_tensor, native, real))
    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: ours(z.planar, P), (z.planar,), what=kernel("dropout", z.planar)),
        naive=Candidate(lambda: naive(*z.pair, P), (z.pair,)),
        others={
            "complex": lambda: Candidate(lambda: by_complex(z.complex, P), (z.complex,)),
            "real": lambda: Candidate(lambda: plain(z.real, P), (z.real,), what=name, compared=False),
        },
        peers=lambda: peers.layers(name, z, P),
        cost=streaming(z.planar, 2, 2),
        draws=(P, z.real.numel() if name == "dropout" else shape[0] * shape[1]),
    )
