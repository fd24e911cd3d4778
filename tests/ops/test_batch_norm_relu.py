"""magnitude_relu(magnitude_batch_norm(z) + residual, c), and its gradient from its output."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from tests.close import as_planar, assert_close

from .harness import ODD, compare, two_rings, wide
from .suite import form
from .test_magnitude_batch_norm import NormSuite

OP = "batch_norm_relu"


class TestBatchNormReLU(NormSuite):
    OP = OP
    FEATURES = ("z", "residual")
    FORMS = {
        "inference": form("z", "running_power"),
        "inference-weight-residual-c": form("z", "running_power", "weight", "residual", c=0.8, eps=0.1),
        "no-running-residual": form("z", "residual"),
        "training": form("z", "running_power", training=True),
        "training-c-momentum": form("z", "running_power", training=True, c=0.8, momentum=0.3, eps=0.1),
        "training-weight": form("z", "running_power", "weight", training=True),
        "training-residual": form("z", "running_power", "residual", training=True),
        "training-weight-residual": form("z", "running_power", "weight", "residual", training=True),
    }
    fn = staticmethod(F.batch_norm_relu)

    def draw(self, name, size, form):
        return two_rings(*size) if name == "z" else super().draw(name, size, form)

    def eased(self, form, out, g):
        """None near modulus c: there the gradient has a step, and which side v was on is read from the output."""
        modulus = out.double().square().sum(1, keepdim=True).sqrt() / form.kwargs.get("c", 1.0)
        return g.masked_fill((modulus - 1).abs() < 2**-6, 0)

    @pytest.mark.parametrize("names", [("z",), ("residual",)], ids=["z", "residual"])
    def test_residual_in_another_layout(self, backend, dtype, names, layout):
        if layout(torch.zeros(1, 2, 1, 1, 1)).is_complex():
            pytest.skip("one planar, one complex: refused, tested in test_check")
        call = self.FORMS["training-weight-residual"]
        tensors = self.tensors(call, ODD, dtype, backend.device)
        compare(call(self.fn), tensors, names, layout, self.FIXED, self.incoming_in(dtype, call, tensors))


def test_definition(backend, dtype):
    z, r = torch.randn(2, 5, 3, 4, 6, dtype=torch.complex128)
    weight = torch.tensor([1.0, -2.0, 0.5])
    v = z * (weight / (z.abs().square().mean((0, 2, 3)) + 1e-5).sqrt()).view(3, 1, 1) + r
    want = v * v.abs().clamp(max=1.5) / 1.5
    given, residual, w = (t.to(backend.device, dtype) for t in (as_planar(z), as_planar(r), weight))
    assert_close(F.batch_norm_relu(given, None, w, residual, c=1.5, training=True), want, dtype)


@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
def test_it_is_the_two_operations_in_turn(backend, dtype, with_residual):
    z, r = torch.randn(2, 5, 2, 3, 4, 6, dtype=dtype, device=backend.device)
    one, two = torch.ones(2, 3, dtype=wide(dtype), device=backend.device)
    r = r if with_residual else None
    v = F.magnitude_batch_norm(z, two, training=True)
    want = F.magnitude_relu(v if r is None else v + r)
    assert_close(F.batch_norm_relu(z, one, residual=r, training=True), want, dtype)
    assert_close(one, two, wide(dtype))


def at_unit_power(z, backend, dtype, incoming, **kwargs):
    """In inference with a running power of 1 and no eps the norm is the identity."""
    z = z.to(backend.device, dtype).requires_grad_()
    y = F.batch_norm_relu(z, torch.ones(z.shape[2], dtype=wide(dtype), device=backend.device), eps=0.0, **kwargs)
    (grad,) = torch.autograd.grad(y, z, incoming.to(y))
    return y.detach().cpu(), grad.cpu()


def test_exactly_at_c_it_is_the_identity(backend, dtype):
    z = as_planar(torch.tensor([[3 + 4j, -4 + 3j, 5, -5j, 13]])).to(dtype)
    incoming = torch.randn(z.shape).to(dtype)
    y, grad = at_unit_power(z, backend, dtype, incoming, c=5.0)
    assert torch.equal(y, z) and torch.equal(grad, incoming)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_zero_has_value_and_gradient_zero(backend, dtype, training):
    z = torch.randn(3, 2, 4, 5, dtype=dtype)
    z[:, :, 1], z[0, :, 2, 3] = 0, 0
    z = z.to(backend.device).requires_grad_()
    y = F.batch_norm_relu(z, torch.ones(4, dtype=wide(dtype), device=backend.device), training=training)
    incoming = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, z, incoming)
    assert not y[:, :, 1].any() and not y[0, :, 2, 3].any() and not grad[:, :, 1].any()
    assert not grad.isnan().any()


def test_residual_that_cancels_the_norm(backend, dtype):
    """v = 0 exactly: value 0, gradient 0 for both."""
    z = torch.randn(3, 2, 4, 5, dtype=dtype, device=backend.device).requires_grad_()
    r = (-z.detach()).requires_grad_()
    y = F.batch_norm_relu(z, torch.ones(4, dtype=wide(dtype), device=backend.device), residual=r, eps=0.0)
    grads = torch.autograd.grad(y, (z, r), torch.randn_like(y))
    assert not y.any() and not grads[0].any() and not grads[1].any()


@pytest.mark.parametrize("scale", [1e-6, 1e6], ids=str)
def test_where_the_square_overflows_it_is_the_identity(backend, scale):
    z = torch.randn(2, 2, 3, 4).clamp(min=0.1) * 1e25
    incoming = torch.randn(z.shape)
    y, grad = at_unit_power(z, backend, torch.float32, incoming, c=scale)
    assert torch.equal(y, z) and torch.equal(grad, incoming)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("size", [1e-25, 1e18, 1e25], ids=str)
def test_no_nan_from_tiny_and_huge_moduli(backend, size, training):
    z = (torch.randn(4, 2, 3, 5).clamp(-2, 2) * size).to(backend.device).requires_grad_()
    r = torch.randn(4, 2, 3, 5).to(backend.device).requires_grad_()
    y = F.batch_norm_relu(z, torch.ones(3, device=backend.device), residual=r, training=training)
    grads = torch.autograd.grad(y, (z, r), torch.randn_like(y))
    assert not y.isnan().any() and not grads[0].isnan().any() and not grads[1].isnan().any()


@pytest.mark.parametrize("times", [10, 30])
def test_a_residual_much_larger_than_the_branch(backend, times):
    """The gradient recovers the norm from output minus residual: what that costs is bounded in float32."""
    tensors = {
        "z": torch.randn(4, 2, 3, 8, 8, device=backend.device),
        "residual": torch.randn(4, 2, 3, 8, 8, device=backend.device) * times,
    }
    compare(lambda **t: F.batch_norm_relu(**t, training=True), tensors, ("z",))


def test_a_gradient_along_the_branch_beside_a_large_residual(kernel, dtype):
    """What the norm's backward takes off is then most of it: read from a rounded output minus residual, bfloat16 lost
    2e-2 to 5e-2 of the gradient of z."""
    tensors = {"z": torch.randn(4, 2, 3, 8, 8), "residual": torch.randn(4, 2, 3, 8, 8) * 10}
    tensors = {name: t.to(kernel.device, dtype) for name, t in tensors.items()}
    with use_backend("reference"):
        along = 3 * F.magnitude_batch_norm(tensors["z"].double(), training=True)
    compare(lambda **t: F.batch_norm_relu(**t, training=True), tensors, ("z",), grad_layout=lambda g: g + along.to(g))


@pytest.mark.parametrize("shape", [(1, 2, 3, 1, 1), (0, 2, 3, 4, 4)], ids=str)
def test_too_few_values(backend, shape):
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        F.batch_norm_relu(torch.zeros(shape, device=backend.device), training=True)
