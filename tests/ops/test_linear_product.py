"""The product of complex matrices behind a linear map on a CPU."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend, use_conv_form
from cvkernels.backend import compiled
from cvkernels.ops.common import forms
from tests.close import assert_close

from .harness import same, with_lanes
from .suite import Recorder

pytestmark = pytest.mark.skipif(not compiled, reason="nothing compiled")

SHAPES = {
    "one": (1, 1, 1),
    "short": (3, 5, 2),
    "odd": (37, 41, 19),
    "panels": (32, 64, 96),
    "deep": (18, 601, 33),
    "tall": (300, 20, 17),
    "wide": (20, 21, 530),
    "no-terms": (4, 0, 5),
    "no-rows": (0, 3, 5),
    "no-columns": (4, 3, 0),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def drawn(n, inner, outer, turned=False):
    """A feature, and a weight in two parts: contiguous, or with their two axes in each other's place."""
    if turned:
        return torch.randn(inner, 2, n).permute(2, 1, 0), *torch.randn(2, inner, outer).transpose(1, 2)
    return torch.randn(n, 2, inner), *torch.randn(2, outer, inner)


def forward(z, a, b):
    return torch.ops.cvkernels.linear_product_forward(z, a, b)


def backward(grad, z, a, b, of_z=True, of_weight=True):
    return torch.ops.cvkernels.linear_product_backward(grad, z, a, b, of_z, of_weight)


def joined(z):
    return torch.complex(*z.double().unbind(1))


def parted(z):
    return torch.stack((z.real, z.imag), 1)


@shapes
@pytest.mark.parametrize("turned", [False, True])
def test_equals_torchs_complex_product(shape, turned):
    n, inner, outer = shape
    z, a, b = drawn(n, inner, outer, turned)
    grad, w = torch.randn(n, 2, outer), torch.complex(a.double(), b.double())
    y = forward(z, a, b)
    assert y.shape == (n, 2, outer) and y.is_contiguous()
    assert_close(y, parted(joined(z) @ w.t()))
    of_z, *of_weight = backward(grad, z, a, b)
    assert of_z.shape == z.shape and all(g.shape == a.shape for g in of_weight)
    assert_close(of_z, parted(joined(grad) @ w.conj()))
    want = joined(grad).t() @ joined(z).conj()
    assert_close(torch.stack(of_weight), torch.stack((want.real, want.imag)))
    alone, *nothing = backward(grad, z, a, b, of_weight=False)
    assert same(alone, of_z) and all(g.numel() == 0 for g in nothing)
    nothing, *alone = backward(grad, z, a, b, of_z=False)
    assert all(map(same, alone, of_weight)) and nothing.numel() == 0


def test_strides_of_any_kind():
    z, w = torch.randn(80, 2, 66)[::2, :, ::3], torch.randn(2, 18, 1).expand(2, 18, 22)
    w, grad = w.transpose(0, 1).contiguous().transpose(0, 1), torch.randn(40, 2, 1).expand(40, 2, 18)
    wide = torch.complex(*w.double())
    assert_close(forward(z, *w), parted(joined(z) @ wide.t()))
    assert_close(backward(grad, z, *w)[0], parted(joined(grad) @ wide.conj()))


def test_bit_equal_with_any_number_of_threads():
    z, a, b = drawn(70, 600, 300)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append((y := forward(z, a, b), *backward(y, z, a, b)))
    torch.set_num_threads(1)
    assert all(map(same, *found))


LANES = """
import torch, cvkernels.functional
for n, inner, outer in ((37, 41, 19), (5, 300, 70)):
    z, w = torch.randn(n, 2, inner), torch.randn(2, outer, inner)
    for x in (z, z.transpose(0, 2).contiguous().transpose(0, 2)):
        got = torch.complex(*torch.ops.cvkernels.linear_product_forward(x, *w).unbind(1))
        want = torch.complex(*z.double().unbind(1)) @ torch.complex(*w.double()).t()
        assert (got - want).abs().max() < 1e-5 * inner ** 0.5 * 4
print("done")
"""


@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_each_width_of_vector(lanes):
    assert with_lanes(LANES, lanes) == "done"


def test_what_it_refuses():
    z, a, b = drawn(3, 4, 5)
    for bad in ((z.double(), a, b), (z[:, 0], a, b), (z, a.double(), b), (z, a, b[:2]), (z, a[:, :2], b[:, :2])):
        with pytest.raises(RuntimeError, match="must"):
            forward(*bad)
    with pytest.raises(RuntimeError, match="alike"):
        forward(z, a, b.t().contiguous().t())
    with pytest.raises(RuntimeError, match="fit together"):
        backward(torch.randn(3, 2, 4), z, a, b)


def run(z, a, b):
    with Recorder() as seen:
        y = F.linear(z, (a, b))
        grads = torch.autograd.grad(y.square().sum(), (z, a, b))
    return y, grads, sum("linear_product" in op.name() for op, _, _ in seen.calls)


