"""batch_norm_relu's and magnitude_batch_norm's Triton kernels: one set, with and without a ReLU."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.ops.batch_norm_relu import triton_kernels as kernels
from cvkernels.ops.common import triton_kernels as tiles
from cvkernels.ops.common.norm.triton_kernels import power_sums
from tests.close import assert_close
from tests.watch import watch

from .harness import HALVES, LAYOUTS, ODD, SIZES, held, planar


def norm(size=ODD, dtype=torch.float32, layout="contiguous", weight=None, residual=False, running=True, c=0.9, **rest):
    """Forward, running power and every gradient. ``weight``: its dtype, or None; ``c`` None: no ReLU."""
    tensors = {"z": planar(size, dtype)}
    if running:
        tensors["running_power"] = torch.rand(size[1]) + 0.5
    if weight:
        tensors["weight"] = (torch.rand(size[1]) + 0.5).to(weight)
    if residual:
        tensors["residual"] = planar(size, dtype)

    def call(**given):
        if c is None:
            return F.magnitude_batch_norm(**given, **rest)
        return F.batch_norm_relu(**given, c=c, **rest)

    # differentiated from an output rounded once, it is held to two roundings: the row of several operations
    kind = "network" if dtype in HALVES else "op"
    return held(call, tensors, ("z", "residual"), layout, ("running_power",), kind)


FORMS = {
    "training": {"training": True},
    "inference": {},
    "training-weight": {"training": True, "weight": torch.float32},
    "inference-weight": {"weight": torch.float32},
    "training-residual": {"training": True, "residual": True},
    "inference-residual-weight": {"residual": True, "weight": torch.float32},
    "training-residual-weight": {"training": True, "residual": True, "weight": torch.float32},
    "batch-statistics": {"running": False},
    "norm-training": {"training": True, "c": None},
    "norm-training-weight": {"training": True, "c": None, "weight": torch.float32},
    "norm-inference": {"c": None},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form(layout, form):
    seen = norm(layout=layout, **form)
    batch = form.get("training", False) or not form.get("running", True)
    assert len(seen.launches) == (2 if batch else 1) + (2 if batch or "weight" in form else 1)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_sizes(size):
    layout = "channels-last" if size in ((3, 11, 3, 3), (2, 16, 4, 8)) else "contiguous"
    norm((1, 1, 2, 1) if size == (1, 1, 1, 1) else size, layout=layout, weight=torch.float32, training=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(dtype, layout):
    norm(dtype=dtype, layout=layout, weight=dtype, training=True)
    norm(dtype=dtype, layout=layout, weight=torch.float32, residual=True, training=True)
    norm(dtype=dtype, layout=layout, c=None, weight=torch.float32, training=True)


@pytest.mark.full_tiles
def test_the_tiles_of_a_release():
    for layout in LAYOUTS:
        norm((3, 2, 37, 31), layout=layout, residual=True, training=True)


@pytest.mark.parametrize(("size", "layout"), [((34, 2, 3, 5), "contiguous"), ((18, 3, 2, 2), "channels-last")])
def test_more_partial_sums_than_are_added_up_at_once(size, layout, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "MULTIPROCESSORS", 40)
    norm(size, layout=layout, weight=torch.float32, training=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_partial_sums_that_are_read_together_lie_together(layout):
    z = LAYOUTS[layout](planar(ODD))
    partial, walk = power_sums(z)
    assert walk.programs > 1
    shares = partial.view(-1, 5).sum(0) if layout == "channels-last" else partial.view(5, -1).sum(1)
    assert_close(shares, z.square().sum((0, 1, 3, 4)))


@pytest.mark.full_tiles
@pytest.mark.parametrize("size", [(128, 16, 32, 32), (128, 64, 8, 8), (32, 64, 56, 56), (32, 256, 56, 56)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_partial_sums_are_few_beside_the_feature_and_made_by_the_whole_gpu(layout, size):
    n, c, h, w = size
    order = (0, 3, 4, 1, 2) if layout == "channels-last" else range(5)
    shape = (n, 2, c, h, w)
    z = torch.empty([shape[d] for d in order], device="meta").permute([list(order).index(d) for d in range(5)])
    t = tiles.Tiles.of(z)
    assert t.LAST == (layout == "channels-last")
    read_again = t.writers * t.blocks * t.programs * (t.COLUMNS if t.LAST else 1)
    assert read_again <= 2 * z.numel() / 2  # of what is read and written
    assert min(t.tiles * t.blocks, 2 * tiles.MULTIPROCESSORS) <= t.programs * t.blocks


@pytest.mark.parametrize("count", [torch.tensor(3), torch.tensor([4.0])], ids=["int", "float"])
def test_the_running_power_by_a_count_of_batches(count):
    norm(training=True, momentum=count)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_sums_given_are_sums_taken(layout):
    z, r = (LAYOUTS[layout](planar((5, 3, 7, 4))) for _ in range(2))
    w, before = torch.rand(3) + 0.5, torch.rand(3)
    powers, found = [before.clone(), before.clone()], []
    sums = z.square().sum((0, 1, 3, 4))
    with watch() as seen:
        found.append(kernels.batch_norm_relu_forward(z, powers[0], w, r, None, True, 0.1, 1e-5, 0.9))
        found.append(kernels.batch_norm_relu_summed_forward(z, sums, powers[1], w, r, None, 0.1, 1e-5, 0.9))
    assert len(seen.launches) == 3
    for name, want, got in zip(("y", "rstd"), *found, strict=True):
        assert_close(got, want, name=name)
    assert_close(powers[1], powers[0], name="running power")
    summed = torch.ops.cvkernels_triton.batch_norm_relu_summed_forward.default
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(summed, (z, sums, None, w, r, None, 0.1, 1e-5, 1.0), test_utils=checks)


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
