"""Dropout: one mask for both parts."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels.backend import compiled
from tests.close import assert_close
from tests.conftest import HALVES

from .harness import COMPLEX, PLANAR, gradients, in_layout_of, leaves, plain, same, with_lanes

OP = "dropout"
BOTH = {"dropout": F.dropout, "dropout2d": F.dropout2d}
both = pytest.mark.parametrize("drop", BOTH.values(), ids=BOTH)


def ones(backend, dtype, *shape):
    return torch.ones(*shape, dtype=dtype, device=backend.device)


@both
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_of_p_is_zero_and_the_rest_is_scaled(backend, dtype, drop, p):
    z = ones(backend, dtype, 100, 2, 50, 3, 3)
    y = drop(z, p)
    assert same(y[:, 0], y[:, 1]), "one mask for both parts"
    kept = y != 0
    assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), dtype)
    draws = y[:, 0].numel() if drop is F.dropout else 100 * 50
    share, spread = kept.double().mean().item(), (p * (1 - p) / draws) ** 0.5
    assert abs(share - (1 - p)) < 6 * spread, "six standard deviations"


RANDOM123 = [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]  # its known answer: Philox 4x32-7, seed and counter 0


def philox(counter: int, piece: int = 0) -> list[int]:
    """The words of a counter with the seed 0, of a feature's first task."""
    a, b, c, d, key, other = counter, piece, 0, 0, 0, 0
    for _ in range(7):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = q >> 32 ^ b ^ key, q % 2**32, p >> 32 ^ d ^ other, p % 2**32
        key, other = (key + 0x9E3779B9) % 2**32, (other + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def is_kept(i: int, limit: int, channels: bool) -> bool:
    """Whether the kernel keeps channel ``i`` of a sample of one position, at the probability ``limit`` / 2^48."""
    z, seed = torch.ones(1, 2, 256, 1), torch.zeros(1, dtype=torch.int64)
    return bool(torch.ops.cvkernels.dropout_forward.default(z, seed, limit / 2**48, channels)[0, 0, i, 0])


@pytest.mark.parametrize("counter, word", [(c, w) for c in (0, 3, 17) for w in range(4)])
def test_the_kernel_draws_philoxs_words(kernel, counter, word):
    """What it decides on, between a probability just above it and one just below."""
    assert philox(0) == RANDOM123
    drawn = philox(counter)[word]
    at = counter // 16 * 64 + 16 * word + counter % 16
    assert is_kept(at, drawn << 16, True) and not is_kept(at, drawn + 1 << 16, True)
    for i, half in ((2 * at, drawn % 2**16), (2 * at + 1, drawn >> 16)):  # a word decides on two elements
        assert is_kept(i, half << 32, False) and not is_kept(i, half + 1 << 32, False)
        own = philox(i, 2**31)[0]  # and where the limit begins with its half, another one does
        assert is_kept(i, (half << 32) + own, False) and not is_kept(i, (half << 32) + own + 1, False)


LANES = """
import torch
found = []
for seed in (0, -3, 2**61 + 5):
    for shape in ((2, 2, 3, 5), (1, 2, 5000, 3), (3, 2, 7, 700)):
        z = torch.ones(shape)
        for layout in (z, z.movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2))):
            y = torch.ops.cvkernels.dropout_forward.default(layout, torch.tensor([seed]), 0.5, False)
            found.append(y[:, 0].flatten() != 0)
bits = torch.cat(found).long()
print(int((bits * (torch.arange(len(bits)) * 2654435761 % 2**31)).sum()))
"""


def test_each_width_of_vector_draws_the_same():
    if not compiled:
        pytest.skip("nothing compiled")
    said = {with_lanes("import cvkernels.functional\n" + LANES, lanes) for lanes in ("4", "8", "16")}
    assert len(said) == 1 and int(said.pop()) > 0


@both
@pytest.mark.parametrize("shape", [(3, 2, 5000, 1, 2), (2, 2, 7, 90, 91), (2, 2, 100, 9, 9)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "interleaved"])
def test_what_is_drawn_has_no_place_twice_and_is_the_same_with_any_number_of_threads(kernel, drop, shape, layout):
    """Runs longer than one drawing, several samples, and rows of channels together: no two alike but by chance."""
    drawn = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(4)
        drawn.append(drop(PLANAR[layout](torch.ones(shape)), 0.5))
    assert same(*drawn) and same(drawn[0][:, 0], drawn[0][:, 1])
    mask = drawn[0][:, 0].movedim(1, -1) != 0  # channels last, where the kernel walks them so
    mask = mask[:, 0, 0] if drop is F.dropout2d else mask
    flat = mask.flatten(1)
    flat = flat[:, : flat.shape[1] // 50 * 50].reshape(-1, 50)
    assert len(flat.unique(dim=0)) == len(flat)


def test_dropout2d_drops_whole_channels(backend):
    y = F.dropout2d(ones(backend, torch.float32, 20, 2, 30, 4, 5)).flatten(3)
    assert same(y, y[..., :1].expand_as(y)) and 0 < y[:, 0, :, 0].count_nonzero() < 600


@both
def test_nothing_happens_in_inference_or_at_p_0_and_all_goes_at_p_1(backend, dtype, drop):
    z = torch.randn(3, 2, 4, 5, 6, dtype=dtype, device=backend.device)
    assert same(drop(z, 0.5, training=False), z) and same(drop(z, 0.0), z)
    assert not drop(z, 1.0).any()


@both
def test_the_seed_is_the_cpus_whatever_the_default_device(drop):
    z = torch.ones(2, 2, 30, 5)
    torch.manual_seed(5)
    want = drop(z)
    torch.manual_seed(5)
    with torch.device("meta"):
        assert same(drop(z), want)


@both
def test_one_seed_repeats_a_run_and_the_next_draw_differs(backend, drop):
    z = ones(backend, torch.float32, 8, 2, 30, 5, 5)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append((drop(z), drop(z)))
    assert same(draws[0][0], draws[1][0]) and same(draws[0][1], draws[1][1]) and not same(*draws[0])


@both
@pytest.mark.parametrize("layout", (PLANAR | COMPLEX).values(), ids=PLANAR | COMPLEX)
def test_layouts(backend, dtype, drop, layout):
    """The mask is read back from the output: value, gradient and layout follow from it."""
    if layout in COMPLEX.values() and dtype in HALVES:
        pytest.skip("torch has no such complex dtype")
    # of absolute value 1/2 at least: torch 2.11 draws zeros in bfloat16
    drawn = torch.randn(3, 2, 4, 5, 6)
    tensors = leaves({"z": (drawn + drawn.sign() / 2).to(backend.device, dtype)})
    z = layout(tensors["z"])
    before = z.detach().clone()
    y = drop(z, 0.3)
    mask = (plain(y.detach()) != 0).double() / 0.7
    assert_close(y, plain(z.detach()) * mask, z.dtype)
    (grad,) = gradients(y, tensors, [torch.ones_like(y)]).values()
    want = torch.autograd.grad(layout(tensors["z"]), tensors["z"], layout_like(mask, y))[0]
    assert_close(grad, want, dtype) and same(z, before)
    assert in_layout_of(y, z) or layout is PLANAR["interleaved"]


def layout_like(mask, y):
    """The gradient of sum(re) where ``y`` is complex, of the plain sum where it is planar."""
    mask = mask.to(y.device)
    return mask[:, 0].to(y.dtype) if y.is_complex() else mask.to(y.dtype)


@both
def test_differentiable_twice(drop):
    z = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def seeded(z):
        torch.manual_seed(3)
        return drop(z, 0.4)

    assert torch.autograd.gradcheck(seeded, (z,)) and torch.autograd.gradgradcheck(seeded, (z,))


@both
@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 4), (2, 2, 3, 0, 4), (2, 2, 0), (4, 2, 3), (4, 2, 3, 5)], ids=str)
def test_any_shape(backend, drop, shape):
    assert drop(torch.randn(shape, device=backend.device)).shape == shape


