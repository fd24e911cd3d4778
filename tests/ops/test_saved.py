"""What is saved for a backward comes back as a hook gives it: from another device, or packed anew."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import cvkernels.functional as F
from tests.close import assert_close

from .test_mapped_gradients import LAYOUTS, OPS
from .test_nodes import nodes, pytestmark  # noqa: F401  (in C++ and in Python)

WEIGHT = torch.randn(2, 3, 2, 2, 2) / 3
WIDE = torch.randn(2, 32, 32, 3, 3) / 17  # has forms of its own
FLOAT32 = {
    "conv2d": lambda z: F.conv2d(z, tuple(WEIGHT.to(z.device))),
    "conv2d-real": lambda z: F.conv2d(z, WEIGHT[0].to(z.device)),
    "conv2d-wide": lambda z: F.conv2d(z, tuple(WIDE.to(z.device)), padding=1),
    "conv2d-wide-real": lambda z: F.conv2d(z, WIDE[0].to(z.device), padding=1),
    "linear": lambda z: F.linear(z[..., 0, 0], tuple(WEIGHT[..., 0, 0].to(z.device))),
}
CASES = [(op, torch.float64) for op in OPS] + [(op, torch.float32) for op in OPS | FLOAT32]


def laid_out_anew(t):
    """In another order of axes: `save_on_cpu(pin_memory=True)` makes everything contiguous."""
    return t.mT.contiguous().mT if t.is_contiguous() and t.ndim > 1 else t.contiguous()


@pytest.mark.parametrize(("name", "precision"), CASES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_laid_out_anew(backend, name, layout, precision):
    op = (FLOAT32 if precision is torch.float32 else {}).get(name) or OPS[name]
    z = torch.randn(2, 2, 32 if "wide" in name else 2, 3, 3, dtype=precision, device=backend.device)
    found, changed = [], []
    for back in (lambda t: t, lambda t: changed.append(t) or laid_out_anew(t)):
        leaf = z.clone().requires_grad_()
        with saved_tensors_hooks(lambda t: t, back):
            y = op(layout(leaf))
        y.square().sum().backward()
        found.append(leaf.grad)
    assert_close(*found)
    assert changed or name in ("avg_pool2d", "pack_weights")  # which are linear
