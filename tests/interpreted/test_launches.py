"""What the budget says our operators launch, counted where they launch it."""

import pytest
import torch

import cvkernels.functional as F
from benchmarks.budget import OURS
from cvkernels import backend, use_backend
from tests.watch import watch


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


def statistics():
    return torch.zeros(4), torch.ones(4)


THETA = torch.linspace(0.3, 6, 3)
CALLS = {
    "rotate": lambda: F.rotate(leaf(3, 4, 5, 5), leaf(3, 4, 5, 5), THETA),
    "unrotate": lambda: F.unrotate(leaf(3, 2, 4, 5, 5), THETA),
    "batch_norm_relu": lambda: F.batch_norm_relu(leaf(3, 2, 4, 5, 5), torch.ones(4), training=True),
    "real_batch_norm_relu": lambda: F.real_batch_norm_relu(
        leaf(3, 4, 5, 5), *statistics(), leaf(4), leaf(4), training=True
    ),
    "pack_weights": lambda: F.pack_weights([(leaf(4, 3, 3, 3), leaf(4, 3, 3, 3))])[0],
}


def test_every_operator_of_the_budget_is_called_here():
    assert {name.rpartition("_")[0] for name in OURS} == set(CALLS)


@pytest.mark.parametrize("name", [n for n in CALLS if backend.OPS[n].triton])
def test_launches_are_as_the_budget_has_them(name):
    with use_backend("triton"), watch() as seen:
        y = CALLS[name]()
        forward = len(seen.launches)
        y.sum().backward()
        backward = len(seen.launches) - forward
    assert (forward, backward) == (OURS[f"{name}_forward"][0], OURS[f"{name}_backward"][0])
