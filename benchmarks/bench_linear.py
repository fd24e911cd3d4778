"""linear, with complex and with real weights; a shape is N, in, out."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, multiplying
from .inputs import Inputs, as_complex, multiplied_by, named

NAMES = ("linear complex", "linear real")
SHAPES = [(128, 400, 120), (64, 512, 512), (256, 1024, 1024)]
QUICK_SHAPES = [(4, 10, 6)]


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    n, features, out = shape
    z = inputs.feature((n, features))
    weights = tuple(inputs.weight(out, features) for _ in range(2 if "complex" in name else 1))
    weight = weights if len(weights) == 2 else weights[0]
    plain = weights[0].detach().clone().requires_grad_()

    def by_complex():
        w = as_complex(weights)
        return Candidate(lambda: native.linear(z.complex, w), (z.complex, w))

    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.linear(z.planar, weight), (z.planar, weight), what=multiplied_by("linear", z.planar, weights)
        ),
        naive=Candidate(lambda: two_tensor.linear(*z.pair, *weights), (z.pair, weight)),
        others={
            "complex": by_complex,
            "real": lambda: Candidate(
                lambda: real.linear(z.real, plain), (z.real, plain), what="linear", compared=False
            ),
        },
        peers=(lambda: peers.multiplied("linear", z, weights)) if "complex" in name else dict,
        cost=multiplying(n * features * out, name.split()[1]),
    )
