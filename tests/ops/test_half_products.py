"""Half precision on a processor that does not multiply it: in float32, and nothing else is different."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.backend import compiled
from cvkernels.ops.common import forms
from cvkernels.ops.conv2d.function import conv2d_norm_relu
from tests.close import assert_close
from tests.conftest import HALVES

CASES = {
    "3x3": ((2, 2, 16, 6, 7), (16, 16, 3, 3), {"padding": 1}),
    "strided": ((2, 2, 20, 6, 7), (18, 20, 3, 3), {"padding": 1, "stride": 2}),
    "1x1": ((2, 2, 5, 6, 7), (4, 5, 1, 1), {}),
    "groups": ((2, 2, 6, 6, 7), (4, 3, 3, 3), {"groups": 2}),
    "linear": ((5, 2, 12), (7, 12), None),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
halves = pytest.mark.parametrize("half", HALVES, ids=str)
weights = pytest.mark.parametrize("parts", [1, 2], ids=["real", "complex"])


class Products(TorchDispatchMode):
    """The dtypes that each product of torch's or ours was given, by its name."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in func.name() for word in ("convolution", "mm", "conv_winograd", "linear_product")):
            self.seen.append((func.name(), {x.dtype for x in args if isinstance(x, torch.Tensor)}))
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def no_products(monkeypatch):
    monkeypatch.setattr(forms, "PRODUCTS", ())


def drawn(case, half, parts, kept=None):
    size, kernel, kwargs = case
    z = torch.randn(size).to(half).requires_grad_()
    w = [torch.randn(kernel).to(kept or half).requires_grad_() for _ in range(parts)]
    return z, w, kwargs


def run(z, w, kwargs):
    weight = tuple(w) if len(w) == 2 else w[0]
    return F.linear(z, weight) if kwargs is None else F.conv2d(z, weight, **kwargs)


@weights
@halves
@cases
def test_equals_the_reference_and_multiplies_no_halves(case, half, parts):
    z, w, kwargs = drawn(case, half, parts)
    with Products() as products:
        y = run(z, w, kwargs)
        grads = torch.autograd.grad(y, (z, *w), torch.ones_like(y))
    assert products.seen
    for name, given in products.seen:
        assert "winograd" in name or given == {torch.float32}, name
    wide = [x.detach().double().requires_grad_() for x in (z, *w)]
    with use_backend("reference"):
        want = run(wide[0], wide[1:], kwargs)
    assert_close(y, want, half)
    for x, got, right in zip((z, *w), grads, torch.autograd.grad(want, wide, torch.ones_like(want)), strict=True):
        assert got.dtype == x.dtype
        assert_close(got, right, half)


@weights
@halves
@cases
def test_under_autocast(case, half, parts):
    z, w, kwargs = drawn(case, torch.float32, parts)
    with torch.autocast("cpu", half):
        y = run(z, w, kwargs)
    with use_backend("reference"):
        want = run(z.double(), [x.double() for x in w], kwargs)
    assert_close(y, want, half, kind="network")  # the feature is rounded before it is multiplied
    assert [g.dtype for g in torch.autograd.grad(y.sum(), (z, *w))] == [torch.float32] * (1 + parts)


@weights
@halves
@pytest.mark.parametrize("case", [CASES["3x3"], CASES["strided"]], ids=["3x3", "strided"])
def test_inference_with_its_relu(case, half, parts):
    z, w, kwargs = drawn(case, half, parts)
    weight, scale = tuple(w) if parts == 2 else w[0], torch.rand(w[0].shape[0]) + 0.5
    with torch.no_grad():
        y, done = conv2d_norm_relu(z, weight, scale, None, 1.0, **kwargs)
        wide = run(z.double(), [x.double() for x in w], kwargs)
        want = F.magnitude_relu(wide * scale.double()[:, None, None], 1.0) if done else wide
    assert done or parts == 2 or not compiled
    assert_close(y, want, half)