@pytest.mark.parametrize(
    ("samples", "dtype", "products"),
    [(forms.FEW, torch.float32, 2), (forms.FEW - 1, torch.float32, 0), (forms.FEW, torch.float64, 0)],
    ids=["many", "few", "float64"],
)
def test_where_a_linear_map_is_it_and_its_gradients(samples, dtype, products):
    z = torch.randn(samples, 2, 9, dtype=dtype, requires_grad=True)
    a, b = (torch.randn(7, 9, dtype=dtype, requires_grad=True) for _ in range(2))
    y, grads, count = run(z, a, b)
    assert count == products
    wide = [x.detach().double().requires_grad_() for x in (z, a, b)]
    with use_backend("reference"):
        want = F.linear(wide[0], tuple(wide[1:]))
    assert_close(y, want, dtype)
    for got, right in zip(grads, torch.autograd.grad(want.square().sum(), wide), strict=True):
        assert_close(got, right, dtype)
    with use_backend("cpu"):  # what the kernel does not take is torch's there too
        assert run(z, a, b)[2] == products
    with use_conv_form("four"):
        assert run(z, a, b)[2] == 0


def test_only_the_gradients_that_are_wanted():
    z, a, b = torch.randn(20, 2, 9), torch.randn(7, 9, requires_grad=True), torch.randn(7, 9)
    with Recorder() as seen:
        F.linear(z, (a, b)).sum().backward()
    (_, _, _), (op, arguments, _) = seen.calls
    assert "linear_product_backward" in op.name() and arguments[-2:] == (False, True)
    assert a.grad is not None and b.grad is None


def test_parts_of_a_weight_that_are_laid_out_each_in_its_way():
    z, a, b = drawn(20, 9, 7)
    b = b.t().contiguous().t().requires_grad_()
    y = F.linear(z, (a, b))
    assert same(y, F.linear(z, (a, b.detach().contiguous())))
    y.sum().backward()
    assert b.grad is not None


def test_differentiated_twice_as_the_reference():
    z, a, b = (torch.randn(*s, requires_grad=True) for s in ((20, 2, 5), (4, 5), (4, 5)))

    def second(*x):
        y = F.linear(x[0], x[1:])
        first = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), x)

    with use_backend("reference"):
        want = second(*(x.detach().double().requires_grad_() for x in (z, a, b)))
    for got, right in zip(second(z, a, b), want, strict=True):
        assert_close(got, right, kind="network")


def test_operator_compiles():
    z, a, b = drawn(20, 9, 7, turned=True)
    torch.library.opcheck(torch.ops.cvkernels.linear_product_forward.default, (z, a, b))
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            torch.ops.cvkernels.linear_product_backward.default, (torch.randn(20, 2, 7), z, a, b, *wanted)
        )
    z, a, b = torch.randn(20, 2, 9, requires_grad=True), torch.randn(7, 9), torch.randn(7, 9)
    whole = torch.compile(lambda z, a, b: F.linear(z, (a, b)), fullgraph=True, backend="aot_eager")
    assert same(whole(z, a, b), F.linear(z, (a, b)))
    assert same(*(torch.autograd.grad(f(z, a, b).sum(), z)[0] for f in (whole, lambda *x: F.linear(x[0], x[1:]))))


def test_a_nan_stays_in_its_row():
    """And moves no bit of the others: nothing is done again."""
    z, w = torch.randn(40, 2, 9), (torch.randn(7, 9), torch.randn(7, 9))
    want = F.linear(z, w)
    z[3, 1, 2] = torch.nan
    y = F.linear(z, w)
    others = [i for i in range(40) if i != 3]
    assert y[3].isnan().any() and torch.equal(y[others], want[others])


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("shape", ["odd", "deep", "tall"])
def test_what_is_not_finite_goes_where_torchs_complex_product_has_it(shape, bad):
    z, a, b = drawn(*SHAPES[shape])
    grad = torch.randn(z.shape[0], 2, a.shape[0])
    z[1, 0, 4] = b[1, 3] = grad[2, 1, 0] = bad
    got = forward(z, a, b), *backward(grad, z, a, b)
    w, g = torch.complex(a.double(), b.double()), joined(grad)
    weight = g.t() @ joined(z).conj()
    want = parted(joined(z) @ w.t()), parted(g @ w.conj()), weight.real, weight.imag
    for x, y in zip(got, want, strict=True):
        finite = x.isfinite()
        assert torch.equal(finite, y.isfinite()) and not finite.all()
        assert torch.equal(x[~finite].nan_to_num(0.5), y[~finite].float().nan_to_num(0.5))
        assert_close(torch.where(finite, x, 0), torch.where(finite, y, 0), torch.float32)


def test_large_parts_overflow_in_no_sum_of_parts():
    z, a, b = drawn(16, 32, 8)
    z, a, b = torch.full_like(z, 3e38), 1e-3 * a, 1e-3 * b
    got = forward(z, a, b)
    assert got.isfinite().all()
    assert_close(got, parted(joined(z) @ torch.complex(a.double(), b.double()).t()), torch.float32)
