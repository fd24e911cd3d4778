"""What Triton's convolution is asked in the interpreter and on a card: layouts, geometries, the reference's answer."""

import math

import torch

from cvkernels import to_channels_last
from cvkernels.ops.conv2d import implicit
from cvkernels.ops.conv2d.reference import conv2d as reference
from tests.close import assert_close

LAYOUTS = {
    "contiguous": lambda z: z,
    "channels-last": to_channels_last,
    "interleaved": lambda z: z.movedim(1, -1).contiguous().movedim(-1, 1),
    "strided": lambda z: torch.stack((z, z), -1).flatten(-2)[..., ::2],
}
GEOMETRIES = {
    "1x1": dict(kernel=(1, 1)),
    "1x1-strided": dict(kernel=(1, 1), stride=(2, 2)),
    "5x5": dict(kernel=(5, 5)),
    "even": dict(kernel=(2, 4), padding=(1, 2)),
    "strided": dict(kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    "stride-of-two-kinds": dict(kernel=(3, 5), stride=(3, 2), padding=(0, 2)),
    "stride-beyond-kernel": dict(kernel=(2, 2), stride=(4, 3)),
    "dilated": dict(kernel=(3, 3), dilation=(2, 3), padding=(2, 3)),
    "stride-divides-dilation": dict(kernel=(3, 3), stride=(2, 2), dilation=(2, 4), padding=(2, 1)),
    "stride-shares-with-dilation": dict(kernel=(2, 3), stride=(4, 6), dilation=(6, 4), padding=(3, 5)),
    "all-padding-but-one": dict(kernel=(3, 3), padding=(4, 4)),
}


def draw(size, channels, kernel, real=False, dtype=torch.float32, layout="contiguous", device="cpu"):
    """z [N, 2, C, H, W] and the parts of the weight; the same numbers on each device."""
    n, c, h, w = size
    z = LAYOUTS[layout](torch.randn(n, 2, c, h, w).to(device, dtype)).requires_grad_()
    scale = 1 / math.sqrt(2 * c * kernel[0] * kernel[1])
    parts = [(scale * torch.randn(channels, c, *kernel)).to(device, dtype).requires_grad_() for _ in range(2 - real)]
    return z, parts[0], None if real else parts[1]


def wide(x):
    return None if x is None else x.detach().double().contiguous().requires_grad_(x.requires_grad)


def both_ways(z, a, b, how):
    """The output by Triton's kernels, its gradients in z, a and b."""
    y = implicit.conv2d(z, a, b, *how, "triton")
    y.backward(gradient_for(y.shape).to(y))
    return y


def gradient_for(shape):
    torch.manual_seed(1)
    return torch.randn(shape)


def is_the_references(y, z, a, b, how, kind="op"):
    """Value and every gradient."""
    z_, a_, b_ = (wide(t) for t in (z, a, b))
    want = reference(z_, a_, b_, *how, 1)
    want.backward(gradient_for(want.shape).to(y).double())
    assert_close(y, want, z.dtype, kind, "y")
    for name, got, wanted in (("z", z, z_), ("re", a, a_), ("im", b, b_)):
        if got is not None:
            assert_close(got.grad, wanted.grad, z.dtype, kind, f"grad of {name}")
