"""(a + ib) e^{iθ}: two real features into one complex feature."""

import pytest
import torch

import cvkernels.functional as F
from tests.close import assert_close

from .harness import ODD, REAL, compare, turning, wide
from .suite import KernelSuite, form

OP = "rotate"


class TestRotate(KernelSuite):
    OP = OP
    FORMS = {"theta": form("a", "b", "theta")}
    FEATURES = ("a", "b")
    LAYOUTS = REAL
    STRIDES = {name: REAL[name] for name in ("contiguous", "channels-last")}
    TWICE = True
    fn = staticmethod(F.rotate)

    def draw(self, name, size, form):
        return torch.randn(size, dtype=torch.float64) if name in "ab" else super().draw(name, size, form)

    def promised(self, out, a):
        last = a.is_contiguous(memory_format=torch.channels_last) and not a.is_contiguous()
        return (out.movedim((1, 2), (-2, -1)) if last else out).is_contiguous()

    eased = turning

    @pytest.mark.parametrize("names", [("a",), ("b",)], ids=["a", "b"])
    def test_the_two_in_different_layouts(self, backend, dtype, names, layout):
        tensors = self.tensors(self.FORMS["theta"], ODD, dtype, backend.device)
        compare(self.fn, tensors, names, layout, (), self.incoming_in(dtype, self.FORMS["theta"], tensors))

    def test_angle_of_another_dtype(self, backend, dtype):
        tensors = self.tensors(self.FORMS["theta"], ODD, dtype, backend.device)
        other = torch.float32 if dtype == torch.float64 else torch.float64
        tensors["theta"] = tensors["theta"].to(other)
        self.agrees(self.FORMS["theta"], tensors, dtype)


def test_definition(backend, dtype):
    a, b = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(dtype)
    theta = torch.tensor([0.0, 2.0, -50.0], dtype=wide(dtype))
    want = (a.double() + 1j * b.double()) * torch.exp(1j * theta.double()).view(3, 1, 1)
    assert_close(F.rotate(*(t.to(backend.device) for t in (a, b, theta))), want, dtype)


def test_unrotate_takes_it_back(backend, dtype):
    a, b = torch.randn(2, 5, 4, 3, 3, dtype=dtype, device=backend.device)
    theta = torch.rand(5, dtype=wide(dtype), device=backend.device) * 6.28
    z = F.rotate(a, b, theta)
    assert_close(F.unrotate(z, theta), a, dtype)
    assert_close(F.unrotate(z, theta - torch.pi / 2), -b, dtype)


def test_a_nan_angle_spoils_its_own_sample_only(backend):
    a, b = torch.randn(2, 3, 4, 5, device=backend.device)
    z = F.rotate(a, b, torch.tensor([0.5, torch.nan, 1.0], device=backend.device))
    assert z[1].isnan().all() and z[[0, 2]].isfinite().all()


def test_one_tensor_for_both(backend):
    """The same memory twice: its gradient is the sum of the two."""
    a = torch.randn(2, 3, 4, dtype=backend.widest(OP), device=backend.device, requires_grad=True)
    theta = torch.tensor([0.3, 1.1], dtype=a.dtype, device=backend.device)
    (grad,) = torch.autograd.grad(F.rotate(a, a, theta).sum(), a)
    assert_close(grad, (2 * theta.double().cos()).view(2, 1, 1).expand(2, 3, 4))
