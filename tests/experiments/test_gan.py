"""The WGAN: its fakes by hand, its schedule, its constraint, and that it moves the encoder."""

import pytest
import torch

from experiments.gan import Wgan, gap, gradient_penalty, make_fakes, turns
from experiments.seeds import angles, generator, partners
from experiments.settings import Fast, override
from models.critic import LeNetCritic
from models.lenet import FEATURES, lenet
from tests.close import assert_close


@pytest.fixture
def parts():
    """A keyed model, images, and a key."""
    x, rng = torch.rand(6, 3, 32, 32) * 2 - 1, generator(0)
    return lenet("complex"), x, angles(6, rng=rng), partners(6, rng)


def test_fakes_by_hand(parts):
    model, x, theta, b = parts
    a = model.encode(x)
    z = model.conceal(a, theta, b)
    fakes = make_fakes(z, 8, generator(5))
    assert fakes.shape == (6, 7, *FEATURES)
    wrong = angles(6, 7, rng=generator(5))
    for n in range(6):
        for k in range(7):
            turn = (theta[n] - wrong[n, k]).double()  # Re((a + ib) e^{i(θ - θ')})
            by_hand = a[n].double() * turn.cos() - a[b[n]].double() * turn.sin()
            assert_close(fakes[n, k], by_hand, kind="network")


@pytest.mark.parametrize("adversary", ["penalty", "clip"])
def test_the_adversarial_gradient_reaches_the_encoder(parts, adversary):
    model, x, theta, b = parts
    critic = LeNetCritic()
    wgan = Wgan(model, critic, override(Fast(), [f"adversary={adversary}"]))
    with torch.no_grad():
        z = model.conceal(model.encode(x), theta, b)
    wgan.critic_step(model.encode(x), z, generator(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    judged = {k: v.clone() for k, v in critic.state_dict().items()}
    assert all(g.abs().sum() > 0 for g in wgan.encoder_gradients(x, theta, b, generator(2)))
    wgan.generator_step(x, theta, b, generator(2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("encoder"), name
    assert all(torch.equal(v, judged[k]) for k, v in critic.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_gradient_flows_through_b_too(parts):
    model, x, theta, b = parts
    wgan = Wgan(model, LeNetCritic(), Fast())
    through = wgan.encoder_gradients(x, theta, b, generator(2))
    model.detach_b = True
    detached = wgan.encoder_gradients(x, theta, b, generator(2))
    assert not any(torch.equal(g, h) for g, h in zip(through, detached, strict=True))


def test_generator_and_critic_pull_apart(parts):
    """On a fixed batch the critic's steps widen the gap, the generator's close it."""
    model, x, theta, b = parts
    wgan = Wgan(model, LeNetCritic(), override(Fast(), ["critic_lr=1e-2", "generator_lr=1e-2", "penalty=0"]))

    def measured():
        with torch.no_grad():
            a = model.encode(x)
            return gap(wgan.critic, a, make_fakes(model.conceal(a, theta, b), 8, generator(3))).item()

    gaps = [measured()]
    for _ in range(5):
        with torch.no_grad():
            a = model.encode(x)
            z = model.conceal(a, theta, b)
        wgan.critic_step(a, z, generator(3))
    gaps.append(measured())
    for _ in range(5):
        wgan.generator_step(x, theta, b, generator(3))
    gaps.append(measured())
    assert gaps[0] < gaps[1] > gaps[2]


def test_critic_step_leaves_the_encoder(parts):
    model, x, theta, b = parts
    wgan = Wgan(model, LeNetCritic(), Fast())
    a = model.encode(x)
    before = {k: v.clone() for k, v in wgan.critic.state_dict().items()}
    wgan.critic_step(a, model.conceal(a, theta, b), generator(1))
    assert all(p.grad is None for p in model.parameters())
    assert not any(torch.equal(v, before[k]) for k, v in wgan.critic.state_dict().items() if k != "body.4.bias")


def test_clipping_bounds_every_weight(parts):
    model, x, theta, b = parts
    wgan = Wgan(model, LeNetCritic(), override(Fast(), ["adversary=clip"]))
    a = model.encode(x)
    wgan.critic_step(a, model.conceal(a, theta, b), generator(1))
    largest = torch.stack([p.abs().max() for p in wgan.critic.parameters()])
    assert (largest <= torch.tensor(0.01)).all()


def test_penalty_of_a_linear_critic_by_hand():
    """The slope of a linear critic is its weight wherever it is taken: the penalty is (|w| - 1)²."""
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1)).double()
    a, fake = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    penalty = gradient_penalty(critic, a, fake, generator(0))
    assert penalty.item() == pytest.approx((critic[1].weight.norm().item() - 1) ** 2)
    penalty.backward()
    assert critic[1].weight.grad.abs().sum() > 0


def test_schedules():
    task, critic, generate = zip(*(turns(Fast(), step) for step in range(10)), strict=True)
    assert all(task)
    assert all(critic)
    assert [i for i, turn in enumerate(generate) if turn] == [4, 9]
    in_turn = [turns(override(Fast(), ["schedule=1:1:7"]), step) for step in range(9)]
    assert in_turn == [(True, False, False), (False, False, True)] + 7 * [(False, True, False)]
    assert turns(override(Fast(), ["adversary=off"]), 4) == (True, False, False)
