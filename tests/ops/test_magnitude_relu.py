"""z |z| / max(|z|, c)."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from tests.close import as_planar, assert_close

from .harness import two_rings
from .suite import KernelSuite, form

OP = "magnitude_relu"
MEANS = ("channel_mean", "batch_channel_mean", "mean")


class TestMagnitudeReLU(KernelSuite):
    OP = OP
    FORMS = {
        "c=1": form("z"),
        "c=0.8": form("z", c=0.8),
        "c=1-detached": form("z", detach_modulus=True),
        **{c: form("z", c=c) for c in MEANS},
        "channel_mean-detached": form("z", c="channel_mean", detach_modulus=True),
    }
    fn = staticmethod(F.magnitude_relu)

    def draw(self, name, size, form):
        return two_rings(*size)

    def test_gradcheck(self, backend, form):
        if "detach_modulus" in form.kwargs:
            pytest.skip("a detached modulus is not the function's derivative, by intention")
        super().test_gradcheck(backend, form)

    def test_double_backward(self, backend, form):
        if "detach_modulus" in form.kwargs and not backend.compiled:
            pytest.skip("a detached modulus is not the function's derivative, by intention")
        super().test_double_backward(backend, form)


def value_and_gradient(z, backend, incoming=None, **kwargs):
    z = z.to(backend.device).requires_grad_()
    y = F.magnitude_relu(z, **kwargs)
    (grad,) = torch.autograd.grad(y, z, torch.ones_like(y) if incoming is None else incoming.to(y))
    return y.detach().cpu(), grad.cpu()


def points(*values, dtype=torch.float32):
    """Complex numbers as planar [1, 2, C]."""
    return as_planar(torch.tensor([values], dtype=torch.complex128)).to(dtype)


@pytest.mark.parametrize("c", [1.0, 2.5])
def test_definition(backend, dtype, c):
    z = torch.randn(3, 4, 5, dtype=torch.complex128)
    want = z * z.abs().clamp(max=c) / c
    assert_close(F.magnitude_relu(as_planar(z).to(backend.device, dtype), c), want, dtype)


@pytest.mark.parametrize("c, axes", list(zip(MEANS, ((2, 3), (0, 2, 3), (0, 1, 2, 3)), strict=True)), ids=MEANS)
def test_definition_of_the_means(backend, dtype, c, axes):
    z = torch.randn(3, 4, 5, 6, dtype=torch.complex128)
    mean = z.abs().mean(axes, keepdim=True)
    want = z * z.abs() / torch.maximum(z.abs(), mean)
    assert_close(F.magnitude_relu(as_planar(z).to(backend.device, dtype), c), want, dtype)


def test_a_flat_feature_has_the_mean_of_its_features(backend):
    z = torch.randn(3, 2, 8, device=backend.device)
    assert_close(F.magnitude_relu(z, "channel_mean"), F.magnitude_relu(z.unsqueeze(2), "channel_mean").squeeze(2))


def test_exactly_at_c_it_is_the_identity(backend, dtype):
    z = points(3 + 4j, -4 + 3j, 5, -5j, 13, dtype=dtype)
    incoming = torch.randn(z.shape)
    y, grad = value_and_gradient(z, backend, incoming, c=5.0)
    assert torch.equal(y, z) and torch.equal(grad, incoming.to(dtype))


@pytest.mark.parametrize("c", [1.0, 1e-3, *MEANS], ids=str)
def test_zero_has_value_and_gradient_zero(backend, dtype, c):
    y, grad = value_and_gradient(torch.zeros(2, 2, 3, 4, 4, dtype=dtype), backend, c=c)
    assert not y.any() and (not grad.any() or c in MEANS), "value"
    assert not grad.any(), "gradient"


def test_zero_among_others(backend, dtype):
    z = torch.randn(2, 2, 3, 4, 4, dtype=dtype)
    z[:, :, 1] = 0
    z[0, :, 2, 1, 1] = 0
    for c in (1.0, *MEANS):
        y, grad = value_and_gradient(z.clone(), backend, c=c)
        assert not y[:, :, 1].any() and not grad[0, :, 2, 1, 1].any() and grad.isfinite().all()


@pytest.mark.parametrize("c", [1.0, 1e10, *MEANS], ids=str)
@pytest.mark.parametrize("size", [1e-25, 1e25, 1e-38, 1e38], ids=str)
def test_no_nan_from_tiny_and_huge_moduli(backend, c, size):
    z = torch.randn(2, 2, 3, 4, 4).clamp(-2, 2) * size
    z[0, 0, 0] = 1.0  # and beside ordinary ones, in one part only
    y, grad = value_and_gradient(z, backend, c=c)
    assert not y.isnan().any() and not grad.isnan().any()


def test_where_the_square_overflows_it_is_the_identity(backend):
    z = torch.randn(2, 2, 3, 4, 4).clamp(min=0.1) * 1e25
    incoming = torch.randn(z.shape)
    for c in (1.0, 1e10):
        y, grad = value_and_gradient(z.clone(), backend, incoming, c=c)
        assert torch.equal(y, z) and torch.equal(grad, incoming)


def test_tiny_moduli_keep_their_gradient(backend):
    """At |z| = 1e-18 the square is still a float32, the value is not far from the smallest."""
    z = torch.randn(2, 2, 3, 4, 4) * 1e-18
    incoming = torch.randn(z.shape)
    y, grad = value_and_gradient(z.clone(), backend, incoming)
    with use_backend("reference"):
        want, want_grad = value_and_gradient(z.double(), backend, incoming)
    assert_close(y, want)
    assert_close(grad, want_grad)


def test_detached_modulus_is_a_constant_factor(backend, dtype):
    z = torch.randn(2, 2, 3, 4, dtype=dtype)
    incoming = torch.randn(z.shape)
    _, grad = value_and_gradient(z.clone(), backend, incoming, detach_modulus=True)
    factor = torch.complex(z[:, 0].double(), z[:, 1].double()).abs().clamp(max=1).unsqueeze(1)
    assert_close(grad, incoming.to(dtype) * factor, dtype)


@pytest.mark.parametrize("c", MEANS[1:])
def test_only_the_mean_of_each_sample_keeps_samples_apart(c):
    z = torch.randn(4, 2, 3, 5, 5)
    one = F.magnitude_relu(z, "channel_mean")
    assert_close(F.magnitude_relu(z[:1], "channel_mean"), one[:1])
    assert not torch.allclose(F.magnitude_relu(z[:1], c), F.magnitude_relu(z, c)[:1])
