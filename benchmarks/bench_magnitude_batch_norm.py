"""magnitude_batch_norm in training, with its running power; magnitude_power, the sums alone, which processes add up."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("magnitude_batch_norm", "magnitude_power")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    powers = [inputs.ones(shape[1]) for _ in range(5)]

    def plain():
        return real.batch_norm(z.real, powers[3], powers[4], training=True)

    yield Case(
        NAMES[0],
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.magnitude_batch_norm(z.planar, powers[0], training=True),
            (z.planar,),
            (powers[0],),
            what=kernel("magnitude_batch_norm", z.planar),
        ),
        naive=Candidate(lambda: two_tensor.magnitude_batch_norm(*z.pair, powers[1]), (z.pair,), (powers[1],)),
        others={
            "complex": lambda: Candidate(
                lambda: native.magnitude_batch_norm(z.complex, powers[2]), (z.complex,), (powers[2],)
            ),
            "real": lambda: Candidate(plain, (z.real,), what="batch_norm", compared=False),
        },
        peers=lambda: peers.layers("norm", z, z.channels),
        cost=streaming(z.planar, 3, 5),
    )
    yield Case(
        NAMES[1],
        named(shape),
        dtype,
        device,
        ours=Candidate(lambda: F.magnitude_power(z.planar), (z.planar,), what=kernel("magnitude_power", z.planar)),
        naive=Candidate(lambda: two_tensor.magnitude_power(*z.pair), (z.pair,)),
        others={
            "complex": lambda: Candidate(
                lambda: native.power(z.complex).sum((0, *range(2, z.complex.ndim))), (z.complex,)
            )
        },
        cost=streaming(z.planar, 1, 2),
    )
