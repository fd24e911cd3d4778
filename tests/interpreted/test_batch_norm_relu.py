"""batch_norm_relu's Triton kernels, every one of them interpreted (not compiled, not run on a GPU) and watched.

The reference runs in float64 on the same values. Tiles are made small, so that odd little sizes still take several
programs, several tiles a program and several blocks of channels.
"""

import re
from pathlib import Path

import pytest
import torch

import cvkernels.functional as F
from cvkernels import to_channels_last, use_backend
from cvkernels.ops.batch_norm_relu import triton_kernels as kernels
from cvkernels.ops.batch_norm_relu.reference import batch_norm_relu as reference
from cvkernels.ops.common import triton_kernels as tiles
from tests.close import assert_close
from tests.watch import rounding_bfloat16, watch

LAYOUTS = {
    "contiguous": lambda z: z,
    "channels-last": to_channels_last,
    "interleaved": lambda z: z.movedim(1, -1).contiguous().movedim(-1, 1),
}
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "CHANNELS", 4)
    monkeypatch.setattr(tiles, "PROGRAMS", 3)


def wide(x):
    return None if x is None else x.detach().double().contiguous().requires_grad_(x.requires_grad)


def draw(size, dtype=torch.float32, layout="contiguous", weight=False, residual=False):
    """z, weight, residual, and the gradient that comes in."""
    n, c, *rest = size
    z, r, g = (LAYOUTS[layout](torch.randn(n, 2, c, *rest).to(dtype)) for _ in range(3))
    w = (torch.rand(c) + 0.5).to(dtype).requires_grad_() if weight else None
    return z.requires_grad_(), w, r.requires_grad_() if residual else None, g


def as_given(z, layout):
    """Interleaved memory is a complex tensor's own; the other layouts are planar as they stand."""
    return torch.view_as_complex(z.movedim(1, -1)) if z is not None and layout == "interleaved" else z


def as_planar(y):
    return torch.view_as_real(y).movedim(-1, 1) if y.is_complex() else y


