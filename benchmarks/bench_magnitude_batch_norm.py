"""magnitude_batch_norm in training, with its running power."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, bars, kernel, named
from .timing import Case, Side

NAMES = ("magnitude_batch_norm",)
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    z, parts = inputs.feature(shape)
    fused_power, naive_power = (inputs.power(shape[1]) for _ in range(2))
    yield Case(
        *NAMES,
        named(shape),
        fused=Side(lambda: F.magnitude_batch_norm(z, fused_power, training=True), (z,), (fused_power,)),
        naive=Side(lambda: two_tensor.magnitude_batch_norm(*parts, naive_power), (parts,), (naive_power,)),
        backend=kernel("magnitude_batch_norm", z),
        dtype=dtype,
        device=device,
        bars=bars(shape, dtype, device, forward=2, both=3),
    )
