"""avg_pool2d 2x2 and adaptive_avg_pool2d to one position: torch's own on a planar view, one call for two."""

from torch.nn import functional as real

from cvkernels import functional as F

from .inputs import POINTWISE, QUICK, Inputs, named
from .timing import Case, Side

NAMES = ("avg_pool2d", "adaptive_avg_pool2d")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    for name, argument in zip(NAMES, (2, 1), strict=True):
        z, parts = inputs.feature(shape)
        fused, naive = getattr(F, name), getattr(real, name)
        yield Case(
            name,
            named(shape),
            fused=Side(lambda f=fused, z=z, k=argument: f(z, k), leaves=(z,)),
            naive=Side(lambda f=naive, parts=parts, k=argument: tuple(f(p, k) for p in parts), leaves=(parts,)),
            backend="torch",
            dtype=dtype,
            device=device,
        )
