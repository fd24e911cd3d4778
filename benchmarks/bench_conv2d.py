"""conv2d, 3x3 with padding 1 and as many channels out as in, with complex and with real weights."""

from torch.nn import functional as real

from cvkernels import functional as F

from . import native, peers, two_tensor
from .candidates import Candidate, Case, multiplying
from .inputs import NETWORKS, QUICK, Inputs, as_complex, multiplied_by, named

NAMES = ("conv2d complex", "conv2d real")
SHAPES = NETWORKS
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    n, channels, height, width = shape
    weights = tuple(inputs.weight(channels, channels, 3, 3) for _ in range(2 if "complex" in name else 1))
    weight = weights if len(weights) == 2 else weights[0]
    plain = weights[0].detach().clone().requires_grad_()

    def by_complex():
        w = as_complex(weights)
        return Candidate(lambda: native.conv2d(z.complex, w, padding=1), (z.complex, w))

    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.conv2d(z.planar, weight, padding=1),
            (z.planar, weight),
            what=multiplied_by("conv2d", z.planar, weights),
        ),
        naive=Candidate(lambda: two_tensor.conv2d(*z.pair, *weights, padding=1), (z.pair, weight)),
        others={
            "ours channels-last": lambda: Candidate(
                lambda: F.conv2d(z.channels_last, weight, padding=1), (z.channels_last, weight)
            ),
            "naive channels-last": lambda: Candidate(
                lambda: two_tensor.conv2d(*z.pair_channels_last, *weights, padding=1), (z.pair_channels_last, weight)
            ),
            "complex": by_complex,
            "real": lambda: Candidate(
                lambda: real.conv2d(z.real, plain, padding=1), (z.real, plain), what="conv2d", compared=False
            ),
        },
        peers=(lambda: peers.multiplied("conv", z, weights, padding=1)) if "complex" in name else dict,
        cost=multiplying(9 * n * channels**2 * height * width, name.split()[1]),
    )
