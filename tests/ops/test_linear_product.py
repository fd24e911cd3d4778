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


def drawn(rows, columns, turned):
    """Both parts of a matrix, of one feature whose parts of a sample stand in turns, or turned over."""
    if turned:
        return torch.randn(columns, 2, rows).unbind(1)[0].t(), torch.randn(columns, 2, rows).unbind(1)[1].t()
    return torch.randn(rows, 2, columns).unbind(1)


def product(p, q, conjugate=False, stacked=False):
    return torch.ops.cvkernels.linear_product_forward(*p, *q, conjugate, stacked)


@shapes
@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_equals_torchs_complex_product(shape, turned, conjugate):
    m, k, n = shape
    p, q = drawn(m, k, turned[0]), drawn(k, n, turned[1])
    w = torch.complex(q[0].double(), q[1].double())
    want = torch.complex(p[0].double(), p[1].double()) @ (w.conj() if conjugate else w)
    got = product(p, q, conjugate)
    assert got.shape == (m, 2, n) and got.is_contiguous()
    assert_close(got, torch.stack((want.real, want.imag), 1))
    assert same(product(p, q, conjugate, stacked=True).transpose(0, 1), got)


def test_strides_of_any_kind():
    p = torch.randn(2, 40, 66)[:, ::2, ::3]
    q = torch.randn(2, 22, 1).expand(2, 22, 18)
    want = torch.complex(*p.double()) @ torch.complex(*q.double())
    assert_close(product(tuple(p), tuple(q), stacked=True), torch.stack((want.real, want.imag)))


def test_bit_equal_with_any_number_of_threads():
    p, q = drawn(70, 600, False), drawn(600, 300, True)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(product(p, q))
    torch.set_num_threads(1)
    assert same(*found)


LANES = """
import torch, cvkernels.functional
for m, k, n in ((37, 41, 19), (5, 300, 70)):
    p, q = torch.randn(2, m, k), torch.randn(2, n, k).transpose(1, 2)
    for a in (p, p.transpose(1, 2).contiguous().transpose(1, 2)):
        got = torch.complex(*torch.ops.cvkernels.linear_product_forward(*a, *q, False, True))
        want = torch.complex(*p.double()) @ torch.complex(*q.double())
        assert (got - want).abs().max() < 1e-5 * k ** 0.5 * 4
print("done")
"""


@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_each_width_of_vector(lanes):
    assert with_lanes(LANES, lanes) == "done"


def test_what_it_refuses():
    x = torch.randn(3, 4)
    for p, q in (((x.double(),) * 2, (x.t().double(),) * 2), ((x, x), (x, x)), ((x, x[:2]), (x.t(), x.t()))):
        with pytest.raises(RuntimeError, match="must"):
            product(p, q)
    with pytest.raises(RuntimeError, match="alike"):
        product((x, x.t().contiguous().t()), (x.t(), x.t()))


def run(z, a, b):
    with Recorder() as seen:
        y = F.linear(z, (a, b))
        grads = torch.autograd.grad(y.square().sum(), (z, a, b))
    return y, grads, sum("linear_product" in op.name() for op, _, _ in seen.calls)


@pytest.mark.parametrize(
    ("samples", "dtype", "products"),
    [(forms.FEW, torch.float32, 3), (forms.FEW - 1, torch.float32, 0), (forms.FEW, torch.float64, 0)],
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
    assert sum("linear_product" in op.name() for op, _, _ in seen.calls) == 2 and a.grad is not None and b.grad is None


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
    p, q = drawn(20, 9, False), drawn(9, 7, True)
    torch.library.opcheck(torch.ops.cvkernels.linear_product_forward.default, (*p, *q, True, False))
    z, a, b = torch.randn(20, 2, 9, requires_grad=True), torch.randn(7, 9), torch.randn(7, 9)
    whole = torch.compile(lambda z, a, b: F.linear(z, (a, b)), fullgraph=True, backend="aot_eager")
    assert same(whole(z, a, b), F.linear(z, (a, b)))
    assert same(*(torch.autograd.grad(f(z, a, b).sum(), z)[0] for f in (whole, lambda *x: F.linear(x[0], x[1:]))))


def test_a_nan_stays_in_its_row():
    z, w = torch.randn(40, 2, 9), (torch.randn(7, 9), torch.randn(7, 9))
    z[3, 1, 2] = torch.nan
    y = F.linear(z, w)
    assert y[3].isnan().any() and y[[i for i in range(40) if i != 3]].isfinite().all()
