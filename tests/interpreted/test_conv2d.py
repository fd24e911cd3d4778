"""The convolution's Triton kernels, every one of them interpreted (not compiled, not run on a GPU) and watched.

The reference runs in float64 on the same values. Tiles are made as small as a product allows, so that little sizes
take several programs, several steps of the inner axis and several shares of the weight's gradient.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cvkernels.functional as F
from cvkernels import nn, use_backend
from cvkernels.ops.conv2d import implicit, triton_config
from cvkernels.ops.conv2d import triton_kernels as kernels
from cvkernels.ops.conv2d.reference import conv2d as reference
from cvkernels.ops.magnitude_relu.reference import magnitude_relu
from tests.close import assert_close, assert_equivariant
from tests.ops.convolutions import GEOMETRIES, LAYOUTS, both_ways, draw, is_the_references, wide
from tests.watch import rounding_bfloat16, watch

ops = torch.ops.cvkernels_triton
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Those of sm_80 with TF32 off are half of these."""
    for name, value in {"ROWS": 32, "COLUMNS": 32, "STEP": 32, "PROGRAMS": 12, "STEPS": 1}.items():
        monkeypatch.setattr(triton_config, name, value)
    for plan in (kernels._plan, kernels._weight_plan):
        plan.cache_clear()  # they keep the tiles of others


def held(size, channels, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), **drawn):
    """Value and every gradient equal the reference's; every address watched; every output written."""
    z, a, b = draw(size, channels, kernel, **drawn)
    how = (stride, padding, dilation)
    with watch() as seen, rounding_bfloat16():
        y = both_ways(z, a, b, how)
    assert seen.unwritten(y) == 0 and seen.unwritten(a.grad) == 0
    is_the_references(y, z, a, b, how)
    if drawn.get("layout", "contiguous") != "strided":
        assert z.grad.stride() == z.stride()
    return seen, y, z


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
def test_every_layout(layout, real):
    seen, y, z = held((2, 17, 3, 4), 18, (3, 3), padding=(1, 1), real=real, layout=layout)
    assert seen.launches == ["conv2d_kernel", "conv2d_kernel", "conv2d_backward_weight_kernel", "conv2d_sum_kernel"]
    if layout != "strided":
        assert LAYOUTS[layout](y).stride() == y.stride()


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometries(geometry):
    held((2, 3, 7, 8), 5, **geometry)


SIZES = {
    "one": ((1, 1, 1, 1), 1, (1, 1)),
    "one-in-padding": ((1, 1, 1, 1), 1, (3, 3)),
    "kernel-as-large-as-the-map": ((3, 2, 3, 5), 7, (3, 5)),
    "a-tap-a-tile": ((1, 16, 3, 4), 16, (2, 2)),
    "two-tiles-a-tap": ((1, 32, 3, 3), 17, (3, 1)),
    "tiles-across-taps": ((1, 19, 3, 3), 3, (3, 3)),
}


