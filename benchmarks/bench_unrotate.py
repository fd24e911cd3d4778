"""unrotate: Re(h e^{-i theta}), with one angle a sample and with the seven of a critic's fakes."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, kernel, named
from .timing import Case, Side

FAKES = 7  # k - 1 of k = 8
NAMES = ("unrotate", f"unrotate K={FAKES}")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    for op, angles in zip(NAMES, ((shape[0],), (shape[0], FAKES)), strict=True):
        inputs = Inputs(device, dtype)
        h, parts = inputs.feature(shape)
        theta = inputs.angle(*angles)
        yield Case(
            op,
            named(shape),
            fused=Side(lambda h=h, theta=theta: F.unrotate(h, theta), leaves=(h,)),
            naive=Side(lambda parts=parts, theta=theta: two_tensor.unrotate(*parts, theta), leaves=(parts,)),
            backend=kernel("unrotate", h),
            dtype=dtype,
            device=device,
        )
