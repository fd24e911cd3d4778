"""Keys as a scheme draws them, by hand."""

import pytest
import torch

import cvkernels.functional as F
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


@pytest.mark.parametrize("b", ["image", "both", "noise", "bank"])
@pytest.mark.parametrize("swap", [False, True])
def test_what_the_cloud_sees_turned_back_is_a_or_b(b, swap):
    dtype = torch.float32 if b == "both" else torch.float64  # -θ is an angle in float32, and rounded to it
    a, bank = torch.randn(12, 3, 4, 4, dtype=dtype), torch.randn(5, 3, 4, 4, dtype=dtype)
    z, theta, swapped = Scheme(b, swap, bank).conceal(a, generator(1))
    assert (swapped is not None) is swap
    back = torch.polar(torch.ones(12, dtype=torch.float64), -theta.double())
    turned = torch.complex(z[:, 0], z[:, 1]) * back.view(-1, 1, 1, 1)
    first, second = turned.real.to(dtype), turned.imag.to(dtype)
    if swap:
        assert 0 < swapped.sum() < 12
        s = swapped.view(-1, 1, 1, 1)
        first, second = torch.where(s, second, first), torch.where(s, first, second)
    assert_close(first, a, kind="network")
    if b in ("image", "both"):
        assert_close(second, nearest(second, a), kind="network")
    elif b == "bank":
        assert_close(second, nearest(second, bank), kind="network")
    else:
        assert_close(second.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1), kind="network")


@pytest.mark.parametrize("n", [6, 7])
def test_a_pair_crosses_once(n):
    """Both of its rows hold the same two parts, under one key, seen from the one image and from the other."""
    a = torch.randn(n, 3, 4, 4)
    z, theta, _ = Scheme("both").conceal(a, generator(1))
    half = (n + 1) // 2
    assert z.shape == (n, 2, 3, 4, 4) and theta.shape == (n,)
    assert len(z[:, 0].sum((1, 2, 3)).abs().unique()) == n
    for i in range(half, n):
        assert torch.equal(z[i], z[i - half].flip(0))
        assert_close(F.unrotate(z[i : i + 1], theta[i : i + 1]), a[i : i + 1], kind="network")
        back = F.unrotate(z[i - half : i - half + 1], theta[i - half : i - half + 1] + torch.pi / 2)
        assert_close(back, a[i : i + 1], kind="network")
    assert (theta >= 0).all() and (theta < 2 * torch.pi).all()


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
