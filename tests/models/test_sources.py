"""Noise of equal norm and the bank."""

from functools import partial

import pytest
import torch
from torch import nn

from models.sources import Bank, equal_norm_noise
from models.split import SplitModel
from tests.close import assert_close


def rng():
    return torch.Generator().manual_seed(3)


def test_noise_has_each_samples_norm_and_no_gradient():
    a = torch.randn(5, 4, 8, 8) * torch.arange(5.0).view(5, 1, 1, 1)  # the first sample is zero: so is its noise
    b = equal_norm_noise(a.requires_grad_())
    assert_close(b.flatten(1).norm(dim=1), a.detach().flatten(1).norm(dim=1))
    assert not b.requires_grad
    assert (b[1:] != a[1:]).all()
    cosine = nn.functional.cosine_similarity(a.detach()[1:].flatten(1), b[1:].flatten(1))
    assert (cosine.abs() < 0.3).all()
    assert equal_norm_noise(a, rng()).equal(equal_norm_noise(a, rng()))
    assert not equal_norm_noise(a, rng()).equal(b)


def test_bank_gives_each_sample_one_of_its_own_rows():
    stored = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 4, 8, 8).clone().requires_grad_()
    bank = Bank(stored)
    b = bank(torch.zeros(100, 4, 8, 8), rng())
    assert len(bank) == 7
    assert b.shape == (100, 4, 8, 8)
    assert not b.requires_grad
    assert (b == b[:, :1, :1, :1]).all()
    assert set(b[:, 0, 0, 0].tolist()) == set(range(7))
    assert b.equal(bank(torch.zeros(100, 4, 8, 8), rng()))
    with pytest.raises(ValueError, match=r"`features` must be \[M, C, h, w\] with M >= 1, got \[0, 4, 8, 8\]"):
        Bank(torch.zeros(0, 4, 8, 8))


@pytest.mark.parametrize("source", [equal_norm_noise, Bank(torch.randn(3, 2, 4, 4))], ids=["noise", "bank"])
def test_walk_takes_a_source_also_for_a_batch_of_one(source):
    walk = SplitModel(nn.Identity(), nn.Identity(), nn.Flatten())
    x, theta = torch.randn(1, 2, 4, 4), torch.tensor([0.7])
    source = partial(source, rng=rng())
    z = walk.conceal(x, torch.zeros(1), source)
    assert_close(z[:, 0], x)
    assert_close(walk(x, theta, source), x.flatten(1))
