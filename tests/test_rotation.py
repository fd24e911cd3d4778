"""The laws of DESIGN.md 3, for every operation and module, on every backend, with an angle for each sample.

P(e^{iθ}z) = e^{iθ}P(z); unrotate(rotate(a, b, θ), θ) = a; a zero imaginary plane stays zero under real weights. And the
other way round: what breaks the law must fail, and one angle for all must be seen to hide a fault.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as real

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import to_channels_last, to_complex
from tests.close import as_planar, assert_close, assert_equivariant
from tests.conftest import Backend

N, C, H, W = 5, 4, 7, 6
CPU = Backend("reference")


def kernel(z, *shape):
    generator = torch.Generator().manual_seed(1)
    return (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(z.device, as_planar(z).dtype)


def power(z):
    return torch.linspace(0.5, 2, C, device=z.device, dtype=as_planar(z).dtype)


def repeated(fn, z):
    """The same random numbers each time."""
    torch.manual_seed(7)
    return fn(z)


OPS = {
    "conv2d-complex": lambda z: F.conv2d(z, (kernel(z, 6, C, 3, 3), kernel(z, 6, C, 3, 3).flip(0)), 2, 1),
    "conv2d-real": lambda z: F.conv2d(z, kernel(z, 6, C, 3, 3), 1, "same"),
    "conv2d-groups": lambda z: F.conv2d(z, (kernel(z, 6, C // 2, 3, 3), kernel(z, 6, C // 2, 3, 3).flip(0)), groups=2),
    "magnitude_relu": F.magnitude_relu,
    "magnitude_relu-mean": lambda z: F.magnitude_relu(z, "channel_mean"),
    "magnitude_relu-batch-mean": lambda z: F.magnitude_relu(z, "batch_channel_mean"),
    "magnitude_relu-whole-mean": lambda z: F.magnitude_relu(z, "mean"),
    "magnitude_batch_norm": lambda z: F.magnitude_batch_norm(z, power(z), power(z)),
    "magnitude_batch_norm-training": lambda z: F.magnitude_batch_norm(z, power(z), training=True),
    "batch_norm_relu": lambda z: F.batch_norm_relu(z, power(z), power(z), residual=z, c=0.7),
    "batch_norm_relu-training": lambda z: F.batch_norm_relu(z, power(z), training=True),
    "magnitude_max_pool2d": lambda z: F.magnitude_max_pool2d(z, 3, 2, 1, ceil_mode=True),
    "avg_pool2d": lambda z: F.avg_pool2d(z, 2, ceil_mode=True),
    "adaptive_avg_pool2d": lambda z: F.adaptive_avg_pool2d(z, (2, 3)),
    "dropout": lambda z: repeated(F.dropout, z),
    "dropout2d": lambda z: repeated(F.dropout2d, z),
    "rotate_phase": lambda z: F.rotate_phase(z, torch.linspace(0, 4, z.shape[0], device=z.device)),
    "linear-complex": lambda z: F.linear(flat(z), (kernel(z, 9, C * H * W), kernel(z, 9, C * H * W).flip(0))),
    "linear-real": lambda z: F.linear(flat(z), kernel(z, 9, C * H * W)),
}
MODULES = {
    "ComplexConv2d": lambda: cnn.ComplexConv2d(C, 6, 3, 2, padding=1),
    "ComplexConv2d-replicate": lambda: cnn.ComplexConv2d(C, 6, 3, padding="same", padding_mode="replicate"),
    "ComplexConv2d-real": lambda: cnn.ComplexConv2d(C, 6, (3, 2), dilation=2, groups=2, weights="real"),
    "ComplexConvBatchNormReLU2d": lambda: cnn.ComplexConvBatchNormReLU2d(C, 6, 3, padding=1),
    "MagnitudeBatchNorm2d": lambda: cnn.MagnitudeBatchNorm2d(C),
    "MagnitudeBatchNorm2d-mean": lambda: cnn.MagnitudeBatchNorm2d(C, momentum=None, affine=True),
    "MagnitudeBatchNormReLU2d": lambda: cnn.MagnitudeBatchNormReLU2d(C),
    "MagnitudeBatchNormReLU2d-mean": lambda: cnn.MagnitudeBatchNormReLU2d(C, "channel_mean"),
    "MagnitudeReLU": lambda: cnn.MagnitudeReLU(0.8),
    "MagnitudeMaxPool2d": lambda: cnn.MagnitudeMaxPool2d(2),
    "ComplexAvgPool2d": lambda: cnn.ComplexAvgPool2d(3, 2, 1),
    "ComplexAdaptiveAvgPool2d": lambda: cnn.ComplexAdaptiveAvgPool2d(2),
    "ComplexDropout": cnn.ComplexDropout,
    "ComplexDropout2d": cnn.ComplexDropout2d,
    "flat": lambda: nn.Sequential(
        cnn.ComplexFlatten(), cnn.ComplexLinear(C * H * W, 9), cnn.MagnitudeBatchNorm1d(9), cnn.MagnitudeReLU()
    ),
    "rows": lambda: nn.Sequential(
        cnn.ComplexFlatten(2), cnn.MagnitudeBatchNorm1d(C), cnn.MagnitudeReLU("channel_mean")
    ),
}
LAYOUTS = {"planar": lambda z: z, "channels-last": to_channels_last, "complex": to_complex}


def flat(z):
    return z.flatten(1 if z.is_complex() else 2)


def feature(backend, dtype=None, n=N, layout="planar"):
    """In float64 where no dtype is asked for, or what the backend has beside it."""
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(n, 2, C, H, W, generator=generator, dtype=dtype or backend.widest())
    return LAYOUTS[layout](z.to(backend.device))


def law(layer, z):
    # statistics and random numbers start from the same place each time, whatever the layer did before
    assert_equivariant(lambda x: repeated(layer, x), z)


@pytest.mark.parametrize("layout", LAYOUTS)
class TestLaw:
    @pytest.mark.parametrize("op", OPS)
    def test_operation(self, backend, op, dtype, layout):
        assert_equivariant(OPS[op], feature(backend, dtype, layout=layout))

    @pytest.mark.parametrize("module", MODULES)
    def test_module_in_training_then_inference(self, backend, module, dtype, layout):
        layer = MODULES[module]().to(backend.device, dtype)
        law(layer.train(), feature(backend, dtype, layout=layout))
        law(layer.eval(), feature(backend, dtype, layout=layout))
        law(layer.eval(), feature(backend, dtype, n=1, layout=layout))


def test_phase_rotation(backend):
    z, theta = feature(backend), torch.linspace(-3, 9, N, device=backend.device)
    assert_equivariant(lambda x: cnn.PhaseRotation()(x, theta), z)


def test_unrotate_takes_rotate_back(backend, dtype):
    a, b = feature(backend, dtype).unbind(1)
    theta = torch.linspace(0.1, 6.2, N, device=backend.device, dtype=torch.float64)
    assert_close(F.unrotate(F.rotate(a, b, theta), theta), a, dtype)
    fakes = torch.stack((theta, theta + 1), 1)
    assert_close(F.unrotate(F.rotate(a, b, theta), fakes)[:, 0], a, dtype)


def test_a_turned_feature_read_at_its_angle_is_as_if_never_turned(backend):
    z, theta = feature(backend), torch.linspace(0.1, 6.2, N, device=backend.device)
    layer = MODULES["ComplexConv2d"]().to(backend.device, z.dtype)
    assert_close(F.unrotate(layer(F.rotate_phase(z, theta)), theta), layer(z)[:, 0])


class TestZeroImaginaryPlane:
    """Under real weights it stays zero; linear operations then equal torch's, the magnitude layers do not."""

    LINEAR = {
        "conv2d": (OPS["conv2d-real"], lambda a: real.conv2d(a, kernel(a, 6, C, 3, 3), padding="same")),
        "linear": (OPS["linear-real"], lambda a: real.linear(a.flatten(1), kernel(a, 9, C * H * W))),
        "avg_pool2d": (OPS["avg_pool2d"], lambda a: real.avg_pool2d(a, 2, ceil_mode=True)),
        "adaptive_avg_pool2d": (OPS["adaptive_avg_pool2d"], lambda a: real.adaptive_avg_pool2d(a, (2, 3))),
    }
    MAGNITUDE = {
        "magnitude_relu": (OPS["magnitude_relu"], real.relu),
        "magnitude_batch_norm": (
            OPS["magnitude_batch_norm-training"],
            lambda a: real.batch_norm(a, None, None, training=True),
        ),
        "magnitude_max_pool2d": (lambda z: F.magnitude_max_pool2d(z, 2), lambda a: real.max_pool2d(a, 2)),
    }

    @pytest.mark.parametrize("op", LINEAR)
    def test_linear_operations_are_torchs_own(self, backend, op):
        ours, torchs = self.LINEAR[op]
        a = 1 + feature(backend)[:, 0]  # a mean that is not 0, or leaving it in would not show
        y = ours(torch.stack((a, torch.zeros_like(a)), 1))
        assert_close(y[:, 0], torchs(a))
        assert not y[:, 1].any()

    @pytest.mark.parametrize("op, torchs", [("dropout", real.dropout), ("dropout2d", real.dropout2d)])
    def test_dropout_is_torchs_but_for_which_elements_it_drops(self, backend, op, torchs):
        a = 1 + feature(backend)[:, 0]
        ours, theirs = OPS[op](torch.stack((a, torch.zeros_like(a)), 1)), repeated(torchs, a)
        assert not ours[:, 1].any()
        for y in (ours[:, 0], theirs):
            kept = y != 0
            assert 0 < kept.count_nonzero() < kept.numel()
            assert_close(y, torch.where(kept, a / (1 - 0.5), 0.0))

    @pytest.mark.parametrize("op", MAGNITUDE)
    def test_magnitude_layers_are_not(self, backend, op):
        ours, torchs = self.MAGNITUDE[op]
        a = 1 + feature(backend)[:, 0]
        y = ours(torch.stack((a, torch.zeros_like(a)), 1))
        assert not y[:, 1].any()
        with pytest.raises(AssertionError, match="RMS error"):
            assert_close(y[:, 0], torchs(a))


