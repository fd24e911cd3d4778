"""What the C++ kernels store in bfloat16: the nearest, ties to even; NaN stays NaN."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import backend, use_backend

pytestmark = pytest.mark.skipif(
    torch.bfloat16 not in backend.OPS["magnitude_batch_norm"].cpu or bool(backend.absent("cpu")),
    reason="no compiled kernels",
)


def scaled(z, weight):
    """z times a float32 per channel, one product and one rounding an element: power 1, no eps."""
    with use_backend("cpu"):
        return F.magnitude_batch_norm(z, torch.ones(z.shape[2]), weight, eps=0.0)


def test_every_number_is_read_and_stored_as_it_is():
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    z = bits.view(torch.bfloat16).view(1, 2, 4, -1)
    y = scaled(z, torch.ones(4))
    assert torch.equal(z.isnan(), y.isnan())
    assert torch.equal(y.view(torch.int16)[~z.isnan()], z.view(torch.int16)[~z.isnan()])


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_product_is_rounded_to_the_nearest_even(count):
    """Factors whose products fall on ties, between them, and over the largest number."""
    z = (torch.randn(2, 2, 5, count) * 2.0 ** torch.randint(-20, 20, (2, 2, 5, count))).bfloat16()
    weight = torch.tensor([1 + 2**-8, 1 + 2**-7 + 2**-8, 1.00390626, -3.1415927, 2.0**120])
    want = (z.float() * weight.view(1, 1, 5, 1)).bfloat16()
    assert torch.equal(scaled(z, weight), want)
