"""Sums of |z|² per channel."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels.backend import compiled, operators
from tests.close import as_planar, assert_close

from .harness import COMPLEX, ODD, PLANAR, SIZES, says_it_cannot_be_mapped, with_lanes

OP = "magnitude_power"


def value_and_gradient(z, laid_out=lambda z: z):
    z = z.detach().requires_grad_()
    out = F.magnitude_power(laid_out(z))
    (grad,) = torch.autograd.grad(out, z, torch.arange(1.0, len(out) + 1).to(out))
    return out, grad


def expected(z):
    wide = as_planar(z).double()
    scale = 2 * torch.arange(1.0, wide.shape[2] + 1, dtype=torch.float64).view(-1, *(1,) * (wide.ndim - 3))
    return wide.square().transpose(1, 2).transpose(0, 1).flatten(1).sum(1), wide * scale


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_sizes(backend, dtype, size):
    z = torch.randn(size[0], 2, *size[1:], dtype=torch.float64).to(dtype)
    out, grad = value_and_gradient(z.to(backend.device))
    want, want_grad = expected(z)
    assert_close(out, want, torch.promote_types(dtype, torch.float32))
    assert_close(grad, want_grad, dtype)


@pytest.mark.parametrize("layout", (PLANAR | COMPLEX).values(), ids=PLANAR | COMPLEX)
def test_layouts(backend, layout):
    z = torch.randn(ODD[0], 2, *ODD[1:], device=backend.device)
    given = layout(z.cpu())
    out, grad = value_and_gradient(z, layout)
    assert_close(out, expected(given)[0], torch.float32)
    leaf = z.cpu().double().requires_grad_()
    (want,) = torch.autograd.grad(expected(layout(leaf))[0], leaf, torch.arange(1.0, ODD[1] + 1, dtype=torch.float64))
    assert_close(grad, want, torch.float32)


@pytest.mark.parametrize("size", [(0, 2, 3, 4, 4), (2, 2, 3, 0, 4), (2, 2, 0, 4)], ids=str)
def test_nothing_to_add_up(backend, size):
    out, grad = value_and_gradient(torch.empty(size, device=backend.device))
    assert out.shape == (size[2],) and not out.any() and grad.shape == size


def test_half_precision_is_summed_in_float32():
    out = F.magnitude_power(torch.full((4, 2, 1, 64, 64), 60.0, dtype=torch.float16))  # 65504 ends float16
    assert out.dtype == torch.float32 and out.item() == 4 * 2 * 64 * 64 * 3600


LANES = """
import torch
from cvkernels.functional import magnitude_power
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for size in ((5, 2, 3, 8, 8), (3, 2, 4, 7, 7), (9, 2, 2, 3, 1), (2, 2, 3, 9, 11)):
        z = torch.randn(size).to(dtype)
        got, want = magnitude_power(z), z.double().square().transpose(1, 2).transpose(0, 1).flatten(1).sum(1)
        assert ((got - want).abs() / want).max() < (1e-12 if dtype == torch.float64 else 1e-5), (dtype, size)
        x = z[:, 0].contiguous()
        mean, rstd = torch.ops.cvkernels.real_batch_norm_relu_forward(
            x, None, None, None, None, None, None, True, 0.1, 0.0
        )[1:]
        rows = x.double().transpose(0, 1).flatten(1)
        assert (mean - rows.mean(1)).abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)
        assert (rstd * rows.std(1, correction=0) - 1).abs().max() < (1e-12 if dtype == torch.float64 else 1e-5)
print("done")
"""


@pytest.mark.skipif(not compiled, reason="nothing compiled")
@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_each_width_of_vector_and_the_moments_with_it(lanes):
    assert with_lanes(LANES, lanes) == "done"


def test_differentiable_twice_and_in_every_transform(backend):
    dtype = backend.widest(OP)
    z = torch.randn(2, 2, 3, 2, dtype=dtype, device=backend.device, requires_grad=True)
    if dtype == torch.float64:  # finite differences need it
        assert torch.autograd.gradgradcheck(F.magnitude_power, z)
    g = torch.randn(3, dtype=torch.float64).to(z).requires_grad_()
    (first,) = torch.autograd.grad(F.magnitude_power(z), z, g, create_graph=True)
    again = torch.autograd.grad(first, (g, z), torch.ones_like(z))
    for got, wanted in zip(again, (2 * z.double().sum((0, 1, 3)), 2 * g.double().view(3, 1).expand_as(z)), strict=True):
        assert_close(got, wanted, name="second gradient")
    loss = lambda z: F.magnitude_power(z).square().sum()  # noqa: E731
    (want,) = torch.autograd.grad(loss(z), z)
    assert_close(torch.func.grad(loss)(z.detach()), want)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(compiled(z), z)[0], want)
    try:
        mapped = torch.func.vmap(F.magnitude_power)(torch.stack((z, 2 * z)))
    except RuntimeError as refused:
        assert backend.compiled and says_it_cannot_be_mapped(str(refused), OP)
    else:
        assert_close(mapped, torch.stack((F.magnitude_power(z), 4 * F.magnitude_power(z))))


def test_operator(kernel):
    forward = operators(kernel.name).magnitude_power_forward.default
    torch.library.opcheck(forward, (torch.randn(2, 2, 3, 4, device=kernel.device),))
