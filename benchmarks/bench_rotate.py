"""rotate: (a + ib) e^{i theta} of two real tensors."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, kernel, named
from .timing import Case, Side

NAMES = ("rotate",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    a, b = (inputs.real(*shape).requires_grad_() for _ in range(2))
    theta = inputs.angle(shape[0])
    yield Case(
        *NAMES,
        named(shape),
        fused=Side(lambda: F.rotate(a, b, theta), leaves=(a, b)),
        naive=Side(lambda: two_tensor.rotate(a, b, theta), leaves=(a, b)),
        backend=kernel("rotate", a),
        dtype=dtype,
        device=device,
    )
