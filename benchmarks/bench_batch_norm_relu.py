"""batch_norm_relu in training, without and with a residual."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import POINTWISE, QUICK, Inputs, bars, kernel, named
from .timing import Case, Side

NAMES = ("batch_norm_relu", "batch_norm_relu residual")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    yield _case(shape, device, dtype, residual=False)
    yield _case(shape, device, dtype, residual=True)


def _case(shape, device, dtype, residual: bool):
    inputs = Inputs(device, dtype)
    z, parts = inputs.feature(shape)
    r, r_parts = inputs.feature(shape) if residual else (None, None)
    fused_power, naive_power = (inputs.power(shape[1]) for _ in range(2))
    return Case(
        NAMES[residual],
        named(shape),
        fused=Side(
            lambda: F.batch_norm_relu(z, fused_power, residual=r, training=True),
            leaves=(z, r) if residual else (z,),
            state=(fused_power,),
        ),
        naive=Side(
            lambda: two_tensor.batch_norm_relu(*parts, naive_power, r_parts),
            leaves=(parts, r_parts) if residual else (parts,),
            state=(naive_power,),
        ),
        backend=kernel("batch_norm_relu", z),
        dtype=dtype,
        device=device,
        jumps=True,
        bars=() if residual else bars(shape, dtype, device, forward=3, both=5),
    )
