"""A 3x3 convolution by Winograd's filtering, beside the one that is written down."""

import subprocess
import sys

import pytest
import torch

import cvkernels.functional as F
from cvkernels import backend, to_channels_last, use_backend, use_conv_form
from cvkernels.ops.common import forms
from cvkernels.planar import is_planes_last
from tests.close import assert_close

from .suite import Recorder

if not backend.compiled:
    pytest.skip("nothing compiled", allow_module_level=True)

OPS = torch.ops.cvkernels
MOST = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
LANES = [n for n in (4, 8, 16) if n <= MOST]  # of the clones that this processor has


def planes_last(z):
    return z.movedim(2, -1).contiguous().movedim(-1, 2)


LAYOUTS = {"contiguous": lambda z: z, "channels-last": to_channels_last, "planes-last": planes_last}
# N, C, O, H, W, padding: channels that fill vectors and that do not, odd maps, one tile, many tasks
SIZES = {
    "odd": (2, 3, 5, 7, 6, (1, 1)),
    "vectors": (3, 16, 32, 8, 8, (1, 1)),
    "wide": (1, 20, 17, 9, 37, (0, 2)),
    "one": (1, 1, 1, 3, 3, (0, 0)),
    "line": (5, 33, 40, 1, 5, (2, 1)),
    "many": (70, 16, 16, 5, 4, (1, 1)),
}


def exact(z, a, b, padding):
    conv = lambda x, w: torch.conv2d(x, w, padding=padding)  # noqa: E731
    x, y = z.unbind(1)
    parts = (conv(x, a), conv(y, a)) if b is None else (conv(x, a) - conv(y, b), conv(x, b) + conv(y, a))
    return torch.stack(parts, 1)


def drawn(size, weights):
    n, c, o, h, w, padding = size
    z, a, b = torch.randn(n, 2, c, h, w), torch.randn(o, c, 3, 3), torch.randn(o, c, 3, 3)
    return z, a, b if weights == "complex" else None, padding


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_values_and_gradients_in_every_layout(size, weights, lanes):
    z, a, b, padding = drawn(size, weights)
    leaves = [t.double().requires_grad_() for t in (z, a, b) if t is not None]
    want = exact(leaves[0], leaves[1], leaves[2] if b is not None else None, padding)
    grad = torch.randn(want.shape)
    wanted = torch.autograd.grad(want, leaves, grad.double())
    back = [2 - p for p in padding]
    for number, (name, out) in enumerate(LAYOUTS.items()):
        for layout in LAYOUTS.values():
            got = OPS.conv_winograd_forward(layout(z), a, b, padding, False, number, lanes)
            assert_close(got, want, torch.float32, name=name)
            assert got.stride() == out(got.contiguous()).stride()
            got = OPS.conv_winograd_forward(layout(grad), a, b, back, True, number, lanes)
            assert_close(got, wanted[0], torch.float32, name="z")
            assert got.stride() == out(got.contiguous()).stride()
            found = OPS.conv_winograd_backward(out(grad), layout(z), b is not None, padding, lanes)
            for got, right in zip(found, wanted[1:], strict=False):
                assert_close(got, right, torch.float32, name="weight")
            assert found[1].numel() == (0 if b is None else b.numel())


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_bfloat16_is_computed_in_float32_and_rounded_once(size, weights, lanes):
    z, a, b, padding = drawn(size, weights)
    z = z.bfloat16()
    leaves = [t.double().requires_grad_() for t in (z, a, b) if t is not None]
    want = exact(leaves[0], leaves[1], leaves[2] if b is not None else None, padding)
    grad = torch.randn(want.shape).bfloat16()
    wanted = torch.autograd.grad(want, leaves, grad.double())
    for number, layout in enumerate(LAYOUTS.values()):
        got = OPS.conv_winograd_forward(layout(z), a, b, padding, False, number, lanes)
        assert_close(got, want, torch.bfloat16)
        back = [2 - p for p in padding]
        got = OPS.conv_winograd_forward(layout(grad), a, b, back, True, number, lanes)
        assert_close(got, wanted[0], torch.bfloat16)
        found = OPS.conv_winograd_backward(layout(grad), layout(z), b is not None, padding, lanes)
        for got, right in zip(found, wanted[1:], strict=False):
            assert_close(got, right, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["complex", "real"])