@pytest.mark.parametrize(("size", "channels", "window"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("precision", DTYPES)
def test_sizes(size, channels, window, precision):
    padding = (0, 0) if window == size[2:] else (window[0] // 2, window[1] // 2)
    held(size, channels, window, padding=padding, dtype=DTYPES[precision])


@pytest.mark.parametrize("layout", ["channels-last", "strided"])
def test_offsets_of_64_bits(layout, monkeypatch):
    monkeypatch.setattr(kernels, "WIDE", 0)
    held((1, 3, 5, 4), 5, (3, 3), stride=(2, 1), padding=(1, 1), layout=layout)


def test_the_tiles_of_a_release(monkeypatch):
    monkeypatch.undo()
    held((2, 6, 9, 10), 16, (5, 5))


def test_parts_of_the_weight_in_different_strides():
    z, a, b = draw((1, 3, 4, 5), 4, (2, 2))
    how = ((1, 1), (0, 0), (1, 1))
    turned = b.detach().transpose(0, 1).contiguous().transpose(0, 1)
    with watch():
        y = ops.conv2d_forward(z.detach(), a.detach(), turned, *how)
    assert_close(y, reference(*(wide(t) for t in (z, a, b)), *how, 1))


@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
def test_differentiable_twice(real):
    """Each gradient's gradients, towards everything it depends on, against the reference's in float64."""
    how = ((2, 1), (1, 0), (1, 2))
    given = draw((1, 2, 5, 5), 3, (3, 2), real=real)
    given_ = tuple(wide(t) for t in given)
    found = []
    for (z, a, b), run in ((given, lambda *t: implicit.conv2d(*t, *how, "triton")), (given_, reference_of(how))):
        some = [t for t in (z, a, b) if t is not None]
        y = run(z, a, b)
        torch.manual_seed(1)
        g = torch.randn(y.shape).to(y.dtype).requires_grad_()
        grads = torch.autograd.grad(y, some, g, create_graph=True)
        seeds = [torch.randn(t.shape).to(t.dtype) for t in grads]
        found.append(torch.autograd.grad(grads, [g, *some], seeds))
    for name, got, want in zip(("g", "z", "re", "im"), *found, strict=False):
        assert_close(got, want, torch.float32, name=f"second gradient of {name}")


def reference_of(how):
    return lambda z, a, b: reference(z, a, b, *how, 1)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("precision", DTYPES)
def test_the_power_of_what_is_stored(precision, layout):
    z, a, b = (t.detach() for t in draw((3, 5, 4, 3), 18, (3, 3), dtype=DTYPES[precision], layout=layout))
    how = ((1, 1), (1, 1), (1, 1))
    with watch() as seen, rounding_bfloat16():
        y, sums = ops.conv2d_power_forward(z, a, b, *how)
        plain = ops.conv2d_forward(z, a, b, *how)
    assert torch.equal(y, plain) and seen.unwritten(sums) == 0
    assert_close(sums, y.double().square().sum((0, 1, 3, 4)), torch.float32, name="power")


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("precision", DTYPES)
def test_norm_and_relu_in_inference(precision, residual):
    dtype = DTYPES[precision]
    z, a, b = (t.detach() for t in draw((2, 5, 4, 3), 18, (3, 3), dtype=dtype, layout="channels-last"))
    how = ((1, 1), (1, 1), (1, 1))
    scale = torch.rand(18) + 0.5
    r = torch.randn(2, 2, 18, 4, 3).to(dtype) if residual else None  # contiguous: brought to the output's layout
    with watch() as seen, rounding_bfloat16():
        y = ops.conv2d_norm_relu_forward(z, a, b, scale, r, *how, 0.9)
    want = reference(*(wide(t) for t in (z, a, b)), *how, 1) * scale.double()[:, None, None]
    want = magnitude_relu(want if r is None else want + r.double(), 0.9)
    assert seen.launches == ["conv2d_kernel"] and seen.unwritten(y) == 0
    assert_close(y, want, dtype, name="y")


def test_bit_for_bit():
    z, a, b = (t.detach() for t in draw((2, 3, 6, 5), 5, (3, 3)))
    how = ((1, 1), (1, 1), (1, 1))
    g = torch.randn(2, 2, 5, 6, 5)
    runs = [
        (*ops.conv2d_power_forward(z, a, b, *how), *ops.conv2d_backward_weight(g, z, (3, 3), True, *how))
        for _ in range(2)
    ]
    assert all(map(torch.equal, *runs))


def test_a_nan_reaches_its_windows_and_no_further():
    z, a, b = (t.detach() for t in draw((2, 3, 5, 6), 4, (3, 3)))
    z[1, 0, 2, 2, 5] = torch.nan
    how = ((1, 1), (1, 1), (1, 1))
    with watch():
        y = ops.conv2d_forward(z, a, b, *how)
    assert_close(y, reference(*(wide(t) for t in (z, a, b)), *how, 1))


@pytest.mark.parametrize("size", [(0, 3, 5, 5), (2, 3, 0, 5)], ids=["no-sample", "no-row"])
def test_nothing_to_convolve(size):
    z, a, b = draw(size, 4, (1, 3))
    y = implicit.conv2d(z, a, b, (1, 1), (0, 1), (1, 1), "triton")
    y.sum().backward()
    assert y.numel() == 0 and z.grad.shape == z.shape and not a.grad.any() and not b.grad.any()
    sums = ops.conv2d_power_forward(z.detach(), a.detach(), b.detach(), (1, 1), (0, 1), (1, 1))[1]
    assert not sums.any()


def test_tf32_follows_torchs_switch():
    z, half = torch.randn(1, 2, 1, 2, 2), torch.randn(1, 2, 1, 2, 2).half()
    switch = torch.backends.cudnn.conv
    before = switch.fp32_precision
    try:
        torch.backends.cudnn.allow_tf32 = True
        assert kernels.precision(z, 80) == "tf32" and kernels.precision(z, 75) == "ieee"
        assert kernels.precision(half, 80) == "ieee"
        switch.fp32_precision = "ieee"
        assert kernels.precision(z, 80) == "ieee"
    finally:
        switch.fp32_precision = before


def test_a_scale_unlike_the_channels_is_refused():
    z, a, b = (t.detach() for t in draw((1, 2, 3, 3), 4, (1, 1)))
    with pytest.raises(ValueError, match=r"`scale` must be \[4\] and contiguous"):
        ops.conv2d_norm_relu_forward(z, a, b, torch.ones(2), None, (1, 1), (0, 0), (1, 1), 1.0)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_the_fakes(layout):
    z, a, b = (t.detach() for t in draw((2, 3, 5, 4), 4, (3, 3), layout=layout))
    how = ([1, 1], [1, 1], [1, 1])
    y = ops.conv2d_forward(z, a, b, *how)
    calls = {
        "forward": (z, a, b),
        "power_forward": (z, a, None),
        "norm_relu_forward": (z, a, b, torch.ones(4), y),
        "backward_data": (y, a, b, [5, 4]),
        "backward_weight": (y, z, [3, 3], True),
    }
    for name, given in calls.items():
        last = (0.9,) if "relu" in name else ()
        operator = getattr(ops, f"conv2d_{name}").default
        torch.library.opcheck(operator, (*given, *how, *last), test_utils=("test_schema", "test_faketensor"))


# --- through the front door -------------------------------------------------------------------------------------------


def forced(call):
    """What a call gives under `use_backend`, and the launches it made."""
    with use_backend("triton"), watch() as seen:
        return call(), seen.launches


@pytest.mark.parametrize("padding", ["same", 1], ids=["same", "numbers"])
def test_the_public_function_takes_complex_features(padding):
    z = torch.randn(2, 3, 5, 4, dtype=torch.complex64, requires_grad=True)
    w = torch.randn(4, 3, 3, 3, dtype=torch.complex64, requires_grad=True)
    y, launches = forced(lambda: F.conv2d(z, w, padding=padding))
    assert launches == ["conv2d_kernel"]
    want = torch.nn.functional.conv2d(z.to(torch.complex128), w.to(torch.complex128), padding=padding)
    assert_close(y, want, torch.complex64)
    g = torch.randn_like(y)
    got, launches = forced(lambda: torch.autograd.grad(y, (z, w), g))
    wanted = torch.autograd.grad(want, (z, w), g.to(torch.complex128))
    assert len(launches) == 3
    for name, one, other in zip("zw", got, wanted, strict=True):
        assert_close(one, other, torch.complex64, name=f"grad of {name}")


def test_groups_are_torchs():
    z, w = torch.randn(1, 2, 4, 3, 3), torch.randn(2, 4, 2, 3, 3)
    y, launches = forced(lambda: F.conv2d(z, w, groups=2))
    assert launches == [] and torch.equal(y, F.conv2d(z, w, groups=2))


class NoConvolution(TorchDispatchMode):
    """Fails for torch's own."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "convolution" not in func.name(), func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_a_network_trains_without_torchs_convolution(weights):
    """Two layers, one step of SGD: parameters as torch's convolution leaves them."""
    z, left = torch.randn(2, 2, 2, 6, 6), []
    for backend in ("triton", "reference"):
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            nn.ComplexConvBatchNormReLU2d(2, 5, 3, padding=1, weights=weights),
            nn.ComplexConv2d(5, 3, 3, 2, weights=weights),
        )
        with use_backend(backend), NoConvolution() if backend == "triton" else contextlib.nullcontext():
            net(z).square().mean().backward()
        torch.optim.SGD(net.parameters(), 0.1).step()
        left.append(list(net.parameters()))
    assert all(p.grad.abs().max() > 0 for p in left[0])
    for got, want in zip(*left, strict=True):
        assert_close(got, want, kind="network")


def test_autocast_computes_in_its_dtype():
    z, w = torch.randn(1, 2, 3, 4, 4), torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    with use_backend("triton"), watch(), rounding_bfloat16(), torch.autocast("cpu", torch.bfloat16):
        y = F.conv2d(z, w)
        y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and w.grad.dtype == torch.float32
    w_ = w.detach().bfloat16().double().requires_grad_()
    want = reference(z.bfloat16().double(), *w_, (1, 1), (0, 0), (1, 1), 1)
    assert_close(y, want, torch.bfloat16)
    want.backward(2 * y.detach().double())
    assert_close(w.grad, w_.grad, computed_in=torch.bfloat16, name="grad of the weight")


def test_mapping_is_refused_by_name():
    z, w = torch.randn(2, 1, 2, 3, 4, 4), torch.randn(2, 4, 3, 3, 3)
    with use_backend("triton"), pytest.raises(RuntimeError, match="conv2d's own kernels cannot be mapped"):
        torch.func.vmap(lambda z: F.conv2d(z, w))(z)


def test_functional_gradients():
    z, w = torch.randn(1, 2, 2, 4, 4), torch.randn(2, 3, 2, 3, 3)
    got, launches = forced(lambda: torch.func.grad(lambda w: F.conv2d(z, w).square().sum())(w))
    want = torch.func.grad(lambda w: F.conv2d(z.double(), w).square().sum())(w.double())
    assert len(launches) == 3
    assert_close(got, want)


def test_float64_is_refused():
    z, w = torch.randn(1, 2, 1, 2, 2).double(), torch.randn(1, 1, 1, 1).double()
    with use_backend("triton"), pytest.raises(RuntimeError, match="conv2d has no triton kernel for torch.float64"):
        F.conv2d(z, w)


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_the_law(weights):
    """A turned input gives the turned output, each sample by its own angle; real weights keep a zero plane zero."""
    z, a, b = (t.detach() for t in draw((3, 2, 5, 4), 3, (3, 3)))
    w = a if weights == "real" else (a, b)
    with use_backend("triton"):
        assert_equivariant(lambda z: F.conv2d(z, w, stride=2, padding=1), z)
        z[:, 1] = 0
        still = F.conv2d(z, w)[:, 1]
    assert (not still.any()) == (weights == "real")
