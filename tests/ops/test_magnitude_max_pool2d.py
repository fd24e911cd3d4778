"""Of each window the element of largest modulus: values, indices, ties, NaN, windows of every kind."""

import pytest
import torch
from torch.nn import functional as real

import cvkernels.functional as F
from cvkernels import backend as house
from cvkernels import use_backend
from cvkernels.backend import compiled
from tests.close import as_planar, assert_close
from tests.conftest import HALVES

from .harness import MAPS, compare, wide, with_lanes
from .suite import KernelSuite, form

OP = "magnitude_max_pool2d"
WINDOWS = {
    "2": dict(kernel_size=2),
    "3-stride-2-padding-1": dict(kernel_size=3, stride=2, padding=1),
    "overlapping": dict(kernel_size=3, stride=1),
    "oblong": dict(kernel_size=(2, 3), stride=(1, 2), padding=(1, 0)),
    "dilated": dict(kernel_size=2, stride=1, padding=1, dilation=(2, 1)),
    "ceil": dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
    "gaps": dict(kernel_size=1, stride=3),
}


def fits(size, window) -> bool:
    try:
        real.max_pool2d(torch.zeros(1, *size[1:]), **window)
    except RuntimeError:
        return False
    return True


class TestMagnitudeMaxPool2d(KernelSuite):
    OP = OP
    FORMS = {name: form("z", **window) for name, window in WINDOWS.items()}
    SIZES = MAPS
    EMPTY = ((0, 3, 4, 4),)
    fn = staticmethod(F.magnitude_max_pool2d)

    def skip(self, form, size):
        return None if fits(size, form.kwargs) else "the window does not fit: tested in test_output_of_no_size"


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_indices_and_values_are_those_of_torch_on_the_moduli(backend, dtype, window):
    z = torch.randn(2, 2, 3, 8, 9, dtype=dtype, device=backend.device)
    y, index = F.magnitude_max_pool2d(z, **window, return_indices=True)
    _, want = real.max_pool2d(z.to(wide(dtype)).square().sum(1), **window, return_indices=True)
    assert index.dtype == torch.int64 and torch.equal(index, want)
    picked = z.flatten(3).gather(3, want.flatten(2).unsqueeze(1).expand(-1, 2, -1, -1)).view(y.shape)
    assert torch.equal(y, picked) and torch.equal(y, F.magnitude_max_pool2d(z, **window))


def test_the_index_is_a_byte(kernel, dtype):
    z = torch.randn(2, 2, 3, 8, 9, dtype=dtype, device=kernel.device)
    window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    _, index = house.operators(kernel.name).magnitude_max_pool2d_forward.default(z, *window)
    assert index.dtype == torch.uint8 and index.shape == (2, 3, 4, 4)


def test_by_hand(backend):
    z = torch.tensor([[1, 2j, 3 + 4j], [-6, 0, 5j], [1, 1, 1 - 1j]]).view(1, 1, 3, 3).to(backend.device)
    y, index = F.magnitude_max_pool2d(z, 2, stride=1, return_indices=True)
    # |5j| = |3 + 4j|: the first of the window wins
    assert y.flatten().tolist() == [-6, 3 + 4j, -6, 5j] and index.flatten().tolist() == [3, 2, 3, 5]


def test_the_first_in_row_major_order_wins_a_tie(backend, dtype):
    z = torch.tensor([3 + 4j, 5, -5j, -4 - 3j], dtype=torch.complex128).view(1, 1, 2, 2)
    for turn in range(4):
        turned = z.flatten().roll(turn).view(z.shape)
        given = as_planar(turned).to(backend.device, dtype)
        y, index = F.magnitude_max_pool2d(given, 2, return_indices=True)
        assert index.item() == 0
        assert_close(y, turned[..., :1, :1], dtype)
    equal = torch.ones(1, 2, 2, 9, 37, dtype=dtype, device=backend.device)
    _, index = F.magnitude_max_pool2d(equal, 3, stride=2, padding=1, return_indices=True)
    assert torch.equal(index, real.max_pool2d(equal[:, 0], 3, 2, 1, return_indices=True)[1])


