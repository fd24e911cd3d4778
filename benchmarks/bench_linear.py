"""linear, with complex and with real weights; a shape is N, in, out."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import Inputs, kernel, named
from .timing import Case, Side

SHAPES = [(128, 400, 120), (64, 512, 512), (256, 1024, 1024)]
QUICK_SHAPES = [(4, 10, 6)]


def cases(shape, device, dtype):
    for kind in ("complex", "real"):
        yield _case(shape, device, dtype, kind)


def _case(shape, device, dtype, kind: str):
    inputs = Inputs(device, dtype)
    n, features, out = shape
    z, parts = inputs.feature((n, features))
    weights = tuple(inputs.weight(out, features) for _ in range(2 if kind == "complex" else 1))
    weight = weights if kind == "complex" else weights[0]
    return Case(
        f"linear {kind}",
        named(shape),
        fused=Side(lambda: F.linear(z, weight), leaves=(z, *weights)),
        naive=Side(lambda: two_tensor.linear(*parts, *weights), leaves=(parts, *weights)),
        backend=kernel("linear", z),
        dtype=dtype,
        device=device,
    )
