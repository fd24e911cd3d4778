"""Gradients beside what is not finite, and moduli at the ends of float32's range: as the reference has them."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import backend as house
from cvkernels import use_backend
from tests.close import assert_close

MEANS = ("channel_mean", "batch_channel_mean", "mean")
OPS = {
    "magnitude_relu": lambda z, power: F.magnitude_relu(z, 0.7),
    "magnitude_relu-detached": lambda z, power: F.magnitude_relu(z, 0.7, detach_modulus=True),
    "magnitude_batch_norm": lambda z, power: F.magnitude_batch_norm(z, power),
    "batch_norm_relu": lambda z, power: F.batch_norm_relu(z, power),
    "batch_norm_relu-residual": lambda z, power: F.batch_norm_relu(z, power, residual=torch.ones_like(z)),
    "batch_norm_relu-weight": lambda z, power: F.batch_norm_relu(z, power, weight=1 / power),
    "real_batch_norm_relu": lambda z, power: F.real_batch_norm_relu(z[:, 0], power, power),
}


def pytest_generate_tests(metafunc):
    if "op" in metafunc.fixturenames:
        metafunc.parametrize("op", OPS)


def _feature(dtype, last=False):
    z = torch.randn(2, 2, 6, 5, 5).to(dtype)
    return z.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) if last else z


def _gradient(fn, z, g):
    z = z.clone(memory_format=torch.preserve_format).requires_grad_()
    y = fn(z)
    y.backward(g[:, 0].to(y) if y.dim() < z.dim() else g.to(y))
    return z.grad.detach().cpu()


def _taken(kernel, op, dtype):
    return dtype in getattr(house.OPS[op.split("-")[0]], kernel.name)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("of", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")], ids=str)
def test_an_element_that_passes_hands_its_gradient_on(kernel, op, bad, of, last):
    """Frozen statistics, constant c: no element has a part in another's gradient, nor 0 times Inf in its own."""
    if not _taken(kernel, op, of):
        pytest.skip(f"{kernel} has no kernel of it for {of}")
    z, g = _feature(of, last), torch.randn(2, 2, 6, 5, 5)
    z[0, 0, 3, 2, 2] = z[1, 1, 4, 0, 1] = bad
    power = torch.rand(6, dtype=torch.float64 if of == torch.float64 else torch.float32) + 0.5
    got = _gradient(lambda z: OPS[op](z, power.to(z.device)), z.to(kernel.device), g.to(kernel.device))
    with use_backend("reference"):
        want = _gradient(lambda z: OPS[op](z, power.double()), z.double(), g)
    assert_close(got, want, of)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("norm", ["magnitude_batch_norm", "batch_norm_relu"])
def test_a_channel_of_zeros_stays_so_without_an_eps(backend, norm, training):
    z, power = torch.randn(2, 2, 3, 4, 4, device=backend.device), torch.ones(3, device=backend.device)
    z[:, :, 1] = power[1] = 0
    z.requires_grad_()
    y = getattr(F, norm)(z, power, training=training, eps=0.0)
    y.backward(torch.randn_like(y))
    assert not y[:, :, 1].any() and not z.grad[:, :, 1].any()
    assert y.isfinite().all() and z.grad.isfinite().all() and y[:, :, 0].any()


@pytest.mark.parametrize("c", MEANS)
@pytest.mark.parametrize("size", [1e-30, 1e-21, 1.0, 1e19], ids=str)
def test_a_mean_modulus_at_either_end_of_the_range(kernel, c, size):
    """Squares that overflow (float32's do from 1.8e19 on) or underflow, moduli that do neither."""
    z = torch.tensor([3.0, 1.0, 0.5, 0.1]).view(1, 1, 1, 2, 2) * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1) * size
    mean = torch.ops.cvkernels if kernel.name == "cpu" else None
    if mean is not None:
        reduce = MEANS.index(c) + 1
        (got,) = torch.ops.cvkernels.magnitude_relu_forward(z.contiguous(), 0.0, reduce)[1]
        assert_close(got, torch.hypot(z[:, 0].double(), z[:, 1].double()).mean())
    if 1e-19 < size < 1e19:  # beyond, the square of c itself does not fit
        got = F.magnitude_relu(z.to(kernel.device), c).cpu()
        with use_backend("reference"):
            assert_close(got, F.magnitude_relu(z.double(), c))


@pytest.mark.parametrize("c", MEANS)
def test_a_mean_that_overflows_in_no_square_of_its_own(kernel, c):
    z = torch.tensor([3e19, 1e19, 5e18, 1e18]).view(1, 1, 1, 2, 2).repeat(1, 2, 1, 1, 1)
    z[:, 1] = 0
    got = F.magnitude_relu(z.to(kernel.device), c).cpu()
    with use_backend("reference"):
        assert_close(got, F.magnitude_relu(z.double(), c))


@pytest.mark.parametrize("c", MEANS)
@pytest.mark.parametrize("detach", [False, True], ids=["", "detached"])
def test_a_nan_reaches_the_gradient_of_all_that_share_its_mean(kernel, c, detach):
    z, g = torch.randn(3, 2, 2, 6, 6), torch.randn(3, 2, 2, 6, 6)
    z[1, 0, 1, 2, 3] = float("nan")
    got = _gradient(lambda z: F.magnitude_relu(z, c, detach), z.to(kernel.device), g.to(kernel.device))
    with use_backend("reference"):
        want = _gradient(lambda z: F.magnitude_relu(z, c, detach), z.double(), g)
    assert want.isnan().any() != detach
    assert_close(got, want)
