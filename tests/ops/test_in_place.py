"""A result may be changed in place, as that of torch's layers, in whatever form, layout and size it was computed."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import nn, use_conv_form
from cvkernels.ops.common import forms
from tests.close import as_planar, assert_close

from .harness import COMPLEX, PLANAR, gradients, incoming

LAYOUTS = {name: (PLANAR | COMPLEX)[name] for name in ("contiguous", "channels-last", "interleaved", "complex")}
CHANGES = {"add": lambda y: y.add_(1), "relu": lambda y: (torch.view_as_real(y) if y.is_complex() else y).relu_()}


@pytest.fixture(params=CHANGES.values(), ids=CHANGES)
def change(request):
    return request.param


def changed_is_changed_as_a_copy_is(layer, z, layout, change, half=None):
    """Values and gradients of f(y) with f in place, and of the same of a copy of y."""
    found = []
    for own in (True, False):
        given = z.clone().requires_grad_()
        with torch.autocast("cpu", half, enabled=half is not None):
            y = layer(layout(given))
        y = y if own else y.clone()
        change(y)
        wanted = {"z": given, **dict(layer.named_parameters())}
        found.append((y, gradients(y, wanted, [incoming(y)])))
    (got, got_grads), (want, want_grads) = found
    assert_close(got, want)
    for name in want_grads:
        assert_close(got_grads[name], want_grads[name], name=name)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("form", [None, *forms.NAMES])
def test_a_convolution(form, weights, layout, change):
    layer = nn.ComplexConv2d(4, 6, 3, padding=1, weights=weights, dtype=torch.float64 if form is None else None)
    z = torch.randn(2, 2, 4, 5, 6, dtype=layer.kernel()[0].dtype)
    if form is None:
        changed_is_changed_as_a_copy_is(layer, z, layout, change)
        return
    with use_conv_form(form):
        changed_is_changed_as_a_copy_is(layer, z, layout, change)


@pytest.mark.parametrize("n", [0, 1, 9])
@pytest.mark.parametrize("channels, settings", [(3, {}), (8, {}), (16, {"stride": 2}), (32, {}), (8, {"groups": 2})])
@pytest.mark.parametrize("weights", ["complex", "real"])
def test_a_convolution_of_any_size(weights, channels, settings, n, change):
    layer = nn.ComplexConv2d(channels, channels, 3, padding="valid", weights=weights, **settings)
    changed_is_changed_as_a_copy_is(layer, torch.randn(n, 2, channels, 6, 6), LAYOUTS["contiguous"], change)


@pytest.mark.parametrize("layout", ["contiguous", "interleaved", "complex"])
@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("form", [None, "block", "gauss", "four", "batch"])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_linear_map(n, form, weights, layout, change):
    layer, z = nn.ComplexLinear(5, 3, weights=weights), torch.randn(n, 2, 5)
    with use_conv_form(form or "winograd"):  # which means nothing to a linear map
        changed_is_changed_as_a_copy_is(layer, z, LAYOUTS[layout], change)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast(half, change):
    for layer, size in (nn.ComplexConv2d(4, 4, 3), (2, 2, 4, 5, 5)), (nn.ComplexLinear(4, 3), (2, 2, 4)):
        changed_is_changed_as_a_copy_is(layer, torch.randn(size), LAYOUTS["contiguous"], change, half)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_packed_weights(backend, channels_last, change):
    """One of several in one buffer: the others keep their values."""
    drawn = [torch.randn(2, 3, 2, 3, 3), torch.randn(2, 5, 4, 1, 1)]
    found = []
    for own in (True, False):
        leaves = [w.to(backend.device).requires_grad_() for w in drawn]
        packed = F.pack_weights([tuple(w) for w in leaves], channels_last=channels_last)
        first, second = packed if own else [w.clone() for w in packed]
        kept = second.detach().clone()
        change(first)
        assert torch.equal(second, kept)
        loss = (first * incoming(first)).sum() + (second * incoming(second)).sum()
        found.append((first, second, *torch.autograd.grad(loss, leaves)))
    for got, want in zip(*found, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    "layer, z", [(nn.ComplexConv2d(4, 4, 3), (2, 2, 4, 5, 5)), (nn.ComplexLinear(4, 3), (2, 2, 4))]
)
def test_compiled(layer, z):
    def net(z):
        y = layer(z)
        y += 1
        return y.relu_()

    z = torch.randn(z)
    got = torch.compile(net, fullgraph=True, backend="aot_eager")(z)
    assert_close(got, net(z))
    wanted = dict(layer.named_parameters())
    for name, g in gradients(got, wanted).items():
        assert_close(g, gradients(net(z), wanted)[name], name=name)


def test_what_a_convolution_returns_is_no_copy():
    """Its last step names the parts of what torch's convolution wrote."""
    z, w = torch.randn(2, 2, 3, 5, 5), torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    with use_conv_form("block"), torch.profiler.profile(acc_events=True) as seen:  # else torch 2.11 warns
        F.conv2d(z, tuple(w))
    assert not {e.name for e in seen.events()} & {"aten::copy_", "aten::clone", "aten::contiguous"}
    assert as_planar(F.conv2d(z, tuple(w))).is_contiguous()
