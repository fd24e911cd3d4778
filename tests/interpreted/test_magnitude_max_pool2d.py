"""magnitude_max_pool2d's Triton kernels: the element, its index, and the gradient back to it."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.magnitude_max_pool2d import triton_kernels as kernels
from tests.close import assert_close
from tests.watch import watch

from .harness import HALVES, LAYOUTS, held, planar

WINDOWS = {
    "2x2": (2, None, 0, 1, False),
    "3x3-overlapping": (3, 1, 1, 1, False),
    "3x2-padded": ((3, 2), (2, 3), (1, 1), 1, True),
    "dilated": ((2, 3), 2, 0, (3, 2), False),
    "dilated-padded-ceil": (3, 2, 1, 2, True),
    "1x1": (1, 1, 0, 1, False),
    "gaps": (2, 3, 0, 1, True),
    "whole": ((7, 6), None, 0, 1, False),
}
SIZES = [(1, 1, 3, 3), (2, 5, 4, 7), (1, 16, 4, 4)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 128)


def pool(size, window, dtype=torch.float32, layout="contiguous"):
    """Values and gradients, and the indices against the reference's."""
    z = planar(size, dtype)
    seen = held(lambda z: F.magnitude_max_pool2d(z, *window), {"z": z}, layout=layout)
    assert len(seen.launches) == 2
    z = LAYOUTS[layout](z)
    with use_backend("triton"):
        _, got = F.magnitude_max_pool2d(z, *window, return_indices=True)
    with use_backend("reference"):
        _, want = F.magnitude_max_pool2d(z, *window, return_indices=True)
    assert torch.equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_windows(window, layout):
    pool((1, 3, 7, 6), window, layout=layout)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size):
    for layout in LAYOUTS:
        pool(size, WINDOWS["2x2"], layout=layout)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(dtype):
    """The winner is passed on as it is; overlapping windows add in float32."""
    pool((2, 3, 6, 5), WINDOWS["3x3-overlapping"], dtype)
    pool((2, 3, 6, 5), WINDOWS["2x2"], dtype, "channels-last")


def test_a_map_that_shrinks_to_one_and_one_that_grows_from_it():
    """A map of 1x1 looks contiguous whatever layout it is in."""
    for layout in LAYOUTS:
        pool((2, 3, 2, 2), WINDOWS["2x2"], layout=layout)
        pool((2, 3, 1, 1), (2, 1, 1, 1, False), layout=layout)


def winners(*values, **window):
    """Of one row of (re, im), in two samples: in a tile of one element the interpreter takes ``other=0`` for none."""
    z = torch.tensor(values).T.reshape(1, 2, 1, 1, -1).repeat(2, 1, 1, 1, 1).requires_grad_()
    with use_backend("triton"), watch():
        y, index = F.magnitude_max_pool2d(z, (1, len(values)), return_indices=True, **window)
        (grad,) = torch.autograd.grad(y, z, torch.full_like(y, 2.0))
    assert index[0] == index[1]
    return y.detach()[0].flatten().tolist(), index[0].item(), grad[0, 0, 0, 0].nonzero().flatten().tolist()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_who_wins():
    nan, inf = torch.nan, torch.inf
    assert winners((1.0, 2.0), (-2.0, 1.0), (2.0, 1.0)) == ([1.0, 2.0], 0, [0]), "the first of equals"
    assert winners((0.0, 0.0), (0.0, 0.0)) == ([0.0, 0.0], 0, [0])
    assert winners((1.0, 0.0), (inf, 0.0), (0.0, -inf))[1] == 1
    assert winners((inf, 0.0), (nan, 0.0), (0.0, nan))[1] == 1, "the first NaN wins over all"
    assert winners((3e30, 0.0), (3e38, 0.0))[1] == 0, "both squares overflow: equal"
    # rounded each for itself, the squares of these two tie; fused, the second would win
    a, b = 1.0000001, 0.33333334
    assert winners((a, b), (b, a), (-b, a))[1] == 0


def test_a_window_of_padding_only_gives_zero_and_no_gradient():
    z = planar((1, 2, 2, 2)).requires_grad_()
    with use_backend("triton"), watch():
        y, index = F.magnitude_max_pool2d(z, 2, 1, 1, 3, return_indices=True)
        y.sum().backward()
    with use_backend("reference"):
        wide = z.detach().double().requires_grad_()
        want, flat = F.magnitude_max_pool2d(wide, 2, 1, 1, 3, return_indices=True)
        want.sum().backward()
    assert (flat == -1).any() and torch.equal(index, flat)
    assert_close(y, want)
    assert_close(z.grad, wide.grad)


def test_a_gradient_in_another_layout_than_its_feature():
    z = planar((2, 3, 4, 6))
    for mine in LAYOUTS:
        for its in ("contiguous", "channels-last"):
            given = LAYOUTS[mine](z).detach().requires_grad_()
            with use_backend("triton"), watch():
                y = F.magnitude_max_pool2d(given, 2)
                g = torch.randn(2, 2, 3, 2, 3)
                g_given = LAYOUTS["complex"](g) if y.is_complex() else LAYOUTS[its](g)
                (grad,) = torch.autograd.grad(y, given, g_given)
            wide = z.double().requires_grad_()
            with use_backend("reference"):
                (want,) = torch.autograd.grad(F.magnitude_max_pool2d(wide, 2), wide, g.double())
            assert_close(grad, want)


def test_the_squares_are_not_contracted():
    assert kernels.OPTIONS["enable_fp_fusion"] is False
