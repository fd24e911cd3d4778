"""pack_weights' Triton kernels: values to the last bit, gradients, the zeros between two layers."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.pack_weights import triton_kernels as kernels
from tests.close import assert_close
from tests.watch import rounding_bfloat16, watch

NETWORKS = {
    "one": [(1, 1, 1, 1)],
    "odd": [(5, 3, 3, 3), (7, 5), (3, 7, 2, 5), (4, 4, 1, 1)],
    "empty": [(2, 3, 3, 3), (0, 3, 3, 3), (3, 0), (2, 2)],
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 64)


def blocks(shapes, given, stored, channels_last):
    pairs = [tuple(torch.randn(s).to(given).requires_grad_() for _ in "AB") for s in shapes]
    flat = [w for pair in pairs for w in pair]
    with use_backend("triton"), watch() as seen, rounding_bfloat16():
        got = F.pack_weights(pairs, stored, channels_last)
        grads = [torch.randn_like(b) for b in got]
        got_grads = torch.autograd.grad(got, flat, grads)
    wide = [tuple(w.detach().double().requires_grad_() for w in pair) for pair in pairs]
    with use_backend("reference"):
        want = F.pack_weights(wide)
        want_grads = torch.autograd.grad(want, [w for pair in wide for w in pair], [g.double() for g in grads])
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w.to(stored)) and (g.movedim(1, -1) if channels_last else g).is_contiguous()
    for g, w in zip(got_grads, want_grads, strict=True):
        assert_close(g, w, given)
    return got, seen


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_values_and_gradients(shapes, channels_last):
    _, seen = blocks(shapes, torch.float32, torch.float32, channels_last)
    assert len(seen.launches) == 2, "all layers in one launch each way"


@pytest.mark.parametrize("dtypes", [
    (torch.float32, torch.float16), (torch.float32, torch.bfloat16), (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float64),
], ids=str)  # fmt: skip
def test_dtypes(dtypes):
    blocks(NETWORKS["odd"], *dtypes, True)


def test_what_lies_between_two_layers_is_zero():
    (first, _), _ = blocks([(1, 1, 3, 3), (2, 2)], torch.float32, torch.float32, False)
    assert first.numel() == 36 and not first.as_strided((12,), (1,), 36).any()


def test_more_layers_than_a_launch_takes(monkeypatch):
    monkeypatch.setattr(kernels, "LAYERS", 2)
    _, seen = blocks(NETWORKS["odd"], torch.float32, torch.float32, False)
    assert len(seen.launches) == 4
