"""A residual block of ResNet: conv, batch_norm_relu, conv, batch_norm_relu with the block's input; complex weights."""

from cvkernels import functional as F

from . import two_tensor
from .inputs import NETWORKS, QUICK, Inputs, bars, kernel, named
from .timing import Case, Side

NAMES = ("block",)
SHAPES = NETWORKS[:3]
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    inputs = Inputs(device, dtype)
    z, parts = inputs.feature(shape)
    channels = shape[1]
    first, second = (tuple(inputs.weight(channels, channels, 3, 3) for _ in range(2)) for _ in range(2))
    fused_powers, naive_powers = (tuple(inputs.power(channels) for _ in range(2)) for _ in range(2))

    def fused():
        y = F.batch_norm_relu(F.conv2d(z, first, padding=1), fused_powers[0], training=True)
        return F.batch_norm_relu(F.conv2d(y, second, padding=1), fused_powers[1], residual=z, training=True)

    yield Case(
        *NAMES,
        named(shape),
        fused=Side(fused, leaves=(z, *first, *second), state=fused_powers),
        naive=Side(
            lambda: two_tensor.block(*parts, first, second, naive_powers),
            leaves=(parts, *first, *second),
            state=naive_powers,
        ),
        backend=kernel("batch_norm_relu", z),
        dtype=dtype,
        device=device,
        jumps=True,
        bars=bars(shape, dtype, device, both=1.3),
    )
