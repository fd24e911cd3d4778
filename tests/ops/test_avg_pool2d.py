"""Average pooling of both parts, as torch's."""

import pytest
import torch
from torch.nn import functional as real

import cvkernels.functional as F
from cvkernels.backend import compiled
from tests.close import assert_close

from .harness import MAPS, with_lanes
from .suite import KernelSuite, form

OP = "avg_pool2d"
WINDOWS = {
    "overlapping": dict(kernel_size=(3, 4), stride=(1, 3), padding=(0, 2)),
    "2": dict(kernel_size=2),
    "oblong": dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    "ceil-without-padding": dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "divisor": dict(kernel_size=2, stride=1, divisor_override=3),
}


class TestAvgPool2d(KernelSuite):
    OP = OP
    FORMS = {name: form("z", **window) for name, window in WINDOWS.items()}
    SIZES = MAPS
    TWICE = True
    EMPTY = ((0, 3, 4, 4),)
    fn = staticmethod(F.avg_pool2d)

    def skip(self, form, size):
        try:
            real.avg_pool2d(torch.zeros(1, *size[1:]), **form.kwargs)
        except RuntimeError:
            return "the window does not fit: tested in test_output_of_no_size"


class TestAdaptiveAvgPool2d(KernelSuite):
    OP = "adaptive_avg_pool2d"
    FORMS = {
        "1": form("z", output_size=1),
        "3x2": form("z", output_size=(3, 2)),
        "keep": form("z", output_size=(None, 2)),
        "more-than-there-are": form("z", output_size=(9, 8)),
    }
    SIZES = MAPS
    TWICE = True
    EMPTY = ((0, 3, 4, 4),)
    fn = staticmethod(F.adaptive_avg_pool2d)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_each_part_is_torchs_pooling_of_it(backend, dtype, window):
    z = torch.randn(2, 2, 3, 8, 9, dtype=dtype, device=backend.device)
    want = torch.stack([real.avg_pool2d(part, **window) for part in z.double().unbind(1)], 1)
    assert_close(F.avg_pool2d(z, **window), want, dtype)


@pytest.mark.parametrize("size", [1, (3, 4), (None, 2)], ids=str)
def test_each_part_is_torchs_adaptive_pooling_of_it(backend, dtype, size):
    z = torch.randn(2, 2, 3, 8, 9, dtype=dtype, device=backend.device)
    want = torch.stack([real.adaptive_avg_pool2d(part, size) for part in z.double().unbind(1)], 1)
    assert_close(F.adaptive_avg_pool2d(z, size), want, dtype)


LANES = """
import torch, cvkernels.functional as F
from cvkernels import use_backend
torch.manual_seed(0)
sizes = (8, 8), (16, 16), (32, 32), (56, 56), (4, 4), (2, 2), (3, 2), (5, 6), (9, 8), (7, 17), (3, 70), (10, 20), (2, 8)
for size in sizes:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = torch.randint(-9, 10, (2, 2, 3, *size)).to(dtype)  # sums of four and their quarters are exact
        z.view(-1)[3::29] = torch.nan
        found = []
        for backend in ("cpu", "reference"):
            with use_backend(backend):
                leaf = z.clone().requires_grad_()
                y = F.avg_pool2d(leaf, 2)
                torch.manual_seed(1)
                (grad,) = torch.autograd.grad(y, leaf, torch.randn(y.shape).to(dtype))
                found.append((y, grad))
        for got, want in zip(*found):
            assert torch.equal(got.nan_to_num(9.0), want.nan_to_num(9.0)), (size, dtype)
print("done")
"""


@pytest.mark.skipif(not compiled, reason="nothing compiled")
@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_pairs_of_rows_and_columns_in_vectors_of_each_width(lanes):
    """2x2 windows, to the bit: rows of one vector, of several, of half a one, and what is left at their ends."""
    assert with_lanes(LANES, lanes) == "done"


@pytest.mark.parametrize(
    "window, said",
    {
        "no window": (dict(kernel_size=0), "(greater than zero|not be zero|out of range)"),
        "no stride": (dict(kernel_size=2, stride=0), "(greater than zero|not be zero|out of range)"),
        "padding": (dict(kernel_size=2, padding=2), "pad should be"),
        "divisor": (dict(kernel_size=2, divisor_override=0), "divisor must be not zero"),
        "three": (dict(kernel_size=(2, 2, 2)), "kernel_size must"),
        "none": (dict(kernel_size=None), "argument 'kernel_size' .*must be tuple of ints"),
        "half": (dict(kernel_size=2, stride=1.5), "argument 'stride' .*must be tuple of ints"),
    }.values(),
)
def test_what_torch_refuses_is_refused_in_its_words(backend, window, said):
    with pytest.raises((RuntimeError, TypeError), match=said):
        F.avg_pool2d(torch.zeros(1, 2, 3, 4, 4, device=backend.device), **window)


@pytest.mark.parametrize("size", [(1, 2, 3), -1, (2.5, 2)], ids=str)
def test_adaptive_sizes_that_torch_refuses(backend, size):
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        F.adaptive_avg_pool2d(torch.zeros(1, 2, 3, 4, 4, device=backend.device), size)


def test_output_of_no_size(backend):
    """torch's own error."""
    with pytest.raises(RuntimeError, match="Output size is too small"):
        F.avg_pool2d(torch.zeros(1, 2, 3, 4, 4, device=backend.device), 5)


@pytest.mark.parametrize("pool", [F.avg_pool2d, F.adaptive_avg_pool2d])
def test_maps_only(pool):
    with pytest.raises(ValueError, match="`z` must be planar .N, 2, C, H, W. or complex"):
        pool(torch.zeros(2, 2, 3, 4), 2)
