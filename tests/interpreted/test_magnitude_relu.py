"""magnitude_relu's Triton kernels: every form of c."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.common import triton_kernels as tiles
from cvkernels.ops.magnitude_relu import triton_kernels as kernels
from tests.ops.harness import two_rings
from tests.watch import watch

from .harness import HALVES, LAYOUTS, ODD, held

FORMS = {
    "constant": {"c": 0.9},
    "constant-detached": {"c": 0.9, "detach_modulus": True},
    "channel_mean": {"c": "channel_mean"},
    "channel_mean-detached": {"c": "channel_mean", "detach_modulus": True},
    "batch_channel_mean": {"c": "batch_channel_mean"},
    "batch_channel_mean-detached": {"c": "batch_channel_mean", "detach_modulus": True},
    "mean": {"c": "mean"},
}
MEANS = ("channel_mean", "batch_channel_mean", "mean")


def relu(size=ODD, dtype=torch.float32, layout="contiguous", **form):
    """Elements stand apart from a threshold of 1: there the gradient has a step."""
    return held(lambda z: F.magnitude_relu(z, **form), {"z": two_rings(*size).to(dtype)}, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form(layout, form):
    seen = relu(layout=layout, **form)
    forward, backward = {"batch_channel_mean": (2, 2), "mean": (2, 2)}.get(form["c"], (1, 1))
    assert len(seen.launches) == forward + (1 if form.get("detach_modulus") else backward)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(dtype, layout):
    for name in ("constant", "channel_mean", "batch_channel_mean"):
        relu(dtype=dtype, layout=layout, **FORMS[name])


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (5, 6), (2, 2, 131), (2, 11, 3, 3), (2, 16, 2, 4)], ids=str)
def test_sizes(size):
    layout = "channels-last" if size == (2, 11, 3, 3) else "contiguous"
    for c in (0.9, *MEANS):
        relu(size, layout=layout, c=c)


@pytest.mark.full_tiles
def test_the_tiles_of_a_release():
    for c in (0.9, *MEANS):
        relu((3, 2, 37, 31), c=c)


def test_more_partial_sums_than_are_added_up_at_once(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "MULTIPROCESSORS", 40)
    relu((9, 5, 13), c="mean")


def value_and_gradient(z, **form):
    z = z.clone().requires_grad_()
    with use_backend("triton"), watch():
        y = F.magnitude_relu(z, **form)
        (grad,) = torch.autograd.grad(y, z, torch.full_like(y, 2.0))
    return y.detach(), grad


def points(*values):
    return torch.tensor(values).T.reshape(1, 2, 1, -1).contiguous()  # of (re, im)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
def test_where_it_is_the_identity_it_is_to_the_last_bit():
    z = points((3.0, 4.0), (-4.0, 3.0), (5.0, 0.0), (3e30, -1e30), (1.0, 3e38), (torch.inf, 1.0))
    y, grad = value_and_gradient(z, c=5.0)
    assert torch.equal(y, z) and torch.equal(grad, torch.full_like(z, 2.0))


@pytest.mark.parametrize("c", [1.0, *MEANS], ids=str)
def test_zero_has_value_and_gradient_zero(c):
    y, grad = value_and_gradient(torch.zeros(2, 2, 3, 5), c=c)
    assert not y.any() and not grad.any()
    z = torch.randn(2, 2, 3, 5)
    z[:, :, 1, 2] = 0
    y, grad = value_and_gradient(z, c=c)
    assert not y[:, :, 1, 2].any() and not grad[:, :, 1, 2].any() and grad.isfinite().all()


@pytest.mark.parametrize("c", [1.0, *MEANS], ids=str)
@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e25, 1e38], ids=str)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
def test_no_nan_from_tiny_and_huge_moduli(c, size):
    z = torch.randn(2, 2, 2, 5).clamp(-2, 2) * size
    z[0, 0, 0] = 1.0
    y, grad = value_and_gradient(z, c=c)
    assert not y.isnan().any() and not grad.isnan().any()


def test_nan_stays_in_its_group():
    z = torch.randn(2, 2, 3, 5)
    z[1, 0, 2, 3] = torch.nan
    for c, apart in ((1.0, 1), ("channel_mean", 5)):
        y, _ = value_and_gradient(z, c=c)
        with use_backend("reference"):
            want = F.magnitude_relu(z, c)
        assert torch.equal(y.isnan(), want.isnan()) and y.isnan().any(1).sum() <= apart


def test_empty_and_wrong():
    with use_backend("triton"):
        for c in (1.0, *MEANS):
            z = torch.empty(0, 2, 3, 4, requires_grad=True)
            y = F.magnitude_relu(z, c)
            y.sum().backward()
            assert y.shape == z.shape == z.grad.shape
    with pytest.raises(KeyError):
        kernels.magnitude_relu_forward(torch.randn(1, 2, 3), 1.0, 4)
