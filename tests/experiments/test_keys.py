"""Keys as a scheme draws them, by hand."""

import pytest
import torch

from experiments.keys import Scheme
from experiments.seeds import generator
from tests.close import assert_close


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_partner_is_another_of_the_same_shard(shards):
    for n in (7, 12):
        partner = Scheme().draw(n, generator(0), shards)["partner"]
        assert sorted(partner.tolist()) == list(range(n))
        for part in torch.arange(n).tensor_split(shards):
            assert set(partner[part].tolist()) == set(part.tolist())
            assert (partner[part] != part).all()


def nearest(features, among):
    """For each feature the one of `among` that is closest to it."""
    return among[torch.cdist(features.flatten(1), among.flatten(1)).argmin(1)]


@pytest.mark.parametrize("b", ["image", "noise", "bank"])
@pytest.mark.parametrize("swap", [False, True])
def test_what_the_cloud_sees_turned_back_is_a_or_b(b, swap):
    a = torch.randn(12, 3, 4, 4, dtype=torch.float64)
    bank = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    z, theta, swapped = Scheme(b, swap, bank).conceal(a, generator(1))
    assert (swapped is not None) is swap
    back = torch.polar(torch.ones(12, dtype=torch.float64), -theta.double())
    turned = torch.complex(z[:, 0], z[:, 1]) * back.view(-1, 1, 1, 1)
    first, second = turned.real, turned.imag
    if swap:
        assert 0 < swapped.sum() < 12
        s = swapped.view(-1, 1, 1, 1)
        first, second = torch.where(s, second, first), torch.where(s, first, second)
    assert_close(first, a, kind="network")
    if b == "image":
        assert_close(second, nearest(second, a), kind="network")
    elif b == "bank":
        assert_close(second, nearest(second, bank), kind="network")
    else:
        assert_close(second.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1), kind="network")


@pytest.mark.parametrize("b", ["image", "both", "noise", "bank"])
def test_a_seed_repeats_what_the_cloud_sees(b):
    """Whatever else has drawn from torch's own generator meanwhile, and without drawing from it."""
    a, bank = torch.randn(12, 3, 4, 4), torch.randn(5, 3, 4, 4)
    before = torch.random.get_rng_state()
    z, theta, swap = Scheme(b, True, bank).conceal(a, generator(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    for one, again in zip((z, theta, swap), Scheme(b, True, bank).conceal(a, generator(1)), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(z, Scheme(b, True, bank).conceal(a, generator(2))[0])
