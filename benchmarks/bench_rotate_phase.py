"""rotate_phase: z e^{i theta}."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, bars, kernel, named
from .timing import Case, Side

NAMES = ("rotate_phase",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    z, parts = inputs.feature(shape)
    theta = inputs.angle(shape[0])
    yield Case(
        *NAMES,
        named(shape),
        fused=Side(lambda: F.rotate_phase(z, theta), leaves=(z,)),
        naive=Side(lambda: two_tensor.rotate_phase(*parts, theta), leaves=(parts,)),
        backend=kernel("rotate_phase", z),
        dtype=dtype,
        device=device,
        bars=bars(shape, dtype, device, forward=2.5, both=2.5),
    )
