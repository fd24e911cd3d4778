"""batch_norm_relu in training, without and with a residual."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("batch_norm_relu", "batch_norm_relu residual")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    yield _case(shape, device, dtype, residual=False)
    yield _case(shape, device, dtype, residual=True)


def _case(shape, device, dtype, residual: bool):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    r = inputs.feature(shape) if residual else None
    powers = [inputs.ones(shape[1]) for _ in range(5)]

    def leaves(form):
        return tuple(getattr(f, form) for f in (z, r) if f is not None)

    def plain():
        y = real.batch_norm(z.real, powers[3], powers[4], training=True)
        return real.relu(y + r.real if residual else y)

    return Case(
        NAMES[residual],
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.batch_norm_relu(z.planar, powers[0], residual=r and r.planar, training=True),
            leaves("planar"),
            (powers[0],),
            what=kernel("batch_norm_relu", z.planar),
        ),
        naive=Candidate(
            lambda: two_tensor.batch_norm_relu(*z.pair, powers[1], r and r.pair), leaves("pair"), (powers[1],)
        ),
        others={
            "complex": lambda: Candidate(
                lambda: native.batch_norm_relu(z.complex, powers[2], r and r.complex), leaves("complex"), (powers[2],)
            ),
            "real": lambda: Candidate(plain, leaves("real"), what="batch_norm, relu", compared=False),
        },
        peers=lambda: peers.norm_act(z, r),
        cost=streaming(z.planar, *((4, 8) if residual else (3, 5))),
        jumps=True,
    )
