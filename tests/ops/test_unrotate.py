"""Re(h e^{-iθ}), one angle or K angles a sample."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels.backend import compiled
from tests.close import assert_close

from .harness import COMPLEX, ODD, PLANAR, compare, wide
from .suite import KernelSuite, form

OP = "unrotate"


class TestUnrotate(KernelSuite):
    OP = OP
    FORMS = {"one": form("h", "theta"), "fakes": form("h", "fakes"), "one-fake": form("h", "one_fake")}
    FEATURES = ("h",)
    TWICE = True

    @staticmethod
    def fn(h, theta=None, fakes=None, one_fake=None):
        return F.unrotate(h, next(t for t in (theta, fakes, one_fake) if t is not None))

    def draw(self, name, size, form):
        if name in ("fakes", "one_fake"):
            return torch.rand(size[0], 7 if name == "fakes" else 1, dtype=torch.float64) * 12 - 6
        return super().draw(name, size, form)

    def promised(self, out, h):
        """Real; channels-last where ``h`` is, each fake for itself."""
        maps = out.flatten(0, out.ndim - 4)
        last = not h.is_complex() and not h.is_contiguous() and h.movedim((1, 2), (-2, -1)).is_contiguous()
        contiguous = maps.is_contiguous(memory_format=torch.channels_last) if last else out.is_contiguous()
        return contiguous and not out.is_complex()

    @pytest.mark.parametrize("name", FORMS)
    def test_angle_of_another_dtype(self, backend, dtype, name):
        tensors = self.tensors(self.FORMS[name], ODD, dtype, backend.device)
        other = torch.float32 if dtype == torch.float64 else torch.float64
        compare(self.fn, {k: v if k == "h" else v.to(other) for k, v in tensors.items()}, self.FEATURES)


def test_definition(backend, dtype):
    h = torch.randn(3, 2, 4, 5, dtype=dtype)
    theta = torch.tensor([0.0, 2.0, -50.0], dtype=wide(dtype))
    re, im = h.double().unbind(1)
    t = theta.double().view(3, 1, 1)
    assert_close(F.unrotate(h.to(backend.device), theta.to(backend.device)), re * t.cos() + im * t.sin(), dtype)


def test_each_fake_is_a_reading_of_its_own(backend, dtype):
    h, theta = torch.randn(3, 2, 4, 5, 6, dtype=dtype), torch.rand(3, 8, dtype=wide(dtype)) * 6.28
    h, theta = h.to(backend.device), theta.to(backend.device)
    each = [F.unrotate(h, theta[:, k]) for k in range(8)]
    assert_close(F.unrotate(h, theta), torch.stack(each, 1), dtype)


def test_no_fakes(backend):
    h = torch.randn(3, 2, 4, 5, device=backend.device, requires_grad=True)
    out = F.unrotate(h, torch.zeros(3, 0, device=backend.device))
    assert out.shape == (3, 0, 4, 5)
    (grad,) = torch.autograd.grad(out.sum(), h)
    assert not grad.any()


def test_a_nan_angle_spoils_its_own_reading_only(backend):
    h = torch.randn(2, 2, 4, 5, device=backend.device)
    out = F.unrotate(h, torch.tensor([[0.5, torch.nan], [1.0, 2.0]], device=backend.device))
    assert out[0, 1].isnan().all() and out[1].isfinite().all() and out[0, 0].isfinite().all()


@pytest.mark.parametrize("shape", [(), (2,), (4, 3), (3, 1, 1)], ids=str)
def test_one_angle_or_k_angles_a_sample(shape):
    with pytest.raises(ValueError, match="`theta` must be .3. or .3, K., one angle a sample"):
        F.unrotate(torch.zeros(3, 2, 4), torch.zeros(shape))


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "complex"])
@pytest.mark.parametrize("size", [(2, 0), (0, 3), (0, 0)], ids=str)
def test_no_readings_at_all(backend, size, layout):
    h = torch.randn(size[0], 2, 3, 4, 4, device=backend.device, requires_grad=True)
    theta = torch.zeros(size, device=backend.device, requires_grad=True)
    y = F.unrotate((PLANAR | COMPLEX)[layout](h), theta)
    assert y.shape == (*size, 3, 4, 4)
    of_h, of_theta = torch.autograd.grad(y.sum(), (h, theta))
    assert of_h.shape == h.shape and not of_h.any() and of_theta.shape == size


@pytest.mark.skipif(not compiled, reason="nothing compiled")
def test_the_operator_alone_sums_no_readings_to_zero():
    grad, theta = torch.empty(2, 0, 3, 4, 5), torch.empty(2, 0)
    grad_h, grad_theta = torch.ops.cvkernels.unrotate_backward(grad, torch.randn(2, 2, 3, 4, 5), theta)
    assert grad_h.shape == (2, 2, 3, 4, 5) and not grad_h.any() and grad_theta.shape == (2, 0)
