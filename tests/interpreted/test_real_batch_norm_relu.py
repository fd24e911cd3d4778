"""real_batch_norm_relu's and magnitude_power's Triton kernels."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.common import triton_kernels as tiles
from cvkernels.ops.real_batch_norm_relu import triton_kernels as kernels
from tests.close import assert_close
from tests.watch import watch

from .harness import HALVES, LAYOUTS, ODD, held, planar


def last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def norm(size=ODD, dtype=torch.float32, channels_last=False, weight=None, residual=False, running=True, **rest):
    """Forward, running statistics and every gradient. ``weight``: its dtype and the bias's, or None."""
    c = size[1]
    tensors = {"x": (torch.randn(size) * 2 + 1).to(dtype)}
    if running:
        tensors |= {"running_mean": torch.randn(c), "running_var": torch.rand(c) + 0.5}
    if weight:
        tensors |= {"weight": (torch.rand(c) + 0.5).to(weight), "bias": torch.randn(c).to(weight)}
    if residual:
        tensors["residual"] = torch.randn(size).to(dtype)

    def call(**given):
        order = last if channels_last else torch.clone
        given |= {name: order(given[name]) for name in ("x", "residual") if name in given}
        return F.real_batch_norm_relu(**given, **rest)

    # the mask is asked of an output rounded once
    kind = "network" if dtype in HALVES else "op"
    return held(call, tensors, ("x",), fixed=("running_mean", "running_var"), grad_kind=kind)


FORMS = {
    "training": {"training": True},
    "inference": {},
    "training-all": {"training": True, "weight": torch.float32, "residual": True},
    "inference-all": {"weight": torch.float32, "residual": True},
    "batch-statistics": {"running": False, "weight": torch.float32},
    "count": {"training": True, "momentum": torch.tensor(3)},
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form(channels_last, form):
    seen = norm(channels_last=channels_last, **form)
    batch = form.get("training", False) or not form.get("running", True)
    assert len(seen.launches) == (2 if batch else 1) + (2 if batch or "weight" in form else 1)


@pytest.mark.parametrize("size", [(5, 1, 1, 1), (9, 6), (3, 2, 131), (2, 11, 3, 3), (2, 16, 2, 4)], ids=str)
def test_sizes(size):
    norm(size, channels_last=size == (2, 11, 3, 3), weight=torch.float32, training=True)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(dtype):
    norm(dtype=dtype, weight=dtype, training=True)
    norm(dtype=dtype, weight=torch.float32, residual=True, training=True, channels_last=True)


@pytest.mark.full_tiles
def test_the_tiles_of_a_release():
    norm((3, 2, 37, 31), training=True, residual=True)
    norm((3, 2, 37, 31), training=True, channels_last=True)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_more_partial_moments_than_are_added_up_at_once(channels_last, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "MULTIPROCESSORS", 40)
    norm((18, 3, 2, 2) if channels_last else (34, 2, 3, 5), channels_last=channels_last, training=True)


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_the_variance_of_values_far_from_zero(offset):
    """As good as float32 itself: the values' own rounding is what the reference is given too."""
    x = torch.randn(8, 3, 5, 7) + offset
    with watch():
        _, mean, rstd = kernels.real_batch_norm_relu_forward(x, None, None, None, None, None, None, True, 0.1, 1e-5)
    wide = x.double()
    assert_close(mean, wide.mean((0, 2, 3)), torch.float32)
    assert_close(rstd, (wide.var((0, 2, 3), correction=0) + 1e-5).rsqrt(), torch.float32, kind="network")


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_finite_passes_as_in_the_reference():
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.randn(3, 3, 4)
        x[1, 1, 2] = bad
        for training in (True, False):
            results = []
            for name in ("triton", "reference"):
                given = x.clone().requires_grad_()
                with use_backend(name):
                    y = F.real_batch_norm_relu(given, torch.zeros(3), torch.ones(3), training=training)
                results.append((y.detach(), torch.autograd.grad(y, given, torch.ones_like(y))[0]))
            for got, want in zip(*results, strict=True):
                assert_close(got, want.double())


def test_empty_in_inference():
    x, w = torch.empty(0, 3, 4, requires_grad=True), torch.ones(3, requires_grad=True)
    with use_backend("triton"):
        y = F.real_batch_norm_relu(x, torch.zeros(3), torch.ones(3), w, w)
        y.sum().backward()
    assert y.shape == x.shape == x.grad.shape and not w.grad.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_power_sums(layout):
    for size in (ODD, (1, 1, 1, 1), (20, 5, 3, 3)):
        held(F.magnitude_power, {"z": planar(size)}, layout=layout)
    with use_backend("triton"):
        assert not F.magnitude_power(torch.empty(0, 2, 3, 4)).any()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_power_sums_of_half_precision_are_float32(dtype):
    z = planar(ODD, dtype)
    with use_backend("triton"), watch():
        got = F.magnitude_power(z)
    assert_close(got, z.double().square().sum((0, 1, 3, 4)), torch.float32)
