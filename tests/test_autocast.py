"""Autocast: dtypes as torch's own convolution, linear map and batch norm have, statistics in float32, GradScaler."""

import pytest
import torch
from torch import nn

import cvkernels.functional as F
import cvkernels.nn as cnn
from tests.close import assert_close
from tests.conftest import HALVES

Z = torch.randn(4, 2, 6, 8, 7, generator=torch.Generator().manual_seed(0))
dtypes = pytest.mark.parametrize("half", HALVES, ids=str)


@dtypes
@pytest.mark.parametrize("given", [torch.float32, torch.float64, *HALVES], ids=str)
def test_dtypes_are_torchs(half, given):
    x = torch.randn(4, 6, 8, 7).to(given)
    held = torch.float64 if given == torch.float64 else torch.float32
    rows = Z[:, :, 0, 0].to(given)
    layers = {
        nn.Conv2d(6, 4, 3, bias=False, dtype=held): (cnn.ComplexConv2d(6, 4, 3, dtype=held), x, Z.to(given)),
        nn.Linear(7, 4, bias=False, dtype=held): (cnn.ComplexLinear(7, 4, dtype=held), x[:, 0, 0], rows),
    }
    with torch.autocast("cpu", half):
        for torchs, (ours, real, planar) in layers.items():
            assert ours(planar).dtype == torchs(real).dtype == (held if held == torch.float64 else half)
        for real, complex_ in ((nn.BatchNorm2d(6, dtype=held), cnn.MagnitudeBatchNorm2d(6, dtype=held)),):
            assert complex_(Z.to(given)).dtype == real(x).dtype == given
            assert complex_.running_power.dtype == held


@dtypes
def test_values_are_rounded_once(half):
    """Parameters in float32, the convolution in half precision: what torch's own gives on the same block weight."""
    layer = cnn.ComplexConv2d(6, 5, 3, padding=1)
    with torch.autocast("cpu", half):
        y = layer(Z)
    a, b = (w.detach().to(half).double() for w in (layer.weight_re, layer.weight_im))
    assert_close(y, F.conv2d(Z.to(half).double(), (a, b), padding=1), half)
    grads = torch.autograd.grad(y.float().sum(), (layer.weight_re, layer.weight_im))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


def test_complex_features_are_left_alone():
    z = torch.complex(Z[:, 0], Z[:, 1])
    layer, flat = cnn.ComplexConv2d(6, 5, 3), cnn.ComplexLinear(7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(z), layer.float()(z)) and layer(z).dtype == torch.complex64
        assert flat(z[:, 0, 0]).dtype == torch.complex64
    assert_close(layer(z), F.conv2d(z, layer.kernel()))


class Block(nn.Module):
    """What a network's stage starts with: a float32 residual beside a convolution's half-precision result."""

    def __init__(self):
        super().__init__()
        self.first = cnn.ComplexConvBatchNormReLU2d(6, 6, 3, padding=1, affine=True)
        self.second = cnn.ComplexConvBatchNormReLU2d(6, 6, 3, padding=1)
        self.read = cnn.ComplexLinear(6 * 8 * 7, 3)

    def forward(self, z):
        y = self.second(self.first(z), z)
        return self.read(y.flatten(2))


@dtypes
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_block_trains_with_a_scaler(half, compiled):
    torch.manual_seed(1)
    block = Block()
    if compiled:
        torch._dynamo.reset()
    run = torch.compile(block, fullgraph=True, backend="aot_eager") if compiled else block
    optimiser = torch.optim.SGD(block.parameters(), 0.002)
    scaler = torch.amp.GradScaler("cpu", enabled=half == torch.float16)
    target, losses = torch.randn(4, 2, 3), []
    for _ in range(6):
        optimiser.zero_grad()
        with torch.autocast("cpu", half):
            y = run(Z)
            loss = (y.float() - target).square().mean()
        assert y.dtype == half
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in block.parameters())
    assert block.first.norm_act.running_power.dtype == torch.float32


@pytest.mark.parametrize(
    "fn, size", [(F.batch_norm_relu, (4, 2, 3, 5)), (F.real_batch_norm_relu, (4, 3, 5))], ids=["complex", "real"]
)
def test_a_wide_residual_is_rounded(fn, size):
    x, residual = torch.randn(2, *size)
    with torch.autocast("cpu", torch.bfloat16):
        y = fn(x.bfloat16(), residual=residual, training=True)
    assert y.dtype == torch.bfloat16
    assert_close(y, fn(x.bfloat16(), residual=residual.bfloat16(), training=True))
    with pytest.raises(TypeError, match="`residual` must have the dtype"):
        fn(x.bfloat16(), residual=residual, training=True)


@pytest.mark.parametrize("samples", [2, 6], ids=["torch's products", "ours"])
def test_a_backward_alone_may_stand_under_autocast(samples):
    """The forward's dtype holds: nothing of it was lowered."""
    z, a, b = (torch.randn(samples, 2, 8, requires_grad=True), *torch.randn(2, 5, 8, requires_grad=True))
    want = torch.autograd.grad(F.linear(z, (a, b)).square().sum(), (z, a, b))
    loss = F.linear(z, (a, b)).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(loss, (z, a, b))
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, torch.float32)
