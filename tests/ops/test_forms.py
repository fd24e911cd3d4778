"""Every form of a complex convolution and linear map is the same operation: values, gradients, second derivatives."""

import contextlib
import copy

import pytest
import torch

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import backend, to_channels_last, use_backend, use_conv_form
from cvkernels.backend import FLOATS
from cvkernels.ops.common import forms
from cvkernels.ops.common.forms import NAMES
from cvkernels.ops.conv2d.function import conv2d_with_power
from cvkernels.planar import is_channels_last, is_planes_last
from tests.close import assert_close

from .suite import Recorder

OP = "conv_planes_relu"

LAYOUTS = {"contiguous": lambda z: z, "channels-last": to_channels_last}
CASES = {  # channels in and out, kernel, map; channels that fill vectors and that do not
    "odd": (5, 3, (3, 3), (7, 6), dict(padding=1, stride=2)),
    "vectors": (16, 32, (3, 3), (9, 16), dict(padding="same")),
    "even-window": (8, 4, (2, 3), (6, 5), dict(padding="same", dilation=2)),
    "1x1": (6, 6, (1, 1), (1, 1), {}),
}


def drawn(channels, out, kernel, size, dtype):
    return [
        torch.randn(s, dtype=torch.float64).to(dtype)
        for s in ((3, 2, channels, *size), (out, channels, *kernel), (out, channels, *kernel))
    ]