def test_registered_operators(weights, dtype):
    z, a, b, padding = drawn((2, 5, 4, 6, 7, (1, 1)), weights)
    z, scale, residual = z.to(dtype), torch.rand(4), torch.randn(2, 2, 4, 6, 7).to(dtype)
    for layout in range(3):
        torch.library.opcheck(OPS.conv_winograd_forward.default, (z, a, b, padding, False, layout))
    torch.library.opcheck(OPS.conv_winograd_relu_forward.default, (z, a, b, padding, scale, residual, 0, 1.0))
    torch.library.opcheck(OPS.conv_winograd_backward.default, (residual, z, b is not None, padding))


@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("size", [(67, 16, 24, 12, 11), (41, 184, 192, 12, 11)], ids=["small", "large-weight"])
def test_the_same_bits_on_any_number_of_threads(weights, size):
    """A large weight is read by tasks of more tiles, fewer where there are many threads."""
    z, a, b, padding = drawn((*size, (1, 1)), weights)
    grad, before = torch.randn(size[0], 2, *size[2:]), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            y = OPS.conv_winograd_forward(z, a, b, padding, False, 0)
            found.append((y, *OPS.conv_winograd_backward(grad, z, b is not None, padding)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))
    assert_close(found[0][0], exact(z, a, b, padding), torch.float32)


def spoiled_alike(got, want, dtype, exactly):
    """Not finite in the same places (``exactly``: and of the same kind), and close elsewhere."""
    assert torch.equal(got.isfinite(), want.isfinite()) and not got.isfinite().all()
    if exactly:
        bad = ~got.isfinite()
        assert torch.equal(got[bad].nan_to_num(0.5), want[bad].to(got.dtype).nan_to_num(0.5))
    finite = got.isfinite()
    assert_close(torch.where(finite, got, 0), torch.where(finite, want, 0), dtype)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
def test_what_is_not_finite_goes_where_it_goes_in_a_convolution(bad, weights, lanes):
    """With complex weights Gauss's sums may make NaN of an infinity, as torch's own complex convolution does."""
    for dtype, size in ((torch.float32, "odd"), (torch.float32, "many"), (torch.bfloat16, "vectors")):
        z, a, b, padding = drawn(SIZES[size], weights)
        for place in ((0, 0, 2, 0, 0), (0, 1, 1, 4, 3), (1, 0, 0, z.shape[3] - 1, 2)):
            spoilt = z.to(dtype)
            spoilt[place] = bad
            leaves = [t.double().requires_grad_() for t in (spoilt, a, b) if t is not None]
            want = exact(leaves[0], leaves[1], leaves[2] if b is not None else None, padding)
            grad = torch.randn(want.shape).to(dtype)
            wanted = torch.autograd.grad(want, leaves, grad.double())
            for number, layout in enumerate(LAYOUTS.values()):
                got = OPS.conv_winograd_forward(layout(spoilt), a, b, padding, False, number, lanes)
                spoiled_alike(got, want.detach(), dtype, b is None)
                found = OPS.conv_winograd_backward(layout(grad), layout(spoilt), b is not None, padding, lanes)
                for got, right in zip(found, wanted[1:], strict=False):
                    spoiled_alike(got, right, torch.float32, b is None)
                scale = torch.ones(got.shape[0])
                relu = OPS.conv_winograd_relu_forward(layout(spoilt), a, b, padding, scale, None, min(number, 1), 1e-30)
                spoiled_alike(relu, want.detach(), dtype, False)
        spoilt = torch.randn(want.shape).to(dtype)
        spoilt[1, 1, 2, 3, 3] = bad
        (wanted,) = torch.autograd.grad(
            exact(leaves[0], *leaves[1:], *[None] * (b is None), padding), leaves[0], spoilt.double()
        )
        got = OPS.conv_winograd_forward(spoilt, a, b, [2 - p for p in padding], True, 0, lanes)
        spoiled_alike(got, wanted, dtype, b is None)


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_a_nan_moves_no_bit_of_what_does_not_read_it(weights):
    """It is as right as it came out, and a network that has diverged is not slowed down."""
    z, a, b, padding = drawn(SIZES["vectors"], weights)
    want = OPS.conv_winograd_forward(z, a, b, padding, False, 0)
    z[1, 0, 3, 4, 5] = torch.nan
    got = OPS.conv_winograd_forward(z, a, b, padding, False, 0)
    assert torch.equal(got.nan_to_num(0), torch.where(got.isnan(), 0, want)) and got.isnan().any()


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_large_parts_overflow_in_no_sum_of_inputs(weights):
    z, a, b, padding = drawn(SIZES["odd"], weights)
    z[:, 0], z[:, 1] = 3e38, 0
    a, b = 1e-3 * a, None if b is None else 1e-3 * b
    got = OPS.conv_winograd_forward(z, a, b, padding, False, 0)
    assert got.isfinite().all()
    assert_close(got, exact(z.double(), *(None if w is None else w.double() for w in (a, b)), padding), torch.float32)


