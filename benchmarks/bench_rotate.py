"""rotate: (a + ib) e^{i theta} of two real tensors."""

from cvkernels import functional as F

from . import native, two_tensor
from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

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
        dtype,
        device,
        ours=Candidate(lambda: F.rotate(a, b, theta), (a, b), what=kernel("rotate", a)),
        naive=Candidate(lambda: two_tensor.rotate(a, b, theta), (a, b)),
        others={"complex": lambda: Candidate(lambda: native.rotate(a, b, theta), (a, b))},
        cost=streaming(a, 4, 4),
    )
