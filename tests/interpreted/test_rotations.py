"""rotate's, rotate_phase's and unrotate's Triton kernels, and the cosine and sine they share."""

import pytest
import torch
import triton
import triton.language as tl

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.common.angle.triton_kernels import near, of_quarters, turn
from tests.close import assert_close
from tests.watch import watch

from .harness import HALVES, LAYOUTS, ODD, held, planar

WIDE = (torch.float32, torch.float64)


def angles(*size, dtype=torch.float32):
    return (torch.rand(size, dtype=torch.float64) * 40 - 20).to(dtype)


def turned(call, tensors, features, layout):
    # an angle's gradient comes from an output rounded once, and its terms cancel: the row of several operations
    return held(call, tensors, features, layout, grad_kind="network" if tensors[features[0]].dtype in HALVES else "op")


def rotate(size, layout, dtype=torch.float32, angle=torch.float32):
    def call(a, b, theta):
        return F.rotate(last(a), last(b), theta) if layout == "channels-last" else F.rotate(a, b, theta)

    a, b = (torch.randn(size).to(dtype) for _ in range(2))
    return turned(call, {"a": a, "b": b, "theta": angles(size[0], dtype=angle)}, ("a", "b"), "contiguous")


def last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def rotate_phase(size, layout, dtype=torch.float32, angle=torch.float32):
    return turned(F.rotate_phase, {"z": planar(size, dtype), "theta": angles(size[0], dtype=angle)}, ("z",), layout)


def unrotate(size, layout, dtype=torch.float32, angle=torch.float32):
    return turned(F.unrotate, {"h": planar(size, dtype), "theta": angles(size[0], dtype=angle)}, ("h",), layout)


def fakes(size, layout, dtype=torch.float32, angle=torch.float32):
    return turned(F.unrotate, {"h": planar(size, dtype), "theta": angles(size[0], 3, dtype=angle)}, ("h",), layout)


CALLS = [rotate, rotate_phase, unrotate, fakes]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_layouts_and_angles(call, layout):
    for angle in WIDE:
        seen = call(ODD, layout, angle=angle)
        # more than one tile a sample: what they leave is added up by a launch of its own
        assert len(seen.launches) == 3 and seen.launches[-1] == "totals_kernel"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_half_precision(call, dtype):
    call(ODD, "contiguous", dtype)
    call(ODD, "channels-last", dtype)


@pytest.mark.parametrize(
    "size", [(1, 1, 1, 1), (9, 6, 1, 1), (5, 6), (2, 3, 41), (2, 16, 4, 4), (17, 3, 5, 5)], ids=str
)
@pytest.mark.parametrize("call", CALLS)
def test_sizes(call, size):
    call(size, "contiguous")


@pytest.mark.parametrize("call", CALLS)
def test_one_tile_a_sample_needs_one_launch_each_way(call):
    assert len(call((3, 2, 3, 3), "contiguous").launches) == 2


def test_an_angle_without_a_gradient_costs_nothing():
    z = planar(ODD).requires_grad_()
    calls = {
        "rotate_phase": lambda t: F.rotate_phase(z, t),
        "unrotate": lambda t: F.unrotate(z, t),
        "rotate": lambda t: F.rotate(z[:, 0], z[:, 1], t),
    }
    for name, call in calls.items():
        with use_backend("triton"), watch() as seen:
            call(angles(3)).sum().backward()
        assert seen.launches == [f"{name}_forward_kernel", f"{name}_backward_kernel"]


@triton.jit
def turn_kernel(theta, cosine, sine):
    n = tl.program_id(0)
    cos, sin = turn(theta, n)
    tl.store(cosine + n, cos)
    tl.store(sine + n, sin)


@triton.jit
def near_kernel(theta, cosine, sine, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cos, sin = of_quarters(*near(tl.load(theta + i, mask=i < count, other=0.0)))
    tl.store(cosine + i, cos, mask=i < count)
    tl.store(sine + i, sin, mask=i < count)


def test_angles_reduced_in_float32_are_as_good_as_in_float64():
    corners = torch.arange(-12732, 12733, dtype=torch.float64) * (torch.pi / 4)  # the nearest to each, and beside it
    corners = corners[corners.abs() < 9999.9].float()
    sides = [torch.nextafter(corners, torch.full_like(corners, far)) for far in (-1e9, 1e9)]
    theta = torch.cat([corners, *sides, torch.linspace(-1e4, 1e4, 200_001), torch.logspace(-30, 4, 10_001)])
    cosine, sine = torch.empty_like(theta), torch.empty_like(theta)
    near_kernel[(triton.cdiv(len(theta), 65536),)](theta, cosine, sine, len(theta), BLOCK=65536)
    for got, want in ((cosine, theta.double().cos()), (sine, theta.double().sin())):
        assert (got.double() - want).abs().max() < 1e-7


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_cosine_and_sine(dtype):
    quarter = torch.pi / 2
    some = [k * quarter + d for k in (-9, -2, -1, 0, 1, 2, 3, 4, 1001) for d in (-0.7853, -1e-4, 0.0, 1e-9, 0.7854)]
    theta = torch.tensor([*some, 6.283185307, 100.0, -1e4, 123456.789, 1e6, 1e9, -1e9], dtype=dtype)
    cosine, sine = torch.empty(len(theta)), torch.empty(len(theta))
    turn_kernel[(len(theta),)](theta, cosine, sine)
    for got, want in ((cosine, theta.double().cos()), (sine, theta.double().sin())):
        assert (got.double() - want).abs().max() < 1.5e-7
        assert_close(got, want)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_angles_that_are_none_and_angles_beyond_reduction():
    theta = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -3e38])
    cosine, sine = torch.empty(5), torch.empty(5)
    turn_kernel[(5,)](theta, cosine, sine)
    assert cosine[:3].isnan().all() and sine[:3].isnan().all()
    assert torch.allclose(cosine[3:].square() + sine[3:].square(), torch.ones(2))
    z = planar((2, 3, 5))
    with use_backend("triton"):
        y = F.rotate_phase(z, torch.tensor([torch.nan, 1.0]))
    assert y[0].isnan().all() and y[1].isfinite().all()


@pytest.mark.parametrize("size", [(0, 3, 4), (2, 3, 0)])
def test_empty(size):
    for call in (rotate_phase, unrotate, fakes, rotate):
        z, theta = torch.empty(size[0], 2, *size[1:], requires_grad=True), torch.zeros(size[0], requires_grad=True)
        theta_k = torch.zeros(size[0], 3, requires_grad=True)
        with use_backend("triton"):
            out = {
                rotate_phase: lambda: F.rotate_phase(z, theta),  # noqa: B023
                unrotate: lambda: F.unrotate(z, theta),  # noqa: B023
                fakes: lambda: F.unrotate(z, theta_k),  # noqa: B023
                rotate: lambda: F.rotate(z[:, 0], z[:, 1], theta),  # noqa: B023
            }[call]()
            grads = torch.autograd.grad(out.sum(), [z, theta_k if call is fakes else theta])
        assert grads[0].shape == z.shape and not grads[1].any()