def test_what_it_cannot_do_is_done_as_by_default(monkeypatch):
    monkeypatch.setattr(forms, "PRODUCTS", forms.HALVES)  # without them float16 is brought to float32, which it can do
    z, a, b = torch.randn(2, 2, 16, 8, 8), torch.randn(16, 16, 3, 3), torch.randn(16, 16, 3, 3)
    five = torch.randn(16, 16, 5, 5)
    cases = {
        "stride": (z, (a, b), dict(stride=2)),
        "dilation": (z, (a, b), dict(dilation=2)),
        "padding": (z, (a, b), dict(padding=3)),
        "kernel": (z, (five, five), {}),
        "groups": (z, (a[:, :8], b[:, :8]), dict(groups=2)),
        "float64": (z.double(), (a.double(), b.double()), {}),
        "float16": (z.half(), (a.half(), b.half()), {}),
    }
    for name, (feature, weight, how) in cases.items():
        with use_conv_form("winograd"), Recorder() as seen:
            got = F.conv2d(feature, weight, **how)
        assert not any("winograd" in op.name() for op, _, _ in seen.calls), name
        with use_backend("reference"):
            want = F.conv2d(feature.double(), tuple(w.double() for w in weight), **how)
        assert_close(got, want, feature.dtype, name=name)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        F.conv2d(z[..., :2, :2], (a, b))


def test_the_default_of_3x3_convolutions():
    for channels, weights, wanted in ((16, 2, True), (16, 1, True), (8, 2, False)):
        z, w = torch.randn(1, 2, channels, 6, 6), [torch.randn(16, channels, 3, 3)] * weights
        with Recorder() as seen:
            F.conv2d(z, w[0] if weights == 1 else tuple(w), padding=1)
        assert any("conv_winograd" in op.name() for op, _, _ in seen.calls) == wanted
    with use_conv_form("gauss-last"), Recorder() as seen:
        F.conv2d(torch.randn(1, 2, 16, 6, 6), (w[0].repeat(1, 2, 1, 1),) * 2, padding=1)
    assert not any("winograd" in op.name() for op, _, _ in seen.calls)


@pytest.mark.parametrize(
    ("tiles", "products"), [(False, True), (True, True), (False, False)], ids=["products", "tiles", "neither"]
)
def test_bfloat16_by_default_where_the_processor_multiplies_it_no_faster(monkeypatch, tiles, products):
    monkeypatch.setattr(forms, "TILES", tiles)
    monkeypatch.setattr(forms, "PRODUCTS", forms.HALVES if products else ())
    w = torch.randn(32, 32, 3, 3)
    for dtype, weight, wanted in (
        (torch.float32, (w, w), True),
        (torch.bfloat16, (w, w), not tiles),
        (torch.bfloat16, w, not products),
    ):
        weight = tuple(x.to(dtype) for x in weight) if isinstance(weight, tuple) else weight.to(dtype)
        with Recorder() as seen:
            F.conv2d(torch.randn(1, 2, 32, 6, 6, dtype=dtype), weight, padding=1)
        assert any("conv_winograd" in op.name() for op, _, _ in seen.calls) == wanted


def test_weights_of_another_dtype_or_layout_and_strided_features():
    z, a, b = torch.randn(3, 2, 16, 8, 14)[..., ::2], torch.randn(16, 16, 3, 3), torch.randn(16, 16, 3, 3)
    last = tuple(w.contiguous(memory_format=torch.channels_last).requires_grad_() for w in (a, b))
    y = F.conv2d(z, last, padding=1)
    grads = torch.autograd.grad(y.square().sum(), last)
    ours = (a.requires_grad_(), b.requires_grad_())
    with use_backend("reference"):
        want = F.conv2d(z, ours, padding=1)
    assert_close(y, want.double())
    for got, right in zip(grads, torch.autograd.grad(want.square().sum(), ours), strict=True):
        assert_close(got, right.double(), kind="network")


