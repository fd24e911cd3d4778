"""The walk: what crosses between the stages, and where the key may come from."""

import pytest
import torch
from torch import nn

import cvkernels.functional as F
from models.split import OpenModel, PairModel, SplitModel
from tests.close import assert_close


def features(x):
    return x.repeat(1, 2, 1, 1) * torch.arange(1.0, 7).view(6, 1, 1)


@pytest.fixture
def walk():
    """Stages that change nothing but the number of channels: the logits must be the features."""

    class Encoder(nn.Module):
        def forward(self, x):
            return features(x)

    return SplitModel(Encoder(), nn.Identity(), nn.Flatten())


@pytest.fixture
def batch():
    return torch.randn(5, 3, 4, 4), torch.linspace(0.2, 6.0, 5)


def test_key_and_its_reverse_leave_the_logits(walk, batch):
    x, theta = batch
    assert_close(walk(x, theta), features(x).flatten(1))


def test_b_by_index_is_b_by_features(walk, batch):
    x, theta = batch
    index = torch.tensor([1, 2, 3, 4, 0])
    a = walk.encode(x)
    z = walk.conceal(a, theta, index)
    assert z.shape == (5, 2, 6, 4, 4)
    assert_close(z, walk.conceal(a, theta, a[index]))
    assert_close(z, F.rotate(a, a[index], theta))


def test_b_left_out_is_another_image(walk, batch):
    x, theta = batch
    a = walk.encode(x)
    assert_close(walk.conceal(a, theta, None), F.rotate(a, a.roll(1, 0), theta))


def test_batch_of_one_needs_b(walk, batch):
    x, theta = batch
    with pytest.raises(ValueError, match="`b` must be given for a batch of one.*pass the features"):
        walk(x[:1], theta[:1])
    assert_close(walk(x[:1], theta[:1], features(x[1:2])), features(x[:1]).flatten(1))


def test_b_of_the_wrong_shape_is_named(walk, batch):
    x, theta = batch
    with pytest.raises(ValueError, match=r"`b` must have the shape .*\[5, 6, 4, 4\], got \[5, 3, 4, 4\]"):
        walk(x, theta, x)
    with pytest.raises(
        ValueError, match=r"`b` as an index must hold one integer per image, \[5\], got torch.int64 \[4\]"
    ):
        walk(x, theta, torch.arange(4))


def test_the_key_is_no_attribute(walk, batch):
    before = set(vars(walk))
    walk(*batch)
    assert set(vars(walk)) == before
    assert not list(walk.buffers())


def test_detached_b_gets_no_gradient(batch):
    x, theta = batch
    x.requires_grad_()
    other = torch.randn(5, 3, 4, 4, requires_grad=True)
    for detach in (False, True):
        walk = SplitModel(nn.Identity(), nn.Identity(), nn.Flatten(), detach_b=detach)
        (grad,) = torch.autograd.grad(walk.conceal(x, theta, other).sum(), other, allow_unused=True)
        assert (grad is None) is detach


def test_swapped_samples_cross_the_other_way_round_and_are_decoded_all_the_same(walk, batch):
    x, theta = batch
    swap = torch.tensor([True, False, False, True, True])
    a = walk.encode(x)
    z, plain, other = walk.conceal(a, theta, None, swap), walk.conceal(a, theta, None), a.roll(1, 0)
    assert_close(z[~swap], plain[~swap])
    assert_close(z[swap], F.rotate(other, a, theta)[swap])
    assert_close(walk(x, theta, None, swap), a.flatten(1))
    assert (walk.reveal(z, theta)[swap] != a.flatten(1)[swap]).any()  # a decoder that is not told sees the other image
    assert_close(walk.reveal(z, theta)[swap], other.flatten(1)[swap])
    assert walk.predict(x, theta, None, swap).shape == (5,)


def test_swap_of_the_wrong_kind_is_named(walk, batch):
    x, theta = batch
    with pytest.raises(TypeError, match=r"`swap` must hold one boolean a row, \[5\], got torch.int64 \[5\]"):
        walk(x, theta, None, torch.arange(5))
    with pytest.raises(ValueError, match=r"`swap` must hold one boolean a row, \[5\], got torch.bool \[4\]"):
        walk(x, theta, None, torch.ones(4, dtype=torch.bool))


def test_b_may_be_a_function_of_the_features(walk, batch):
    x, theta = batch
    a = walk.encode(x)
    assert_close(walk.conceal(a, theta, lambda a: 2 * a), F.rotate(a, 2 * a, theta))
    with pytest.raises(ValueError, match="`b` must have the shape"):
        walk(x, theta, lambda a: a[:2])


@pytest.mark.parametrize("swap", [None, torch.tensor([True, False, True])], ids=["as-they-are", "swapped"])
def test_pairs_cross_together_and_both_are_decoded(walk, swap):
    pairs = PairModel(walk.encoder, walk.processor, walk.decoder)
    x, theta = torch.randn(6, 3, 4, 4), torch.tensor([0.3, 2.0, 5.5])
    a = pairs.encode(x)
    z = pairs.conceal(a[:3], theta, a[3:], swap)
    assert z.shape == (3, 2, 6, 4, 4)
    assert_close(z[1], F.rotate(a[:3], a[3:], theta)[1])
    if swap is not None:
        assert_close(z[0], F.rotate(a[3:], a[:3], theta)[0])
    assert_close(pairs(x, theta, swap), features(x).flatten(1))
    assert pairs.predict(x, theta, swap).shape == (6,)
    with pytest.raises(ValueError, match="`x` must hold an even number of images, got 5"):
        pairs(x[:5], theta)


def test_open_walk_has_no_key(batch):
    x, _ = batch
    walk = OpenModel(nn.Identity(), nn.Identity(), nn.Flatten())
    assert not walk.keyed
    assert_close(walk(x), x.flatten(1))
    assert walk.conceal(x) is x
    with pytest.raises(TypeError):
        walk(x, torch.zeros(5))