@pytest.mark.parametrize("part", [0, 1], ids=["real", "imaginary"])
def test_nan_wins_over_all(backend, dtype, part):
    z = torch.randn(1, 2, 2, 6, 6, dtype=dtype)
    z[0, :, :, 2, 2] = torch.inf
    z[0, part, :, 2, 3] = torch.nan
    y, index = F.magnitude_max_pool2d(z.to(backend.device), 3, stride=3, return_indices=True)
    # of NaN itself and of inf the first stands in another window
    assert index[0, :, 0, 1].tolist() == [15, 15] and y[0, part, :, 0, 1].isnan().all()
    assert index[0, :, 0, 0].tolist() == [14, 14] and y[0, :, :, 0, 0].isposinf().all()


def test_the_first_nan_wins_over_later_ones(backend):
    z = torch.zeros(1, 2, 1, 4, 4, device=backend.device)
    z[0, 1, 0, 1, 2] = z[0, 0, 0, 2, 0] = z[0, 0, 0, 3, 3] = torch.nan
    assert F.magnitude_max_pool2d(z, 4, return_indices=True)[1].item() == 6


def test_overlapping_windows_add_their_gradients(backend, dtype):
    z = torch.zeros(1, 2, 1, 5, 5, dtype=dtype)
    z[0, :, 0, 2, 2] = torch.tensor([3.0, -4.0])
    z = z.to(backend.device).requires_grad_()
    y = F.magnitude_max_pool2d(z, 3, stride=1)
    incoming = torch.arange(18, dtype=dtype, device=backend.device).view(y.shape)
    (grad,) = torch.autograd.grad(y, z, incoming)
    want = torch.zeros_like(z)
    want[0, :, 0, 2, 2] = incoming.sum((0, 2, 3, 4))
    assert torch.equal(grad, want)


def test_squares_are_compared_where_they_overflow_and_underflow(backend):
    """Equal squares tie: inf with inf, 0 with 0; nothing becomes NaN."""
    z = torch.tensor([1e25, 3e25, 1e-30, 1e-25]).view(1, 1, 1, 2, 2)
    z = torch.cat((z, torch.zeros_like(z)), 1).to(backend.device)
    y, index = F.magnitude_max_pool2d(z, (1, 2), return_indices=True)
    assert index.flatten().tolist() == [0, 2] and y.isfinite().all()


def test_a_window_of_padding_only(backend):
    """A dilated window can miss a small map: 0, index -1, no gradient; torch gives it an index outside."""
    z = torch.randn(1, 2, 2, 1, 1, device=backend.device, requires_grad=True)
    window = dict(kernel_size=2, stride=1, padding=1, dilation=2)
    y, index = F.magnitude_max_pool2d(z, **window, return_indices=True)
    assert y.shape[3:] == (1, 1) and not y.any() and (index == -1).all()
    (grad,) = torch.autograd.grad(y.sum(), z)
    assert not grad.any()


@pytest.mark.parametrize("kernel_size", [(15, 17), (16, 16), (1, 300)], ids=str)
def test_windows_at_and_beyond_what_a_byte_counts(backend, dtype, kernel_size):
    z = torch.randn(2, 2, 2, 20, 310, dtype=dtype, device=backend.device)
    _, index = F.magnitude_max_pool2d(z, kernel_size, stride=3, return_indices=True)
    assert torch.equal(
        index, real.max_pool2d(z.to(wide(dtype)).square().sum(1), kernel_size, 3, return_indices=True)[1]
    )
    if dtype not in HALVES:  # one winner among 255: its one rounding is beyond what the RMS of so many zeros allows
        compare(lambda z: F.magnitude_max_pool2d(z, kernel_size, stride=3), {"z": z}, ("z",))


BAD = {
    "kernel-beyond-the-map": ((2, 3, 4, 4), dict(kernel_size=5)),
    "no-rows": ((2, 3, 0, 4), dict(kernel_size=1)),
    "dilation-beyond-the-map": ((2, 3, 4, 4), dict(kernel_size=3, dilation=2)),
}


@pytest.mark.parametrize("size, window", BAD.values(), ids=BAD)
def test_output_of_no_size(backend, size, window):
    """torch's wording; where torch counts channels of its input we count complex ones."""
    z = torch.zeros(size[0], 2, *size[1:], device=backend.device)
    with pytest.raises(RuntimeError) as ours:
        F.magnitude_max_pool2d(z, **window)
    assert "Output size is too small" in str(ours.value)
    if size[2]:
        with pytest.raises(RuntimeError) as torchs:
            real.max_pool2d(torch.zeros(size), **window)
        assert str(torchs.value) == str(ours.value)


