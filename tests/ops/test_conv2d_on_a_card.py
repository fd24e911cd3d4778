"""Triton's convolution where it is compiled. No table chooses it by itself, so test_conv2d.py is torch's on a card.

tests/interpreted/test_conv2d.py has the addresses; here are tensor cores, pipelined loads and the tiles of a release.
"""

import importlib

import pytest
import torch

import cvkernels.functional as F
from cvkernels.backend import absent, interpreting
from cvkernels.ops.conv2d import implicit
from cvkernels.ops.conv2d.reference import conv2d as reference
from cvkernels.ops.magnitude_relu.reference import magnitude_relu
from tests.close import assert_close
from tests.conftest import GPU, Backend, as_on_a_gpu

from .convolutions import GEOMETRIES, both_ways, draw, is_the_references, wide

# by hand, TRITON_INTERPRET=1 runs the little ones without a GPU
DEVICE = "cpu" if interpreting() and not GPU else "cuda"
pytestmark = [] if DEVICE == "cpu" else pytest.mark.gpu
PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# with fewer than 264 programs the tiles are smaller: 4 x 95 x 93 positions make 277 rows of 128, the last one short,
# and 70 channels two columns of 64
SIZES = {"little": (3, 9, 7) if DEVICE == "cuda" else (1, 3, 4), "many-tiles": (4, 95, 93)}
PADDED = ((1, 1), (1, 1), (1, 1))


@pytest.fixture
def dtype(request, monkeypatch):
    """Of a precision by name; TF32 is float32 with torch's switch on."""
    precision = request.param
    if DEVICE == "cuda":
        reason = absent("triton")
        assert reason is None, reason
        if precision in ("tf32", "bfloat16") and torch.cuda.get_device_capability() < (8, 0):
            pytest.skip(f"no {precision} before sm_80")
    importlib.import_module("cvkernels.ops.conv2d.triton_kernels")  # `use_backend` would; here it is called by hand
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "tf32")
    return PRECISIONS[precision]


@pytest.fixture(autouse=True)
def bfloat16_as_on_a_gpu():
    with as_on_a_gpu(Backend("triton", DEVICE)):
        yield


def kind(request) -> str:
    return "tf32" if "tf32" in request.node.callspec.id.split("-") else "op"


CASES = [  # size, channels read, layout, weights
    *(
        (size, source, layout, "complex")
        for size in SIZES
        for source in (5, 16, 64)
        for layout in ("contiguous", "last")
    ),
    ("little", 16, "last", "real"),
    ("many-tiles", 16, "contiguous", "real"),
]


@pytest.mark.parametrize(("size", "source", "layout", "weights"), CASES, ids=["-".join(map(str, c)) for c in CASES])
@pytest.mark.parametrize("dtype", PRECISIONS, indirect=True)
def test_sizes(dtype, size, source, layout, weights, request):
    n, h, w = SIZES[size]
    layout = {"last": "channels-last"}.get(layout, layout)
    z, a, b = draw((n, source, h, w), 70, (3, 3), weights == "real", dtype, layout, DEVICE)
    is_the_references(both_ways(z, a, b, PADDED), z, a, b, PADDED, kind(request))
    assert z.grad.stride() == z.stride()


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("dtype", ["float16"], indirect=True)
def test_geometries(dtype, geometry):
    how = tuple(
        geometry.get(name, default) for name, default in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)))
    )
    z, a, b = draw((2, 16, 7, 8), 16, geometry["kernel"], False, dtype, "channels-last", DEVICE)
    is_the_references(both_ways(z, a, b, how), z, a, b, how)


@pytest.mark.parametrize("dtype", PRECISIONS, indirect=True)
def test_the_epilogues(dtype, request):
    """Training's, which adds up the power of what is stored, and inference's."""
    z, a, b = (t.detach() for t in draw((3, 16, 9, 7), 70, (3, 3), False, dtype, "channels-last", DEVICE))
    want = reference(*(wide(t) for t in (z, a, b)), *PADDED, 1)
    y, sums = torch.ops.cvkernels_triton.conv2d_power_forward(z, a, b, *PADDED)
    assert_close(y, want, dtype, kind(request), "y")
    assert_close(sums, y.double().square().sum((0, 1, 3, 4)), torch.float32, name="power")
    scale, r = torch.rand(70, device=DEVICE) + 0.5, torch.randn(want.shape, device=DEVICE).to(dtype)
    got = implicit.conv2d_norm_relu(z, a, b, scale, r, *PADDED, 0.9, "triton")
    want = magnitude_relu(want * scale.double()[:, None, None] + r.double(), 0.9)
    assert_close(got, want, dtype, kind(request), "norm and relu")


@pytest.mark.parametrize("dtype", PRECISIONS, indirect=True)
def test_bit_for_bit(dtype):
    z, a, b = draw((3, 16, 9, 7), 70, (3, 3), False, dtype, "channels-last", DEVICE)
    found = []
    for _ in range(2):
        for t in (z, a, b):
            t.grad = None
        found.append((both_ways(z, a, b, PADDED).detach(), z.grad, a.grad, b.grad))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_differentiable_twice(dtype):
    given = draw((2, 5, 5, 5), 6, (3, 2), device=DEVICE)
    found = []
    runs = (lambda *t: implicit.conv2d(*t, *PADDED, "triton"), lambda *t: reference(*t, *PADDED, 1))
    for tensors, run in zip((given, tuple(wide(t) for t in given)), runs, strict=True):
        y = run(*tensors)
        torch.manual_seed(1)
        g = torch.randn(y.shape).to(y).requires_grad_()
        grads = torch.autograd.grad(y, tensors, g, create_graph=True)
        found.append(torch.autograd.grad(grads, [g, *tensors], [torch.randn(t.shape).to(t) for t in grads]))
    for name, got, want in zip(("g", "z", "re", "im"), *found, strict=True):
        assert_close(got, want, torch.float32, name=f"second gradient of {name}")


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_the_public_function_reaches_it(dtype):
    from cvkernels import use_backend

    from .suite import Recorder

    z, a, b = (t.detach() for t in draw((2, 5, 6, 5), 4, (3, 3), device=DEVICE))
    with use_backend("triton"), Recorder() as seen:
        y = F.conv2d(z, (a, b), padding=1)
    assert [op.name() for op, _, _ in seen.calls] == ["cvkernels_triton::conv2d_forward"]
    assert_close(y, reference(*(wide(t) for t in (z, a, b)), *PADDED, 1))
