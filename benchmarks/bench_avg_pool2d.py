"""avg_pool2d 2x2 and adaptive_avg_pool2d to one position; on a GPU torch's own on a planar view, one call for two."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("avg_pool2d", "adaptive_avg_pool2d")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    yield _case("avg_pool2d", shape, device, dtype, 2, moved=1.25)
    yield _case("adaptive_avg_pool2d", shape, device, dtype, 1, moved=1)


def _case(name, shape, device, dtype, size: int, moved: float):
    z = Inputs(device, dtype).feature(shape)
    ours, plain = getattr(F, name), getattr(real, name)
    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: ours(z.planar, size), (z.planar,), what=kernel(name, z.planar)),
        naive=Candidate(lambda: tuple(plain(p, size) for p in z.pair), (z.pair,)),
        others={
            "complex": lambda: Candidate(lambda: native.by_parts(plain, z.complex, size), (z.complex,)),
            "real": lambda: Candidate(lambda: plain(z.real, size), (z.real,), what=name, compared=False),
        },
        peers=lambda: peers.layers(name, z, size),
        cost=streaming(z.planar, moved, moved),
    )
