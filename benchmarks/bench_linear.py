"""linear, with complex and with real weights; a shape is N, in, out."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import Inputs, kernel, named
from .timing import Case, Side

NAMES = ("linear complex", "linear real")
SHAPES = [(128, 400, 120), (64, 512, 512), (256, 1024, 1024)]
QUICK_SHAPES = [(4, 10, 6)]


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    n, features, out = shape
    z, parts = inputs.feature((n, features))
    weights = tuple(inputs.weight(out, features) for _ in range(2 if "complex" in name else 1))
    weight = weights if len(weights) == 2 else weights[0]
    return Case(
        name,
        named(shape),
        fused=Side(lambda: F.linear(z, weight), leaves=(z, *weights)),
        naive=Side(lambda: two_tensor.linear(*parts, *weights), leaves=(parts, *weights)),
        backend=kernel("linear", z),
        dtype=dtype,
        device=device,
    )
