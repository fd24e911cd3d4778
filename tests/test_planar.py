"""The house type: conversions, layouts, and what they do to gradients."""

import pytest
import torch

import cvkernels
import cvkernels.functional as F
from cvkernels import planar
from tests.ops.harness import COMPLEX, PLANAR, plain, same

DTYPES = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def draw(*shape, dtype=torch.complex64):
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize(
    "shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5), (0, 3, 4, 4), (2, 3, 0, 4)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back(shape, dtype):
    z = draw(*shape, dtype=dtype)
    p = cvkernels.to_planar(z)
    assert p.shape == (shape[0], 2, *shape[1:]) and p.dtype == DTYPES[dtype] and p.is_contiguous()
    assert same(p[:, 0], z.real) and same(p[:, 1], z.imag)
    back = cvkernels.to_complex(p)
    assert back.dtype == dtype and back.is_contiguous() and same(back, z)


def test_what_is_there_already_is_returned():
    z, p = draw(2, 3, 4, 5), torch.randn(2, 2, 3, 4, 5)
    assert cvkernels.to_complex(z) is z and cvkernels.to_planar(p) is p
    last = cvkernels.to_channels_last(p)
    assert cvkernels.to_channels_last(last) is last


@pytest.mark.parametrize("layout", COMPLEX.values(), ids=COMPLEX)
def test_to_planar_reads_any_complex_strides(layout):
    z = layout(torch.randn(3, 2, 4, 5, 6))
    assert same(cvkernels.to_planar(z), plain(z).float())


@pytest.mark.parametrize("layout", PLANAR.values(), ids=PLANAR)
def test_to_complex_reads_any_planar_strides(layout):
    z = layout(torch.randn(3, 2, 4, 5, 6))
    assert same(cvkernels.to_complex(z), plain(z).float())


@pytest.mark.parametrize("layout", PLANAR.values(), ids=PLANAR)
def test_channels_last_keeps_values_and_is_channels_last_as_one_real_tensor(layout):
    z = layout(torch.randn(3, 2, 4, 5, 6))
    last = cvkernels.to_channels_last(z)
    assert same(last, plain(z).float()) and planar.is_channels_last(last)
    flat = last.flatten(1, 2)
    assert flat.is_contiguous(memory_format=torch.channels_last) and flat.data_ptr() == last.data_ptr()


def test_a_real_weight_and_a_block_weight_need_no_copy_of_a_contiguous_feature():
    z = torch.randn(3, 2, 4, 5, 6)
    assert z.flatten(0, 1).data_ptr() == z.data_ptr() == z.flatten(1, 2).data_ptr()


@pytest.mark.parametrize("lazy", [torch.conj, lambda z: torch._neg_view(z)], ids=["conjugate", "negative"])
def test_lazy_views_are_resolved_at_the_door(lazy):
    for z in (lazy(draw(2, 3, 4)), torch._neg_view(torch.randn(2, 2, 3, 4))):
        entered, was_complex = planar.enter(z)
        assert was_complex == z.is_complex() and not entered.is_neg() and not entered.is_conj()
        assert same(entered, plain(z).float())


def test_gradients_pass_both_ways():
    z = draw(2, 3, 4, dtype=torch.complex128).requires_grad_()
    p = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cvkernels.to_planar, (z,))
    assert torch.autograd.gradcheck(cvkernels.to_complex, (p,))
    assert torch.autograd.gradcheck(cvkernels.to_channels_last, (p,))
    (grad,) = torch.autograd.grad(cvkernels.to_planar(z).select(1, 1).sum(), z)
    assert same(grad, torch.full_like(z, 1j)), "∂L/∂a + i ∂L/∂b"


@pytest.mark.parametrize("layout", PLANAR.values(), ids=PLANAR)
def test_dense_copies_only_what_is_in_none_of_the_three_layouts(layout):
    z = layout(torch.randn(3, 2, 4, 5, 6))
    kept = planar.dense(z.resolve_neg())
    assert same(kept, z)
    dense = layout in (PLANAR[k] for k in ("contiguous", "channels-last", "interleaved", "off-by-one"))
    assert (kept.data_ptr() == z.data_ptr()) == dense
    assert sum((s - 1) * t for s, t in zip(kept.shape, kept.stride(), strict=True)) == z.numel() - 1, "no gaps"


@pytest.mark.parametrize("name", ["contiguous", "channels-last", "interleaved"])
def test_laid_out_brings_a_result_into_the_layout_that_came_in(name):
    z, out = PLANAR[name](torch.randn(3, 2, 4, 5, 6)), torch.randn(3, 2, 7, 2, 3)
    result = planar.laid_out(out, z)
    assert same(result, out) and result.stride() == PLANAR[name](out).stride()


@pytest.mark.parametrize(
    "function, z, error, words",
    [
        (cvkernels.to_planar, torch.zeros(2, 3, 4), ValueError, "second axis is not the two parts"),
        (cvkernels.to_complex, torch.zeros(2, 2, dtype=torch.long), TypeError, "`z` must be floating point"),
        (cvkernels.to_complex, torch.zeros(2, 2, 3).half(), TypeError, "`z` must be float32 or float64"),
        (cvkernels.to_channels_last, torch.zeros(2, 2, 3, 4), ValueError, "[N, 2, C, H, W]"),
        (cvkernels.to_channels_last, torch.zeros(2, 3, 4, 4, dtype=torch.complex64), TypeError, "to_planar"),
    ],
    ids=["parts", "integers", "half", "not-2d", "complex"],
)
def test_what_is_no_feature_is_refused(function, z, error, words):
    with pytest.raises(error) as caught:
        function(z)
    assert words in str(caught.value)


def test_a_complex_tensor_at_an_odd_address_is_a_copy():
    z = torch.randn(9)[1:].view(4, 2, 1)
    assert same(cvkernels.to_complex(z), z.clone())
    with cvkernels.use_backend("reference"):
        assert same(F.magnitude_relu(z), F.magnitude_relu(z.clone()))


EMPTY = {
    "magnitude_relu": F.magnitude_relu,
    "magnitude_relu-mean": lambda z: F.magnitude_relu(z, "channel_mean"),
    "magnitude_batch_norm": F.magnitude_batch_norm,
    "batch_norm_relu": lambda z: F.batch_norm_relu(z, residual=z),
    "magnitude_power": F.magnitude_power,
    "rotate_phase": lambda z: F.rotate_phase(z, torch.zeros(z.shape[0], device=z.device)),
    "unrotate": lambda z: F.unrotate(z, torch.zeros(z.shape[0], device=z.device)),
    "dropout": F.dropout,
    "dropout2d": F.dropout2d,
    "there-and-back": lambda z: cvkernels.to_complex(cvkernels.to_planar(z)),
    # what torch itself takes of no samples only
    "avg_pool2d": lambda z: F.avg_pool2d(z, 2),
    "magnitude_max_pool2d": lambda z: F.magnitude_max_pool2d(z, 2),
    "conv2d": lambda z: F.conv2d(z, torch.ones(2, 2, 3, 3, 3, device=z.device)),
    "linear": lambda z: F.linear(z[..., 0, 0], torch.ones(2, 5, 3, device=z.device)),
}


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_complex_feature_has_a_gradient(backend, name, shape):
    if name in list(EMPTY)[-4:] and shape[0]:
        pytest.skip("torch's own refuses it")
    z = torch.zeros(shape, dtype=torch.complex64, requires_grad=True, device=backend.device)
    (grad,) = torch.autograd.grad(EMPTY[name](z).abs().sum(), z)
    assert grad.shape == z.shape and grad.dtype == z.dtype
