"""magnitude_max_pool2d, 2x2."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, bars, kernel, named, paired
from .timing import Case, Side

NAMES = ("magnitude_max_pool2d",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK
# Multiples of 2^-8: their powers are exact in float32, so no rounding decides which of two elements is larger.
STEP = 2.0**-8


def cases(shape, device, dtype):
    n, *rest = shape
    z, parts = paired((Inputs(device, dtype).real(n, 2, *rest) / STEP).round() * STEP)
    yield Case(
        *NAMES,
        named(shape),
        fused=Side(lambda: F.magnitude_max_pool2d(z, 2), leaves=(z,)),
        naive=Side(lambda: two_tensor.magnitude_max_pool2d(*parts, 2), leaves=(parts,)),
        backend=kernel("magnitude_max_pool2d", z),
        dtype=dtype,
        device=device,
        bars=bars(shape, dtype, device, forward=6, both=4),
    )
