"""magnitude_relu with c = 1."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, bars, kernel, named
from .timing import Case, Side

NAMES = ("magnitude_relu",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    z, parts = Inputs(device, dtype).feature(shape)
    yield Case(
        *NAMES,
        named(shape),
        fused=Side(lambda: F.magnitude_relu(z), leaves=(z,)),
        naive=Side(lambda: two_tensor.magnitude_relu(*parts), leaves=(parts,)),
        backend=kernel("magnitude_relu", z),
        dtype=dtype,
        device=device,
        jumps=True,
        bars=bars(shape, dtype, device, forward=5, both=8),
    )