def whitened(z):
    """2x2 whitening of the parts per channel: what most complex batch norms do."""
    x = z.movedim(2, 0).movedim(2, 1).flatten(2)  # [C, 2, N H W]
    x = x - x.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(x @ x.mT / x.shape[2])
    inverse_root = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT
    return (inverse_root @ x).unflatten(2, (z.shape[0], *z.shape[3:])).movedim(1, 2).movedim(0, 2)


BREAKS = {
    "bias": lambda z: F.conv2d(z, kernel(z, 6, C, 3, 3)) + 0.1,
    "relu-of-parts": real.relu,
    "tanh-of-parts": torch.tanh,
    "max-pool-of-parts": lambda z: real.max_pool2d(z.flatten(0, 1), 2).unflatten(0, (-1, 2)),
    "dropout-of-parts": lambda z: repeated(real.dropout, z),
    "batch-norm-of-parts": lambda z: real.batch_norm(z.flatten(1, 2), None, None, training=True).unflatten(1, (2, C)),
    "whitening": whitened,
}


class TestNegative:
    """What breaks the law fails the check, or the check would be worth nothing."""

    @pytest.mark.parametrize("fault", BREAKS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
    def test_breaks_the_law(self, fault, dtype):
        z = feature(CPU, dtype)
        with pytest.raises(AssertionError, match="RMS error"):
            assert_equivariant(BREAKS[fault], z)

    def test_one_angle_for_all_hides_whitening(self):
        z = feature(CPU)
        theta = torch.full((N,), 0.8, dtype=torch.float64)
        assert_close(whitened(F.rotate_phase(z, theta)), F.rotate_phase(whitened(z), theta), kind="network")

    def test_a_mean_subtracted_breaks_it_where_features_have_one(self):
        """A complex mean turns with one angle for all, and not with an angle for each sample."""
        z = feature(CPU) + 1
        centred = lambda x: x - x.mean((0, 3, 4), keepdim=True)  # noqa: E731
        theta = torch.full((N,), 0.8, dtype=torch.float64)
        assert_close(centred(F.rotate_phase(z, theta)), F.rotate_phase(centred(z), theta))
        with pytest.raises(AssertionError, match="RMS error"):
            assert_equivariant(centred, z)
