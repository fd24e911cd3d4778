"""Draws that depend on their purpose alone."""

import pytest
import torch

from experiments.seeds import angles, generator, initialising, partners


def test_one_purpose_one_stream():
    assert torch.equal(
        torch.rand(4, generator=generator(0, "keys", 1)), torch.rand(4, generator=generator(0, "keys", 1))
    )
    for other in ((1, "keys", 1), (0, "train", 1), (0, "keys", 2)):
        assert not torch.equal(
            torch.rand(4, generator=generator(0, "keys", 1)), torch.rand(4, generator=generator(*other))
        )


def test_initialising_leaves_the_global_generator():
    before = torch.random.get_rng_state()
    with initialising(0, "network"):
        first = torch.nn.Linear(3, 3).weight
    assert torch.equal(torch.random.get_rng_state(), before)
    with initialising(0, "network"):
        assert torch.equal(torch.nn.Linear(3, 3).weight, first)


def test_angles_fill_one_turn():
    theta = angles(1000, 7, rng=generator(0))
    assert theta.shape == (1000, 7)
    assert theta.dtype == torch.float32
    assert theta.min() >= 0
    assert theta.max() < 2 * torch.pi
    assert theta.unique().numel() > 6000
    assert all(((theta > q * torch.pi / 2) & (theta < (q + 1) * torch.pi / 2)).sum() > 1500 for q in range(4))


@pytest.mark.parametrize("n", [0, 2, 3, 50])
def test_partners_have_no_fixed_point(n):
    for draw in range(20):
        index = partners(n, generator(draw))
        assert index.sort().values.tolist() == list(range(n))
        assert (index != torch.arange(n)).all()


def test_no_partner_for_one():
    with pytest.raises(ValueError, match="a batch of one has no other image"):
        partners(1, generator(0))