@pytest.mark.parametrize(
    "window, words",
    [
        (dict(kernel_size=0), "`kernel_size` must be >= 1, got .0, 0."),
        (dict(kernel_size=2, stride=0), "`stride` must be >= 1"),
        (dict(kernel_size=2, padding=-1), "`padding` must be >= 0"),
        (dict(kernel_size=2, padding=2), "`padding` must be at most half of kernel_size .2, 2., got .2, 2."),
        (dict(kernel_size=2, dilation=(0, 1)), "`dilation` must be >= 1"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_windows_that_are_none(window, words):
    with pytest.raises(ValueError, match=words):
        F.magnitude_max_pool2d(torch.zeros(1, 2, 1, 8, 8), **window)


@pytest.mark.parametrize("kernel_size", [2.0, (1, 2, 3), "2", None], ids=str)
def test_kernel_size_is_an_int_or_a_pair(kernel_size):
    with pytest.raises(TypeError, match="`kernel_size` must be an int or a pair of ints"):
        F.magnitude_max_pool2d(torch.zeros(1, 2, 1, 8, 8), kernel_size)


def test_offsets_beyond_32_bits(kernel, tmp_path):
    """A map of more than 2^31 elements in a sparse file, of which a wide stride reads a few."""
    if kernel.device != "cpu":
        pytest.skip("the file cannot be mapped into a device's memory: test_large covers it there")
    H, W, step = 2**12 + 1, 2**19, 2**12
    z = torch.from_file(str(tmp_path / "z"), shared=True, size=2 * H * W).view(1, 2, 1, H, W)
    z[0, 0, 0, step, W - step], z[0, 1, 0, step, W - step], z[0, 1, 0, step, 0] = 3.0, -4.0, 7.0
    y, index = F.magnitude_max_pool2d(z, 1, stride=step, return_indices=True)
    assert y[0, :, 0, 1, -1].tolist() == [3.0, -4.0] and y[0, :, 0, 1, 0].tolist() == [0.0, 7.0]
    assert y.count_nonzero() == 3 and index[0, 0, 1, -1].item() == step * W + W - step > 2**31


def test_the_reference_agrees_with_the_kernel_on_which_wins(kernel, dtype):
    z = torch.randint(-2, 3, (2, 2, 3, 13, 17)).to(kernel.device, dtype)  # many ties
    got = F.magnitude_max_pool2d(z, 3, stride=2, padding=1, return_indices=True)
    with use_backend("reference"):
        want = F.magnitude_max_pool2d(z, 3, stride=2, padding=1, return_indices=True)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


LANES = """
import torch, cvkernels.functional as F
from cvkernels import use_backend
torch.manual_seed(0)
sizes = (8, 8), (16, 16), (32, 32), (56, 56), (4, 4), (2, 2), (3, 2), (5, 6), (9, 8), (7, 17), (3, 70), (10, 20), (2, 8)
for size in sizes:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = torch.randint(-2, 3, (2, 2, 3, *size)).to(dtype)  # many ties
        z.view(-1)[::7] += torch.randn(z.numel() // 7 + 1)[: z.view(-1)[::7].numel()].to(dtype)
        z.view(-1)[3::29], z.view(-1)[8::31], z.view(-1)[::37] = torch.nan, -torch.nan, torch.inf
        found = []
        for backend in ("cpu", "reference"):
            with use_backend(backend):
                leaf = z.clone().requires_grad_()
                y, index = F.magnitude_max_pool2d(leaf, 2, return_indices=True)
                torch.manual_seed(1)
                (grad,) = torch.autograd.grad(y, leaf, torch.randn(y.shape).to(dtype))
                found.append((y, index, grad))
        for got, want in zip(*found):
            assert torch.equal(got.nan_to_num(9.0), want.nan_to_num(9.0)), (size, dtype)
print("done")
"""


@pytest.mark.skipif(not compiled, reason="nothing compiled")
@pytest.mark.parametrize("lanes", ["4", "8", "16"])
def test_pairs_of_rows_and_columns_in_vectors_of_each_width(lanes):
    """2x2 windows, to the bit: rows of one vector, of several, of half a one, and what is left at their ends."""
    assert with_lanes(LANES, lanes) == "done"
