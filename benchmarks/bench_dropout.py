"""dropout and dropout2d, p = 1/2, one mask for both parts; each call seeds the generator, so both sides draw alike."""

import torch

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, named
from .timing import Case, Side

NAMES = ("dropout", "dropout2d")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    for name in NAMES:
        z, parts = inputs.feature(shape)
        fused, naive = (seeded(getattr(module, name)) for module in (F, two_tensor))
        yield Case(
            name,
            named(shape),
            fused=Side(lambda f=fused, z=z: f(z), leaves=(z,)),
            naive=Side(lambda f=naive, parts=parts: f(*parts), leaves=(parts,)),
            backend="torch",
            dtype=dtype,
            device=device,
        )


def seeded(function):
    def call(*features):
        torch.manual_seed(0)
        return function(*features, 0.5)

    return call
