"""conv2d, 3x3 with padding 1 and as many channels out as in, with complex and with real weights."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import NETWORKS, QUICK, Inputs, kernel, named
from .timing import Case, Side

NAMES = ("conv2d complex", "conv2d real")
SHAPES = NETWORKS
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    z, parts = inputs.feature(shape)
    channels = shape[1]
    weights = tuple(inputs.weight(channels, channels, 3, 3) for _ in range(2 if "complex" in name else 1))
    weight = weights if len(weights) == 2 else weights[0]
    return Case(
        name,
        named(shape),
        fused=Side(lambda: F.conv2d(z, weight, padding=1), leaves=(z, *weights)),
        naive=Side(lambda: two_tensor.conv2d(*parts, *weights, padding=1), leaves=(parts, *weights)),
        backend=kernel("conv2d", z),
        dtype=dtype,
        device=device,
    )