def held(size, dtype=torch.float32, layout="contiguous", weight=False, residual=False, running=True, c=0.9, **settings):
    """Forward, running power and every gradient equal the reference's; every address watched; every output written."""
    z, w, r, g = draw(size, dtype, layout, weight, residual)
    power = torch.rand(size[1]) + 0.5 if running else None
    z_, w_, r_, power_ = wide(z), wide(w), wide(r), wide(power)
    before = [t.detach().clone() for t in (z, w, r, g) if t is not None]
    with use_backend("triton"), watch() as seen, rounding_bfloat16():
        y = as_planar(F.batch_norm_relu(as_given(z, layout), power, w, as_given(r, layout), c, **settings))
        y.backward(g)
    count = settings.pop("momentum", 0.1)
    batches, momentum = (count, 0.0) if isinstance(count, torch.Tensor) else (None, count)
    training, eps = settings.get("training", False), settings.get("eps", 1e-5)
    want = reference(z_, power_, w_, r_, batches, training, momentum, eps, c)
    want.backward(g.double().contiguous())
    assert y.stride() == z.stride() and seen.unwritten(y) == 0
    assert_close(y, want, dtype, name="y")
    for name, got, wanted in (("z", z, z_), ("weight", w, w_), ("residual", r, r_)):
        if got is not None:
            assert_close(got.grad, wanted.grad, dtype, name=f"grad_{name}")
    if running:
        assert_close(power, power_, torch.float32, name="running power")
    now = [t.detach() for t in (z, w, r, g) if t is not None]
    assert all(map(torch.equal, before, now)), "an input was written to"
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("weight", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_every_form(layout, residual, weight, training):
    seen = held((5, 3, 7, 11), layout=layout, weight=weight, residual=residual, training=training)
    sums = training or weight
    assert len(seen.launches) == (2 if training else 1) + (2 if sums else 1)


SIZES = {
    "one": (1, 1, 2, 1),
    "N=1": (1, 3, 5, 7),
    "C=1": (4, 1, 3, 3),
    "1x1-map": (9, 6, 1, 1),
    "flat": (37, 9),
    "1d": (3, 2, 131),
    "3d": (2, 3, 3, 4, 5),
    "rows-of-several-tiles": (2, 2, 9, 17),
    "blocks-of-channels": (3, 11, 3, 3),
    "multiple-of-16": (4, 16, 4, 8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_sizes(size, layout):
    if layout == "channels-last" and len(size) != 4:
        layout = "interleaved"
    held(size, layout=layout, weight=True, residual=True, training=True)


def test_the_tiles_of_a_release(monkeypatch):
    monkeypatch.undo()
    for layout in LAYOUTS:
        held((3, 2, 37, 31), layout=layout, residual=True, training=True)


@pytest.mark.parametrize(("size", "layout"), [((37, 2, 3, 5), "contiguous"), ((37, 3, 2, 2), "channels-last")])
def test_more_partial_sums_than_are_added_up_at_once(size, layout, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "PROGRAMS", 40)
    held(size, layout=layout, weight=True, training=True)


def test_batch_statistics_without_a_running_power():
    held((4, 3, 5, 7), running=False, training=False, weight=True)


@pytest.mark.parametrize("count", [torch.tensor(3), torch.tensor([4.0])], ids=["int", "float"])
def test_the_running_power_by_a_count_of_batches(count):
    held((4, 3, 5, 7), training=True, momentum=count)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("weight", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
def test_half_precision(dtype, weight, residual, layout):
    """The gradient comes from an output rounded once, so it is held to two roundings: the row of several operations."""
    z, w, r, g = (None if t is None else t.detach() for t in draw((5, 3, 7, 11), dtype, layout, weight, residual))
    # the launchers themselves: torch has no complex type of bfloat16, so no public call leads to the interleaved layout
    with watch(), rounding_bfloat16():
        y, rstd = kernels.batch_norm_relu_forward(z, torch.ones(3), w, r, None, True, 0.1, 1e-5, 0.9)
        grads = kernels.batch_norm_relu_backward(g, y, z if weight else None, w, r, rstd, True, 0.9)
    z_, w_, r_ = (t if t is None else wide(t).requires_grad_() for t in (z, w, r))
    want = reference(z_, torch.ones(3).double(), w_, r_, None, True, 0.1, 1e-5, 0.9)
    want.backward(g.double().contiguous())
    assert_close(y, want, dtype, name="y")
    for name, got, wanted in zip(("z", "residual", "weight"), grads, (z_, r_, w_), strict=True):
        if wanted is not None:
            assert_close(got, wanted.grad, dtype, kind="network", name=f"grad_{name}")


def plain(z, c=1.0):
    """No norm: running power 1, eps 0, so that the ReLU's own edges can be hit."""
    z = torch.tensor(z).T.reshape(1, 2, 1, -1).contiguous().requires_grad_()  # a list of (re, im)
    with use_backend("triton"), watch():
        y = F.batch_norm_relu(z, torch.ones(1), c=c, eps=0.0)
        y.backward(torch.full_like(y, 2.0))
    return y.detach()[0, :, 0].T, z.grad[0, :, 0].T


def test_exactly_at_c_it_is_the_identity_and_at_zero_it_is_zero():
    z = [(1.0, 0.0), (0.0, -1.0), (0.0, 0.0), (1e-30, 0.0), (3.0, -4.0)]
    y, grad = plain(z)
    assert torch.equal(y, torch.tensor([*z[:2], (0.0, 0.0), (0.0, 0.0), z[4]]))
    assert torch.equal(grad, torch.tensor([(2.0, 2.0), (2.0, 2.0), (0.0, 0.0), (0.0, 0.0), (2.0, 2.0)]))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_where_the_square_overflows_the_element_itself_passes():
    z = [(3e30, -1e30), (2.0, 3e38)]
    y, grad = plain(z)
    assert torch.equal(y, torch.tensor(z)) and torch.equal(grad, torch.full_like(grad, 2.0))


def test_nan_stays_where_it_was():
    y, grad = plain([(torch.nan, 0.5), (0.5, 0.25)])
    assert y.isnan().any(1).tolist() == [True, False] and not grad[1].isnan().any()


def test_a_run_repeats_itself():
    z, w, r, g = draw((5, 3, 7, 11), weight=True, residual=True)
    runs = []
    for _ in range(2):
        y, rstd = kernels.batch_norm_relu_forward(z, None, w, r, None, True, 0.1, 1e-5, 1.0)
        runs.append((y, rstd, *kernels.batch_norm_relu_backward(g, y, z, w, r, rstd, True, 1.0)))
    assert all(map(torch.equal, *runs))


def test_an_empty_batch_in_inference():
    z = torch.empty(0, 2, 3, 4, 4, requires_grad=True)
    with use_backend("triton"):
        y = F.batch_norm_relu(z, torch.ones(3))
        y.sum().backward()
    assert y.shape == z.shape and z.grad.shape == z.shape


def test_a_vector_with_gaps_is_refused():
    with pytest.raises(ValueError, match="`running_power` must be contiguous"):
        kernels.batch_norm_relu_forward(
            torch.randn(2, 2, 3), torch.ones(6)[::2], None, None, None, True, 0.1, 1e-5, 1.0
        )


def test_the_operators_are_those_of_the_compiled_library():
    text = (Path(__file__).parents[2] / "csrc" / "ops.cpp").read_text()
    declared = re.sub(r'"\s*"', "", text)  # a literal's pieces, wherever a formatter breaks them
    for launch, schema in kernels.SCHEMAS.items():
        assert f'"{launch.__name__}{schema}")' in declared


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_given_are_sums_taken(layout):
    z, w, r, _ = (
        None if t is None else t.detach() for t in draw((5, 3, 7, 4), layout=layout, weight=True, residual=True)
    )
    before = torch.rand(3)
    powers, found = [before.clone(), before.clone()], []
    sums = z.square().sum((0, 1, 3, 4))
    with watch() as seen:
        found.append(kernels.batch_norm_relu_forward(z, powers[0], w, r, None, True, 0.1, 1e-5, 0.9))
        found.append(kernels.batch_norm_relu_summed_forward(z, sums, powers[1], w, r, None, 0.1, 1e-5, 0.9))
    assert len(seen.launches) == 3
    for name, want, got in zip(("y", "rstd"), *found, strict=True):
        assert_close(got, want, name=name)
    assert_close(powers[1], powers[0], name="running power")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fakes(dtype):
    ops = torch.ops.cvkernels_triton
    z, w, r, g = (None if t is None else t.detach() for t in draw((3, 4, 3, 3), dtype, "channels-last", True, True))
    checks = ("test_schema", "test_faketensor")
    forward = ops.batch_norm_relu_forward.default
    torch.library.opcheck(forward, (z, torch.ones(4), w, r, None, True, 0.1, 1e-5, 1.0), test_utils=checks)
    summed = ops.batch_norm_relu_summed_forward.default
    torch.library.opcheck(summed, (z, torch.ones(4), None, w, r, None, 0.1, 1e-5, 1.0), test_utils=checks)
    y, rstd = forward(z, None, None, None, None, True, 0.1, 1e-5, 1.0)
    backward = ops.batch_norm_relu_backward.default
    torch.library.opcheck(backward, (g, y, z, w, r, rstd, True, 1.0), test_utils=checks)
    torch.library.opcheck(backward, (g, y, None, None, None, rstd, True, 1.0), test_utils=checks)
