"""Average pooling of both parts, as torch's."""

import pytest
import torch
from torch.nn import functional as real

import cvkernels.functional as F
from tests.close import assert_close

from .harness import MAPS
from .suite import Suite, form

OP = "avg_pool2d"
WINDOWS = {
    "2": dict(kernel_size=2),
    "oblong": dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    "ceil-without-padding": dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "divisor": dict(kernel_size=2, stride=1, divisor_override=3),
}


class TestAvgPool2d(Suite):
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


class TestAdaptiveAvgPool2d(Suite):
    OP = OP
    FORMS = {
        "1": form("z", output_size=1),
        "3x2": form("z", output_size=(3, 2)),
        "keep": form("z", output_size=(None, 2)),
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


def test_output_of_no_size(backend):
    """torch's own error."""
    with pytest.raises(RuntimeError, match="Output size is too small"):
        F.avg_pool2d(torch.zeros(1, 2, 3, 4, 4, device=backend.device), 5)


@pytest.mark.parametrize("pool", [F.avg_pool2d, F.adaptive_avg_pool2d])
def test_maps_only(pool):
    with pytest.raises(ValueError, match="`z` must be planar .N, 2, C, H, W. or complex"):
        pool(torch.zeros(2, 2, 3, 4), 2)
