"""Magnitude batch norm: running power, modes, shapes, and what it refuses."""

import copy

import pytest
import torch

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import to_complex
from tests.close import assert_close

Z = torch.randn(5, 2, 4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
POWER = Z.square().sum(1).mean((0, 2, 3))


def norm(**settings):
    return cnn.MagnitudeBatchNorm2d(4, dtype=torch.float64, **settings)


def test_training_normalises_and_moves_the_running_power():
    layer = norm(momentum=0.3)
    y = layer(Z)
    assert_close(y, F.magnitude_batch_norm(Z, training=True))
    assert_close(layer.running_power, 0.7 + 0.3 * POWER)
    assert layer.num_batches_tracked == 1


def test_inference_reads_it_and_changes_nothing():
    layer = norm()
    layer(Z)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.eval()
    assert_close(layer(Z[:1]), F.magnitude_batch_norm(Z[:1], before["running_power"]))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_momentum_none_is_the_plain_mean_of_all_batches():
    layer = norm(momentum=None)
    batches = [Z * s for s in (1, 2, 0.5)]
    for z in batches:
        layer(z)
    assert_close(layer.running_power, torch.stack([z.square().sum(1).mean((0, 2, 3)) for z in batches]).mean(0))
    assert layer.num_batches_tracked == 3


def test_nothing_is_read_back_to_the_host():
    layer = cnn.MagnitudeBatchNorm2d(4, momentum=None, device="meta")  # reading a value of a meta tensor raises
    assert layer(torch.empty(5, 2, 4, 6, 3, device="meta")).shape == Z.shape


def test_without_running_statistics_each_batch_is_its_own():
    layer = norm(track_running_stats=False)
    assert layer.running_power is None and not layer.state_dict()
    assert_close(layer.eval()(Z), F.magnitude_batch_norm(Z, training=True))
    assert_close(norm(track_running_stats=False, momentum=None)(Z), F.magnitude_batch_norm(Z, training=True))


def test_the_scale_is_real_and_starts_at_one():
    layer = norm(affine=True)
    assert layer.weight.tolist() == [1, 1, 1, 1] and not hasattr(layer, "bias")
    with torch.no_grad():
        layer.weight.copy_(torch.arange(4))
    assert_close(layer(Z), norm()(Z) * torch.arange(4).view(4, 1, 1))
    assert norm().weight is None


def test_reset():
    layer = norm(affine=True)
    layer(Z)
    with torch.no_grad():
        layer.weight.fill_(3)
    layer.reset_parameters()
    assert layer.running_power.tolist() == layer.weight.tolist() == [1, 1, 1, 1] and layer.num_batches_tracked == 0


@pytest.mark.parametrize("z", [Z[..., 0, 0], Z[..., 0]], ids=["N2C", "N2CL"])
def test_1d_takes_rows_and_flat_features(z):
    layer = cnn.MagnitudeBatchNorm1d(4, dtype=torch.float64)
    want = F.magnitude_batch_norm(z, training=True)
    assert_close(layer(z), want)
    assert_close(layer(to_complex(z)), to_complex(want))


@pytest.mark.parametrize("residual", [None, 0.3 * Z.flip(0)], ids=["alone", "residual"])
@pytest.mark.parametrize("c", [0.7, "channel_mean"])
def test_fused_is_norm_plus_residual_then_relu(c, residual):
    layer, plain = cnn.MagnitudeBatchNormReLU2d(4, c, dtype=torch.float64), norm()
    v = plain(Z)
    assert_close(layer(Z, residual), F.magnitude_relu(v if residual is None else v + residual, c))
    assert_close(layer.running_power, plain.running_power)


def test_running_power_outlives_half_precision():
    """float16 ends at 65504; the buffer is never rounded to it."""
    layer = cnn.MagnitudeBatchNorm2d(4)
    layer.running_power.fill_(1e6)
    layer.half()
    assert layer.running_power.dtype == torch.float32 and layer.running_power.tolist() == [1e6] * 4
    assert cnn.MagnitudeBatchNorm2d(4, affine=True, dtype=torch.bfloat16).running_power.dtype == torch.float32
    assert layer.double().running_power.dtype == torch.float64


def test_one_value_per_channel_is_torchs_error_in_training_and_fine_in_inference():
    layer, z = norm(), Z[:1, :, :, :1, :1]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(z)
    assert layer.eval()(z).shape == z.shape


def test_an_empty_batch():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm()(Z[:0])
    assert norm().eval()(Z[:0]).shape == (0, 2, 4, 6, 3)


REFUSED = {
    "num_features": (dict(num_features=0), ValueError, "`num_features` must be >= 1, got 0"),
    "eps": (dict(eps=-1), ValueError, "`eps` must be >= 0, got -1"),
    "momentum-tensor": (dict(momentum=torch.tensor(0.1)), TypeError, "`momentum` must be a number, got torch.float32"),
    "momentum": (dict(momentum=1.5), ValueError, r"`momentum` must lie in \[0, 1\] or be None"),
    "dtype": (dict(dtype=torch.int64), TypeError, "`dtype` must be a real floating-point dtype"),
}


NORMS = [cnn.MagnitudeBatchNorm1d, cnn.MagnitudeBatchNorm2d, cnn.MagnitudeBatchNormReLU2d, cnn.BatchNormReLU2d]


@pytest.mark.parametrize("make", NORMS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(make, name):
    settings, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make(**{"num_features": 4, **settings})


def test_features_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`z` must be planar \[N, 2, C, H, W\]"):
        norm()(Z[..., 0])
    with pytest.raises(ValueError, match="`z` must have num_features=4 channels, got torch.float64"):
        norm()(Z[:, :, :3])
    with pytest.raises(ValueError, match=r"planar \[N, 2, C, L\]"):
        cnn.MagnitudeBatchNorm1d(4)(Z)
    with pytest.raises(ValueError, match="`residual` must have the shape of `z`"):
        cnn.MagnitudeBatchNormReLU2d(4, "channel_mean", dtype=torch.float64)(Z, Z[:1])
    with pytest.raises(ValueError, match="`c` must be > 0"):
        cnn.MagnitudeBatchNormReLU2d(4, -1)


class TestRealFused:
    """BatchNormReLU2d beside torch's batch norm, whose checkpoints it loads."""

    @pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
    @pytest.mark.parametrize("momentum", [0.3, None], ids=str)
    def test_a_torch_checkpoint_loads_and_goes_on_as_torch_does(self, affine, momentum):
        x, residual = torch.randn(2, 5, 4, 6, 3, dtype=torch.float64) * 2 + 1
        torchs = torch.nn.BatchNorm2d(4, momentum=momentum, affine=affine, dtype=torch.float64)
        for p in torchs.parameters():
            torch.nn.init.normal_(p)
        torchs(x)
        ours = cnn.BatchNormReLU2d(4, momentum=momentum, affine=affine, dtype=torch.float64)
        assert list(ours.state_dict()) == list(torchs.state_dict())
        assert ours.load_state_dict(torchs.state_dict()) == ([], [])
        for training in (True, True, False):
            ours.train(training), torchs.train(training)
            assert_close(ours(x.flip(0), residual), (torchs(x.flip(0)) + residual).relu())
            assert_close(ours(x), torchs(x).relu())
        for name, value in torchs.state_dict().items():
            assert_close(ours.state_dict()[name].double(), value.double(), name=name)
        assert torchs.load_state_dict(ours.state_dict()) == ([], [])

    def test_half_precision_keeps_wide_statistics(self):
        layer = cnn.BatchNormReLU2d(4)
        layer.running_var.fill_(1e6)
        layer.half()
        assert layer.weight.dtype == layer.bias.dtype == torch.float16
        assert layer.running_var.dtype == torch.float32 and layer.running_var.tolist() == [1e6] * 4
        assert layer(torch.randn(3, 4, 2, 2).half()).dtype == torch.float16

    def test_reset(self):
        layer, fresh = cnn.BatchNormReLU2d(4), cnn.BatchNormReLU2d(4)
        layer(torch.randn(3, 4, 2, 2))
        with torch.no_grad():
            layer.weight.fill_(3), layer.bias.fill_(2)
        layer.reset_parameters()
        assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in layer.state_dict().items())

    def test_what_does_not_fit_is_refused_by_name(self):
        layer = cnn.BatchNormReLU2d(4)
        with pytest.raises(ValueError, match=r"`x` must be \[N, C, H, W\], got torch.float64 \[5, 2, 4, 6, 3\]"):
            layer(Z)
        with pytest.raises(ValueError, match="`x` must have num_features=4 channels, got torch.float64"):
            layer(Z[:, 0, :3])
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            layer(torch.zeros(1, 4, 1, 1))
        assert layer.eval()(torch.zeros(1, 4, 1, 1)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("make", NORMS)
def test_frozen_statistics_differentiate(make):
    """In inference the statistics are constants: the gradients are those of a scale and an offset per channel."""
    layer = make(4, affine=True, dtype=torch.float64)
    real, flat = make is cnn.BatchNormReLU2d, make is cnn.MagnitudeBatchNorm1d
    z = (Z[:, 0] if real else Z[..., 0] if flat else Z).clone().requires_grad_()
    for tensor in (*layer.parameters(), *(getattr(layer, name) for name in layer.STATISTICS)):
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
    before = copy.deepcopy(layer.eval().state_dict())
    y = layer(z)
    offset, power = (layer.running_mean, layer.running_var) if real else (torch.zeros(4), layer.running_power)
    over = lambda v: v.view(4, *(1,) * (z.ndim - (2 if real else 3)))  # noqa: E731
    want = (z - over(offset)) / over(power + layer.eps).sqrt() * over(layer.weight)
    if real:
        want = (want + over(layer.bias)).relu()
    elif make is cnn.MagnitudeBatchNormReLU2d:
        want = F.magnitude_relu(want)
    wanted, incoming = (z, *layer.parameters()), torch.randn_like(y)
    assert_close(y, want)
    for got, g in zip(
        torch.autograd.grad(y, wanted, incoming), torch.autograd.grad(want, wanted, incoming), strict=True
    ):
        assert_close(got, g)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