def test_nothing_in_and_nothing_out():
    z, a = torch.randn(0, 2, 16, 5, 5), torch.randn(16, 16, 3, 3)
    assert OPS.conv_winograd_forward(z, a, a, (1, 1), False, 0).shape == z.shape
    re, im = OPS.conv_winograd_backward(z, z, True, (1, 1))
    assert not re.any() and not im.any() and re.shape == a.shape
    assert not OPS.conv_winograd_forward(torch.randn(2, 2, 0, 5, 5), a[:, :0], None, (1, 1), False, 0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "dtype": (dict(z=torch.randn(1, 2, 4, 5, 5).double()), "z must be .* float32 or bfloat16"),
        "kernel": (dict(re=torch.randn(4, 4, 5, 5)), "re must be"),
        "im": (dict(im=torch.randn(3, 4, 3, 3)), "im must be"),
        "padding": (dict(padding=(3, 1)), "padding must be 0, 1 or 2"),
        "small": (dict(z=torch.randn(1, 2, 4, 1, 5), padding=(0, 0)), "no smaller than the kernel"),
        "layout": (dict(layout=3), "layout must be"),
        "lanes": (dict(lanes=32), "lanes must be at most"),
        "interleaved": (
            dict(z=torch.view_as_real(torch.randn(1, 4, 5, 5, dtype=torch.complex64)).movedim(-1, 1)),
            "z must not be interleaved",
        ),
    }.values(),
)
def test_the_operator_refuses(change, message):
    given = dict(
        z=torch.randn(1, 2, 4, 5, 5), re=torch.randn(4, 4, 3, 3), im=None, padding=(1, 1), back=False, layout=0, lanes=0
    )
    with pytest.raises(RuntimeError, match=message):
        OPS.conv_winograd_forward(*(given | change).values())


def test_a_chain_of_real_layers_is_read_as_it_lies():
    z, a = torch.randn(2, 2, 16, 6, 6), torch.randn(16, 16, 3, 3)
    given = planes_last(z).requires_grad_()
    y = F.conv2d(given, a, padding=1)
    assert is_planes_last(y)
    y.sum().backward()
    assert given.grad.stride() == given.stride()


GUARD = """
import ctypes, mmap, sys, torch, cvkernels
libc = ctypes.CDLL(None, use_errno=True)
held = []

def last_in_its_page(t):  # the page behind it may not be touched
    t, page = t.contiguous(), mmap.PAGESIZE
    size = -(-t.numel() * 4 // page) * page
    memory = mmap.mmap(-1, size + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(address + size), page, 0) == 0
    held.append(memory)
    flat = torch.frombuffer(memory, dtype=torch.float32, count=t.numel(), offset=size - t.numel() * 4)
    return flat.copy_(t.flatten()).view(t.shape)

ops = torch.ops.cvkernels
for n, c, o, h, w in ((1, 3, 5, 5, 7), (2, 16, 17, 4, 4), (1, 1, 1, 3, 3)):
    a, b = (last_in_its_page(torch.randn(o, c, 3, 3)) for _ in range(2))
    for axes in ((0, 1, 2, 3, 4), (0, 3, 4, 1, 2), (0, 1, 3, 4, 2)):
        back = sorted(range(5), key=axes.__getitem__)
        z, grad = (last_in_its_page(torch.randn(n, 2, k, h, w).permute(axes)).permute(back) for k in (c, o))
        for lanes in map(int, sys.argv[2:]):
            for im in (b, None):
                ops.conv_winograd_forward(z, a, im, (1, 1), False, 0, lanes)
                ops.conv_winograd_forward(grad, a, im, (1, 1), True, 1, lanes)
                ops.conv_winograd_backward(grad, z, im is not None, (1, 1), lanes)
if sys.argv[1] == "beyond":
    ctypes.string_at(a.data_ptr() + a.numel() * 4, 1)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("where", ["within", "beyond"])
def test_reads_nothing_behind_its_tensors(where):
    """Each tensor ends where its page does; `beyond` shows that a read behind it is seen."""
    run = [sys.executable, "-c", GUARD, where, *map(str, LANES)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0 and "done" in done.stdout) == (where == "within"), done.stderr[-2000:]
    assert where == "within" or done.returncode < 0
