"""A complex convolution: every form of weight, against torch's own complex one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as real

import cvkernels.functional as F
from cvkernels import use_backend
from tests.close import as_planar, assert_close

from .harness import MAPS, ODD
from .suite import Suite, form

OP = "conv2d"
PAIR, REAL = ("z", "weight_re", "weight_im"), ("z", "weight_re")
OUT = 4  # output channels a group


def call(z, weight_re, weight_im=None, kernel=None, **kwargs):
    return F.conv2d(z, weight_re if weight_im is None else (weight_re, weight_im), **kwargs)


class TestConv2d(Suite):
    OP = OP
    FORMS = {
        "complex": form(*PAIR, kernel=(3, 3), padding=1),
        "complex-stride-dilation": form(*PAIR, kernel=(2, 3), stride=2, padding=(2, 4), dilation=(1, 2)),
        "complex-same": form(*PAIR, kernel=(2, 3), padding="same", dilation=2),
        "complex-1x1": form(*PAIR, kernel=(1, 1)),
        "complex-groups": form(*PAIR, kernel=(3, 3), padding=1, groups="C"),
        "real": form(*REAL, kernel=(3, 3), padding=1),
        "real-stride-dilation": form(*REAL, kernel=(2, 3), stride=(1, 2), padding=(2, 4), dilation=(2, 2)),
        "real-groups": form(*REAL, kernel=(3, 3), padding="same", groups="C"),
    }
    # threads and long sums are torch's own here
    SIZES = {k: v for k, v in MAPS.items() if k != "several-chunks"} | {"wide": (2, 40, 6, 7)}
    SMALL = (2, 2, 2, 2)  # the reference's complex convolution takes milliseconds, and finite differences thousands
    TWICE = True
    EMPTY = ((0, 3, 4, 4),)

    @staticmethod
    def fn(z, weight_re, weight_im=None, groups=1, **kwargs):
        channels = z.shape[1] if z.is_complex() else z.shape[2]
        return call(z, weight_re, weight_im, groups=channels if groups == "C" else groups, **kwargs)

    def test_what_is_not_finite_passes_as_in_the_reference(self, backend, form):
        """NaN; an infinity times a complex weight is one thing in real arithmetic and another in complex."""
        tensors = self.tensors(form, ODD, torch.float32, backend.device)
        tensors["z"][1] = torch.nan
        with torch.no_grad():
            got = form(self.fn)(**tensors)
            with use_backend("reference"):
                want = form(self.fn)(**{k: v.double().cpu() for k, v in tensors.items()})
        assert got[1].isnan().any() and got[[0, 2]].isfinite().all()
        assert_close(got, want)

    def draw(self, name, size, form):
        if not name.startswith("weight"):
            return super().draw(name, size, form)
        c = size[1]
        grouped = form.kwargs.get("groups") == "C"
        shape = (2 * c, 1) if grouped else (OUT, c)
        return torch.randn(*shape, *form.kwargs["kernel"], dtype=torch.float64)


CASES = {
    "plain": dict(),
    "stride-padding": dict(stride=(2, 1), padding=(1, 2)),
    "dilation": dict(dilation=(2, 1)),
    "same": dict(padding="same"),
    "valid": dict(padding="valid"),
    "groups": dict(groups=3, padding=1),
}


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("weights", ["pair", "stacked", "complex", "conjugate", "real"])
def test_equals_torchs_complex_convolution(backend, dtype, weights, kwargs):
    groups = kwargs.get("groups", 1)
    z = torch.randn(2, 6, 7, 8, dtype=torch.complex128)
    w = torch.randn(9, 6 // groups, 3, 3, dtype=torch.complex128)
    w = w.real + 0j if weights == "real" else w
    re, im = w.real.to(backend.device, dtype), w.imag.to(backend.device, dtype)
    given = {
        "pair": (re, im),
        "stacked": torch.stack((re, im)),
        "complex": torch.complex(re, im),
        "conjugate": torch.complex(re, -im).conj(),
        "real": re,
    }[weights]
    want = real.conv2d(z, w, **kwargs)
    assert_close(F.conv2d(as_planar(z).to(backend.device, dtype), given, **kwargs), want, dtype)
    given_complex = torch.complex(z.real.to(dtype), z.imag.to(dtype)).to(backend.device)
    assert_close(F.conv2d(given_complex, given, **kwargs), want)


@pytest.mark.parametrize("weights", ["stacked", "complex"])
def test_gradient_of_one_weight_tensor(backend, weights):
    z = torch.randn(*ODD[:1], 2, *ODD[1:], dtype=torch.float64, device=backend.device)
    shape, dtype = ((2, 4, 5, 3, 3), torch.float64) if weights == "stacked" else ((4, 5, 3, 3), torch.complex128)
    w = torch.randn(shape, dtype=dtype, device=backend.device, requires_grad=True)
    y = F.conv2d(z, w)
    (got,) = torch.autograd.grad(y.square().sum(), w)
    pair = [
        t.clone().requires_grad_()
        for t in (w.detach() if weights == "stacked" else torch.view_as_real(w.detach()).movedim(-1, 0))
    ]
    want = torch.autograd.grad(F.conv2d(z, tuple(pair)).square().sum(), pair)
    assert_close(got if weights == "stacked" else torch.view_as_real(got).movedim(-1, 0), torch.stack(want))


def test_a_zero_imaginary_plane_stays_zero_under_real_weights(backend, dtype):
    x = torch.randn(2, 6, 7, 8, dtype=dtype, device=backend.device)
    w = torch.randn(4, 6, 3, 3, dtype=dtype, device=backend.device)
    y = F.conv2d(torch.stack((x, torch.zeros_like(x)), 1), w, padding=1)
    assert not y[:, 1].any()
    assert_close(y[:, 0], real.conv2d(x.double(), w.double(), padding=1), dtype)


def test_one_group_a_channel(backend, dtype):
    z, w = torch.randn(2, 6, 7, 8, dtype=torch.complex128), torch.randn(6, 1, 3, 3, dtype=torch.complex128)
    given = [t.to(backend.device, dtype) for t in (w.real, w.imag)]
    got = F.conv2d(as_planar(z).to(backend.device, dtype), given, groups=6)
    assert_close(got, real.conv2d(z, w, groups=6), dtype)


Z = torch.zeros(2, 2, 6, 7, 8)
BAD = {
    "channels": (
        Z,
        torch.zeros(4, 5, 3, 3),
        {},
        ValueError,
        "`weight` [4, 5, 3, 3] with groups=1 must take 5 channels",
    ),
    "groups": (Z, torch.zeros(4, 2, 3, 3), dict(groups=3), ValueError, "a multiple of 3"),
    "no-groups": (Z, torch.zeros(4, 6, 3, 3), dict(groups=0), ValueError, "groups=0"),
    "dims": (Z, torch.zeros(4, 6), {}, ValueError, "`weight` must be [O, C/groups, kH, kW]"),
    "dtype": (Z, torch.zeros(4, 6, 3, 3).double(), {}, TypeError, "`weight` must have the dtype of `z` torch.float32"),
    "integer": (Z, torch.zeros(4, 6, 3, 3).long(), {}, TypeError, "`weight` must be floating point"),
    "pair-of-three": (Z, [torch.zeros(4, 6, 3, 3)] * 3, {}, ValueError, "a pair (real, imaginary), got 3 tensors"),
    "uneven-pair": (
        Z,
        (torch.zeros(4, 6, 3, 3), torch.zeros(4, 6, 1, 1)),
        {},
        ValueError,
        "`weight[1]` must have the shape",
    ),
    "not-2d": (Z[..., 0], torch.zeros(4, 6, 3, 3), {}, ValueError, "`z` must be planar [N, 2, C, H, W]"),
    "stride": (Z, torch.zeros(4, 6, 3, 3), dict(stride=-1), ValueError, "`stride` must be >= 1, got (-1, -1)"),
    "no-stride": (Z, torch.zeros(4, 6, 3, 3), dict(stride=(1, 0)), ValueError, "`stride` must be >= 1, got (1, 0)"),
    "padding": (Z, torch.zeros(4, 6, 3, 3), dict(padding=-1), ValueError, "`padding` must be >= 0, got (-1, -1)"),
    "dilation": (Z, torch.zeros(4, 6, 3, 3), dict(dilation=0), ValueError, "`dilation` must be >= 1, got (0, 0)"),
    "no-kernel": (Z, torch.zeros(4, 6, 0, 3), {}, ValueError, "`weight` must have kernels of 1 x 1 or more, got 0 x 3"),
    "half-a-stride": (Z, torch.zeros(4, 6, 3, 3), dict(stride=1.5), TypeError, "`stride` must be an int or a pair"),
    "groups-true": (Z, torch.zeros(4, 6, 3, 3), dict(groups=True), TypeError, "`groups` must be an int, got bool True"),
    "groups-text": (Z, torch.zeros(4, 6, 3, 3), dict(groups="1"), TypeError, "`groups` must be an int, got str '1'"),
    "list": (Z, "kernel", {}, TypeError, "`weight` must be a tensor, got str"),
}


@pytest.mark.parametrize("z, weight, kwargs, error, words", BAD.values(), ids=BAD)
def test_bad_arguments(backend, z, weight, kwargs, error, words):
    on_device = lambda w: w.to(backend.device) if isinstance(w, torch.Tensor) else w  # noqa: E731
    weight = type(weight)(map(on_device, weight)) if isinstance(weight, (list, tuple)) else on_device(weight)
    with pytest.raises(error) as caught:
        F.conv2d(on_device(z), weight, **kwargs)
    assert words in str(caught.value)


@pytest.mark.parametrize("weights", ["real", "pair"])
def test_output_of_no_size(backend, weights):
    """torch's own error, whatever convolves."""
    w = torch.zeros(4, 6, 5, 9, device=backend.device)
    with pytest.raises(RuntimeError) as torchs:
        real.conv2d(Z[:, 0], w.cpu(), padding=1, dilation=2)
    with pytest.raises(RuntimeError) as ours:
        F.conv2d(Z.to(backend.device), w if weights == "real" else (w, w), padding=1, dilation=2)
    assert str(ours.value) == str(torchs.value) and "Kernel size can't be greater" in str(ours.value)


def test_numpys_integers_are_integers():
    w, one = torch.randn(4, 6, 3, 3), np.int64(1)
    assert torch.equal(F.conv2d(Z, w, one, (one, one), one, one), F.conv2d(Z, w, padding=1))
