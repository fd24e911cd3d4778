"""A complex linear map: every form of weight."""

import pytest
import torch

import cvkernels.functional as F
from tests.close import as_planar, assert_close

from .harness import COMPLEX, PLANAR
from .suite import Suite, form

OP = "linear"
# layouts that a flat feature can have: it has no map whose channels could stand last
FLAT = {k: v for k, v in (PLANAR | COMPLEX).items() if "channels-last" not in k}


class TestLinear(Suite):
    OP = OP
    FORMS = {"complex": form("z", "weight_re", "weight_im"), "real": form("z", "weight_re")}
    SIZES = {"one": (1, 1), "N=1": (1, 7), "I=1": (5, 1), "odd": (13, 37), "LeNet": (32, 400)}
    SMALL, ODD = (3, 4), (5, 6)
    LAYOUTS = FLAT
    STRIDES = {name: FLAT[name] for name in ("contiguous", "complex")}
    TWICE = True
    EMPTY = ((0, 3),)

    @staticmethod
    def fn(z, weight_re, weight_im=None):
        return F.linear(z, weight_re if weight_im is None else (weight_re, weight_im))

    def draw(self, name, size, form):
        if name.startswith("weight"):
            return torch.randn(11, size[1], dtype=torch.float64)
        return super().draw(name, size, form)


@pytest.mark.parametrize("weights", ["pair", "stacked", "complex", "real"])
def test_equals_torchs_complex_product(backend, dtype, weights):
    z, w = torch.randn(7, 6, dtype=torch.complex128), torch.randn(5, 6, dtype=torch.complex128)
    w = w.real + 0j if weights == "real" else w
    re, im = w.real.to(backend.device, dtype), w.imag.to(backend.device, dtype)
    given = {"pair": (re, im), "stacked": torch.stack((re, im)), "complex": torch.complex(re, im), "real": re}[weights]
    assert_close(F.linear(as_planar(z).to(backend.device, dtype), given), z @ w.T, dtype)


def test_a_zero_imaginary_plane_stays_zero_under_real_weights(backend, dtype):
    x, w = torch.randn(7, 6, dtype=dtype).to(backend.device), torch.randn(5, 6, dtype=dtype).to(backend.device)
    y = F.linear(torch.stack((x, torch.zeros_like(x)), 1), w)
    assert not y[:, 1].any()
    assert_close(y[:, 0], x.double() @ w.double().T, dtype)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=["no-samples", "nothing-in", "nothing-out"])
def test_sizes_of_nothing(backend, sizes):
    n, i, o = sizes
    z = torch.randn(n, 2, i, device=backend.device, requires_grad=True)
    a, b = (torch.randn(o, i, device=backend.device, requires_grad=True) for _ in range(2))
    y = F.linear(z, (a, b))
    assert y.shape == (n, 2, o) and not y.any()
    for given, grad in zip((z, a, b), torch.autograd.grad(y.sum(), (z, a, b)), strict=True):
        assert grad.shape == given.shape and not grad.any()


Z = torch.zeros(2, 2, 6)
BAD = {
    "features": (Z, torch.zeros(4, 5), ValueError, "`weight` [4, 5] must take 5 features, got `z` [2, 2, 6]"),
    "dims": (Z, torch.zeros(4), ValueError, "`weight` must be [O, I]"),
    "dtype": (Z, torch.zeros(4, 6).double(), TypeError, "`weight` must have the dtype of `z`"),
    "maps": (
        torch.zeros(2, 2, 6, 4, 4),
        torch.zeros(4, 6),
        ValueError,
        "`z` must be planar [N, 2, C] or complex [N, C]",
    ),
}


@pytest.mark.parametrize("z, weight, error, words", BAD.values(), ids=BAD)
def test_bad_arguments(z, weight, error, words):
    with pytest.raises(error) as caught:
        F.linear(z, weight)
    assert words in str(caught.value)