@both
def test_func_grad_and_vmap(drop):
    z = torch.randn(3, 2, 4, 5, 6)
    torch.manual_seed(1)
    mask = drop(torch.ones_like(z), 0.5)
    torch.manual_seed(1)
    grad = torch.func.grad(lambda z: drop(z, 0.5).sum())(z)
    assert same(grad, mask)
    mapped = torch.func.vmap(lambda z: drop(z, 0.5), randomness="different")(
        z.unsqueeze(1).expand(-1, 2, -1, -1, -1, -1)
    )
    assert mapped.shape == (3, 2, *z.shape[1:]) and same(mapped[:, :, 0] == 0, mapped[:, :, 1] == 0)


@both
def test_compiled_equals_eager(drop):
    torch._dynamo.reset()
    z = torch.randn(3, 2, 4, 5, 6, requires_grad=True)
    compiled = torch.compile(lambda z: drop(z, 0.5), fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    want = drop(z, 0.5)
    torch.manual_seed(2)
    got = compiled(z)
    assert same(got, want)
    assert same(*(torch.autograd.grad(y.sum(), z)[0] for y in (got, want)))


@both
def test_a_gradient_in_other_strides_meets_the_same_mask(backend, drop):
    leaf = torch.randn(3, 2, 4, 5, 6, device=backend.device, requires_grad=True)
    for layout in PLANAR.values():
        y = drop(layout(leaf), 0.5)
        (want,) = torch.autograd.grad(y, leaf, torch.ones_like(y), retain_graph=True)
        for grad_layout in PLANAR.values():
            (got,) = torch.autograd.grad(y, leaf, grad_layout(torch.ones_like(y)), retain_graph=True)
            assert same(got, want)


@both
def test_nan_and_inf_as_torchs_dropout(backend, dtype, drop):
    z = ones(backend, dtype, 20, 2, 30, 4)
    z[..., 1], z[..., 2] = torch.nan, torch.inf
    y = drop(z)
    assert y[..., 1].isnan().all() and (y[..., 2].isnan() | y[..., 2].isinf()).all() and y[..., 2].isnan().any()


@both
def test_forward_mode(backend, drop):
    z = torch.randn(8, 2, 30, 4, device=backend.device)  # so many channels that some stay
    with torch.autograd.forward_ad.dual_level():
        dual = drop(torch.autograd.forward_ad.make_dual(z, torch.ones_like(z)), 0.5)
        value, tangent = torch.autograd.forward_ad.unpack_dual(dual)
    assert same(tangent != 0, value != 0) and tangent.any()


@both
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_is_a_probability(drop, p):
    with pytest.raises(ValueError, match="`p` must lie in .0, 1., got"):
        drop(torch.zeros(1, 2, 3), p)
