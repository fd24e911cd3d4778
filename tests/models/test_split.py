"""The walk: what crosses between the stages, and where the key may come from."""

import pytest
import torch
from torch import nn

import cvkernels.functional as F
from models.split import OpenModel, SplitModel
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


def test_open_walk_has_no_key(batch):
    x, _ = batch
    walk = OpenModel(nn.Identity(), nn.Identity(), nn.Flatten())
    assert not walk.keyed
    assert_close(walk(x), x.flatten(1))
    assert walk.conceal(x) is x
    with pytest.raises(TypeError):
        walk(x, torch.zeros(5))