def compared(fn, tensors, layout, real_weights):
    tensors = tensors[:2] if real_weights else tensors
    leaves = [t.clone().requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    y = fn(layout(leaves[0]), *leaves[1:])
    with use_backend("reference"):
        want = fn(exact[0], *exact[1:])
    grad = torch.randn(want.shape, dtype=torch.float64).to(y)
    assert_close(y, want, tensors[0].dtype)
    assert (y.movedim((1, 2), (-2, -1)) if layout is to_channels_last else y).is_contiguous()
    for g, w in zip(torch.autograd.grad(y, leaves, grad), torch.autograd.grad(want, exact, grad.double()), strict=True):
        assert_close(g, w, tensors[0].dtype)


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolution(form, case, layout):
    *sizes, how = CASES[case]
    conv = lambda z, a, b=None: F.conv2d(z, a if b is None else (a, b), **how)  # noqa: E731
    for dtype in (torch.float32, torch.float64):
        for real_weights in (False, True):
            with use_conv_form(form):
                compared(conv, drawn(*sizes, dtype), LAYOUTS[layout], real_weights)


@pytest.mark.parametrize("real_weights", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("form", ["block", "block-last", None])
def test_an_infinity_reaches_what_reads_it(form, real_weights):
    """And no other result, in the form that is chosen too, which makes several of them at once."""
    z, a, b = torch.randn(3, 2, 32, 17, 18), torch.randn(32, 32, 3, 3), torch.randn(32, 32, 3, 3)
    z[1, 0, 5, 9, 10] = torch.inf
    with use_conv_form(form) if form else contextlib.nullcontext():
        finite = F.conv2d(z, a if real_weights else (a, b), padding=1).isfinite()
    reached = torch.zeros(3, 2, 17, 18, dtype=torch.bool)
    reached[1, 0 if real_weights else slice(None), 8:11, 9:12] = True
    assert torch.equal(finite.all(2), ~reached) and torch.equal(finite.any(2), ~reached)


@pytest.mark.parametrize("form", ["block", "block-last"])
def test_convolution_in_half_precision(form):
    """bfloat16; float16 is oneDNN's own affair on a CPU, whose sums it rounds more than once."""
    *sizes, how = CASES["vectors"]
    with use_conv_form(form):
        conv = lambda z, a, b: F.conv2d(z, (a, b), **how)  # noqa: E731
        compared(conv, drawn(*sizes, torch.bfloat16), LAYOUTS["contiguous"], False)


@pytest.mark.parametrize("form", ["block", "gauss", "four", "batch"])
def test_linear(form):
    z, a, b = (torch.randn(s, dtype=torch.float64) for s in ((7, 2, 5), (6, 5), (6, 5)))
    for dtype in (torch.float32, torch.float64):
        with use_conv_form(form):
            compared(lambda z, a, b: F.linear(z, (a, b)), [t.to(dtype) for t in (z, a, b)], lambda z: z, False)


@pytest.mark.parametrize("form", NAMES)
def test_twice(form):
    given = [t.requires_grad_() for t in drawn(2, 3, (2, 2), (3, 3), torch.float64)]
    with use_conv_form(form):
        assert torch.autograd.gradgradcheck(lambda z, a, b: F.conv2d(z, (a, b), padding=1), given)


@pytest.mark.parametrize("form", NAMES)
def test_mapped_and_compiled(form):
    z, a, b = drawn(3, 4, (3, 3), (5, 6), torch.float64)
    call = lambda z, a, b: F.conv2d(z, (a, b), padding=1)  # noqa: E731
    with use_conv_form(form):
        for dims in ((0, None, None), (None, 0, 0), (0, 0, 0)):
            given = [t if d is None else torch.stack((t, t + 1)) for t, d in zip((z, a, b), dims, strict=True)]
            got = torch.func.vmap(call, dims)(*given)
            each = [call(*(t if d is None else t[i] for t, d in zip(given, dims, strict=True))) for i in (0, 1)]
            assert_close(got, torch.stack(each))
        torch._dynamo.reset()
        leaves = [t.clone().requires_grad_() for t in (z, a, b)]
        y = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
        assert_close(y, call(z, a, b))
        assert_close(torch.autograd.grad(y.square().sum(), leaves[1])[0], _weight_gradient(call, z, a, b))


def _weight_gradient(call, z, a, b):
    return torch.func.grad(lambda a: call(z, a, b).square().sum())(a)


def test_unknown_form():
    with (
        pytest.raises(ValueError, match="`form` must be one of block, block-last, gauss.*got 'fft'"),
        use_conv_form("fft"),
    ):
        pass


@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (1, 16, 4, 4), (3, 9, 8, 17), (2, 20, 6, 6)], ids=str)
def test_planes_and_their_transpose(form, size):
    """The kernel against the map written out, in every dtype and both layouts: <P z, m> = <z, P^T m>."""
    if not hasattr(torch.ops.cvkernels, "conv_planes_forward"):
        pytest.skip("nothing compiled")
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        z = torch.randn(size[0], 2, *size[1:], dtype=torch.float64).to(dtype)
        re, im = z.double().unbind(1)
        one = [(torch.cat((re, im), 1),), (torch.stack((re, im), 1).flatten(0, 1),)]
        rows = [(re, im), (re, im, re + im), (re - im, -re - im, im), *one][form]
        planes = torch.stack(rows)
        other = [torch.randn(p.shape, dtype=torch.float64).to(dtype) for p in rows]
        parts = other if form < 3 else other[0].chunk(2, 1) if form == 3 else (other[0][::2], other[0][1::2])
        p, q, *r = (o.double() for o in parts)
        if form == 1:
            p, q = p + r[0], q + r[0]
        elif form == 2:
            p, q = p - q, r[0] - p - q
        for last in (False, True):
            given = to_channels_last(z) if last else z
            got = torch.ops.cvkernels.conv_planes_forward(given, form)
            assert got.movedim(2, -1).is_contiguous()
            assert_close(got, planes, dtype)
            ready = [o.contiguous(memory_format=torch.channels_last) for o in other]
            got = torch.ops.cvkernels.conv_planes_backward(ready, form, last)
            assert_close(got, torch.stack((p, q), 1), dtype)
            if size == (2, 3, 5, 7) and dtype == torch.float32:
                torch.library.opcheck(torch.ops.cvkernels.conv_planes_forward.default, (given, form))
                torch.library.opcheck(torch.ops.cvkernels.conv_planes_backward.default, (ready, form, last))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_complex_weights_keep_the_layout(kernel, layout, stride):
    """Of what came in: in training, in inference, in the gradient."""
    for dtype in (torch.float32, torch.bfloat16):
        layer = cnn.ComplexConvBatchNormReLU2d(32, 32, 3, stride, padding=1)
        z = LAYOUTS[layout](torch.randn(2, 2, 32, 8, 10)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(z)
            with torch.no_grad():
                inferred = layer.eval()(z)
        y.sum().backward()
        for x in (y, inferred, z.grad):
            assert is_channels_last(x) if layout == "channels-last" else x.is_contiguous()


@pytest.mark.parametrize("size", [(3, 16, 5, 7), (2, 32, 8, 9)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_real_weights_leave_their_planes_to_the_norm_and_to_the_next_layer(kernel, size, layout):
    """Two layers and a shortcut in training (in bfloat16 one, since roundings add up): no plane is moved between them,
    values and gradients are the reference's."""
    n, channels, h, w = size
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        held = torch.float64 if dtype == torch.float64 else torch.float32
        layers = [
            cnn.ComplexConvBatchNormReLU2d(
                channels, channels, 3, padding=1, weights="real", affine=dtype in FLOATS, dtype=held
            )
            for _ in range(2)
        ]
        z = LAYOUTS[layout](torch.randn(n, 2, channels, h, w, dtype=torch.float64).to(dtype)).requires_grad_()
        leaves = [z, *(p for layer in layers[: 2 if dtype in FLOATS else 1] for p in layer.parameters())]

        grad = torch.randn(n, 2, channels, h, w, dtype=torch.float64).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype not in FLOATS), Recorder() as seen:
            between = layers[0](z)
            out = layers[1](between, between) if dtype in FLOATS else between
        assert is_planes_last(between) and is_planes_last(out)
        moved = [op.name() for op, _, _ in seen.calls if "conv_planes" in op.name()]
        # what came in, once; and not even that where our kernel reads any layout
        reads_any = dtype == torch.float32 or dtype == torch.bfloat16 and dtype not in forms.PRODUCTS
        assert moved == ([] if reads_any else ["cvkernels::conv_planes_forward"])
        found = torch.autograd.grad(out, leaves, grad)
        assert found[0].stride() == z.stride()
        # whatever comes next takes it too
        for after in (F.magnitude_relu, lambda y: F.magnitude_max_pool2d(y, 2), F.magnitude_power):
            assert_close(after(out.detach()), after(out.detach().contiguous()))
        exact = [copy.deepcopy(layer).double() for layer in layers[: 2 if dtype in FLOATS else 1]]
        leaf = z.detach().double().requires_grad_()
        with use_backend("reference"):
            want = exact[0](leaf)
            want = exact[1](want, want) if dtype in FLOATS else want
            leaves = [leaf, *(p for layer in exact for p in layer.parameters())]
            wanted = torch.autograd.grad(want, leaves, grad.double())
        for i, (got, right) in enumerate(zip((out, *found), (want, *wanted), strict=True)):
            assert_close(got, right, got.dtype, kind="network", name=f"tensor {i}", computed_in=dtype)


def test_no_other_device_leaves_planes():
    """The norms there would copy them; the meta device is asked as a GPU is."""
    z = to_channels_last(torch.randn(2, 2, 16, 6, 6))
    w = torch.randn(16, 16, 3, 3)
    assert is_planes_last(conv2d_with_power(z, w, padding=1)[0]) == backend.compiled
    assert is_channels_last(conv2d_with_power(z.to("meta"), w.to("meta"), padding=1)[0])


RELU_SIZES = {"odd": (3, 5, 3, 7, 6), "vectors": (2, 16, 32, 8, 8)}  # N, C, O, H, W


@pytest.mark.parametrize("size", RELU_SIZES.values(), ids=RELU_SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["gauss-last", "block-last", "winograd"])
@pytest.mark.parametrize("weights", ["complex", "real"])
def test_norm_residual_and_relu_in_the_pass_that_joins(kernel, size, layout, form, weights):
    """Beside the layers one after another, in every dtype; and that it is one pass."""
    n, channels, out, h, w = size
    taken = {"gauss-last": 2, "block-last": 3, "winograd": 1}[form]  # of these dtypes
    for dtype in (torch.float32, torch.float64, torch.bfloat16)[:taken]:
        held = torch.float64 if dtype == torch.float64 else torch.float32
        layer = cnn.ComplexConvBatchNormReLU2d(
            channels, out, 3, padding=1, weights=weights, c=0.9, affine=True, dtype=held
        ).eval()
        layer.norm_act.running_power.uniform_(0.2, 2)
        torch.nn.init.uniform_(layer.norm_act.weight, 0.5, 2)
        z = LAYOUTS[layout](torch.randn(n, 2, channels, h, w, dtype=torch.float64).to(dtype))
        with torch.no_grad(), use_conv_form(form), torch.autocast("cpu", torch.bfloat16, enabled=dtype not in FLOATS):
            for residual in (None, torch.randn(n, 2, out, h, w, dtype=torch.float64).to(dtype)):
                with Recorder() as seen:
                    y = layer(z, residual)
                names = [op.name().split("::")[1] for op, _, _ in seen.calls]
                assert names[-1] == f"conv_{'winograd' if form == 'winograd' else 'planes'}_relu_forward"
                assert "batch_norm_relu_forward" not in names
                torch.library.opcheck(seen.calls[-1][0], seen.calls[-1][1])
                assert (y.movedim((1, 2), (-2, -1)) if layout == "channels-last" else y).is_contiguous()
                exact = layer.double()
                with use_backend("reference"), torch.autocast("cpu", enabled=False):
                    rest = residual if residual is None else residual.double()
                    want = exact.norm_act(exact.conv(z.double()), rest)
                layer.to(held)
                # bfloat16: the weight, the convolution and the result are each rounded
                assert_close(y, want, dtype, kind="op" if dtype in FLOATS else "network")
    refused = pytest.raises(ValueError, match="`residual` must have the shape of the result")
    with torch.no_grad(), use_conv_form(form), refused:
        layer(z.to(held), torch.zeros(n, 2, out, h, w + 1, dtype=held))
