"""The WGAN: its fakes by hand, its schedule, its constraint, and that it moves the encoder."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from experiments.gan import Wgan, gap, gradient_penalty, make_fakes, turns
from experiments.keys import Scheme
from experiments.networks import build_critic
from experiments.seeds import angles, generator, partners
from experiments.settings import Fast, override, preset
from experiments.steps import Phases, Walk, plainly
from models.critic import LeNetCritic, ResidualCritic, critic
from models.lenet import FEATURES, lenet
from tests.close import assert_close


@pytest.fixture
def parts():
    """A keyed model's walk, images, and a key."""
    x, rng = torch.rand(6, 3, 32, 32) * 2 - 1, generator(0)
    return Walk(lenet("complex"), Scheme()), x, {"theta": angles(6, rng=rng), "partner": partners(6, rng)}


def wrong(seed):
    """Seven wrong angles for each of six samples."""
    return angles(6, 7, rng=generator(seed))


SHARE = torch.full((6,), 0.3)


def seen(walk, x, key):
    """Features and what the cloud sees of them."""
    with torch.no_grad():
        a = walk.model.encode(x)
        return a, walk.conceal(a, key)


def test_fakes_by_hand(parts):
    walk, x, key = parts
    a, z = seen(walk, x, key)
    fakes = make_fakes(z, wrong(5))
    assert fakes.shape == (6, 7, *FEATURES)
    for n in range(6):
        for k in range(7):
            turn = (key["theta"][n] - wrong(5)[n, k]).double()  # Re((a + ib) e^{i(θ - θ')})
            by_hand = a[n].double() * turn.cos() - a[key["partner"][n]].double() * turn.sin()
            assert_close(fakes[n, k], by_hand, kind="network")


@pytest.mark.parametrize("adversary", ["penalty", "clip"])
def test_the_adversarial_gradient_reaches_the_encoder(parts, adversary):
    walk, x, key = parts
    judge = LeNetCritic()
    wgan = Wgan(walk, judge, override(Fast(), [f"adversary={adversary}"]))
    wgan.critic_step(*seen(walk, x, key), wrong(1), SHARE)
    before = {k: v.clone() for k, v in walk.model.state_dict().items()}
    judged = {k: v.clone() for k, v in judge.state_dict().items()}
    assert all(g.abs().sum() > 0 for g in wgan.encoder_gradients(x, key, wrong(2)))
    wgan.generator_step(x, key, wrong(2))
    for name, value in walk.model.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("encoder"), name
    assert all(torch.equal(v, judged[k]) for k, v in judge.state_dict().items())
    assert all(p.grad is None for p in walk.parameters())


def test_the_gradient_flows_through_b_too(parts):
    walk, x, key = parts
    wgan = Wgan(walk, LeNetCritic(), Fast())
    through = wgan.encoder_gradients(x, key, wrong(2))
    walk.model.detach_b = True
    detached = wgan.encoder_gradients(x, key, wrong(2))
    assert not any(torch.equal(g, h) for g, h in zip(through, detached, strict=True))


def test_generator_and_critic_pull_apart(parts):
    """On a fixed batch the critic's steps widen the gap, the generator's close it."""
    walk, x, key = parts
    wgan = Wgan(walk, LeNetCritic(), override(Fast(), ["critic_lr=1e-2", "generator_lr=1e-2", "penalty=0"]))

    def measured():
        a, z = seen(walk, x, key)
        with torch.no_grad():
            return gap(wgan.critic, a, make_fakes(z, wrong(3))).item()

    gaps = [measured()]
    for _ in range(5):
        wgan.critic_step(*seen(walk, x, key), wrong(3), SHARE)
    gaps.append(measured())
    for _ in range(5):
        wgan.generator_step(x, key, wrong(3))
    gaps.append(measured())
    assert gaps[0] < gaps[1] > gaps[2]


def test_critic_step_leaves_the_encoder(parts):
    walk, x, key = parts
    wgan = Wgan(walk, LeNetCritic(), Fast())
    a = walk.model.encode(x)
    before = {k: v.clone() for k, v in wgan.critic.state_dict().items()}
    wgan.critic_step(a, walk.conceal(a, key), wrong(1), SHARE)
    assert all(p.grad is None for p in walk.parameters())
    assert not any(torch.equal(v, before[k]) for k, v in wgan.critic.state_dict().items() if k != "body.4.bias")


def test_clipping_bounds_every_weight(parts):
    walk, x, key = parts
    wgan = Wgan(walk, LeNetCritic(), override(Fast(), ["adversary=clip"]))
    wgan.critic_step(*seen(walk, x, key), wrong(1), SHARE)
    largest = torch.stack([p.abs().max() for p in wgan.critic.parameters()])
    assert (largest <= torch.tensor(0.01)).all()


def test_penalty_of_a_linear_critic_by_hand():
    """The slope of a linear critic is its weight wherever it is taken: the penalty is (|w| - 1)²."""
    judge = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1)).double()
    a, fake = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    penalty = gradient_penalty(judge, a, fake, torch.rand(5))
    assert penalty.item() == pytest.approx((judge[1].weight.norm().item() - 1) ** 2)
    penalty.backward()
    assert judge[1].weight.grad.abs().sum() > 0


def test_the_penalty_is_taken_at_its_share_of_the_line():
    """D(a) = sum of squares has the slope 2a: at share s of the line from fake to a the penalty is known."""
    a, fake = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    share = torch.tensor([0.0, 0.25, 0.5, 1.0])
    s = share.double().view(-1, 1, 1, 1)
    slope = 2 * (s * a + (1 - s) * fake).flatten(1).norm(dim=1)
    got = gradient_penalty(lambda x: x.square().flatten(1).sum(1, keepdim=True), a, fake, share)
    assert got.item() == pytest.approx((slope - 1).square().mean().item())


def test_critics_by_kind():
    assert isinstance(critic((6, 14, 14), "lenet"), LeNetCritic)
    assert critic((16, 32, 32))(torch.zeros(2, 16, 32, 32)).shape == (2, 1)
    assert critic((384, 13, 13), outputs=2)(torch.zeros(2, 384, 13, 13)).shape == (2, 2)
    assert not any("Norm" in type(m).__name__ for m in ResidualCritic().modules())
    with pytest.raises(ValueError, match="`kind` must be one of lenet, residual, wide, got 'deep'"):
        critic((6, 14, 14), "deep")
    with pytest.raises(ValueError, match="`side` must be at least 12, got 8"):
        critic((6, 8, 8))


def test_the_authors_critic_is_as_large_as_published():
    judge = critic((32, 16, 16), "wide")
    assert sum(p.numel() for p in judge.parameters()) == 1_035_972
    assert judge(torch.randn(3, 32, 16, 16)).shape == (3, 1)
    assert type(build_critic(preset("authors"), (32, 16, 16), 0)) is type(judge)
    with pytest.raises(ValueError, match="`critic` must be report where `adversary` is penalty, got wide"):
        override(Fast(), ["critic=wide"])


def test_schedules():
    task, critic, generate = zip(*(turns(Fast(), step) for step in range(10)), strict=True)
    assert all(task)
    assert all(critic)
    assert [i for i, turn in enumerate(generate) if turn] == [4, 9]
    in_turn = [turns(override(Fast(), ["schedule=1:1:7"]), step) for step in range(9)]
    assert in_turn == [(True, False, False), (False, False, True)] + 7 * [(False, True, False)]
    assert turns(override(Fast(), ["adversary=off"]), 4) == (True, False, False)


def stepped(parts, *changes):
    """The gradients and the weights of an encoder's step on the task's and the generator's loss, and its batch."""
    walk, x, key = parts
    settings = override(Fast(), ["optimiser=sgd", "adversary=clip", "generator_every=1", *changes])
    task = torch.optim.SGD(walk.model.parameters(), lr=settings.lr)
    wgan = Wgan(walk, LeNetCritic(), settings)
    phases = Phases(walk, walk, task, wgan, settings, x.device)
    batch = {**key, "pixels": (x + 1) / 2, "labels": torch.arange(6), "weight": torch.ones(()), **FAKES}
    return phases, batch


FAKES = {"critic_fakes": wrong(1), "generator_fakes": wrong(2), "share": SHARE}


def test_a_summed_step_moves_the_encoder_twice_on_one_gradient(parts):
    phases, batch = stepped(parts, "generator_step=summed", "clip_generator_lr=1e-3")
    encoder = phases.wgan.encoder_parameters
    out, a, z = phases.walk(batch["pixels"] * 2 - 1, batch)
    loss = cross_entropy(out, batch["labels"]) + phases.wgan.encoder_loss(a, z, batch["generator_fakes"])
    grads = torch.autograd.grad(loss, encoder)
    adversarial = phases.wgan.encoder_gradients(batch["pixels"] * 2 - 1, batch, batch["generator_fakes"])
    assert all(g.abs().sum() > 0 for g in adversarial)
    twin = [p.detach().clone() for p in encoder]
    one = torch.optim.RMSprop(twin, lr=1e-3)
    for p, grad in zip(twin, grads, strict=True):
        p.grad = grad
    one.step()
    found = phases.step(batch, 0, plainly)  # the task's turn, the critic's, and no third
    assert found.keys() == {"loss", "critic_gap"}
    for p, q, grad in zip(encoder, twin, grads, strict=True):
        assert_close(p, q - phases.settings.lr * grad, kind="network")
    assert all(p.requires_grad and p.grad is not None for p in phases.wgan.critic.parameters())


def test_what_a_summed_step_cannot_go_with():
    for changes, message in (
        (["schedule=1:1:7"], "`schedule` must be together where `generator_step` is summed, got 1:1:7"),
        (["generator_every=5"], "`generator_every` must be 1 where `generator_step` is summed, got 5"),
        (["generator_every=1", "precision=fp16"], "`precision` must not be fp16 where `generator_step` is summed"),
    ):
        with pytest.raises(ValueError, match=message):
            override(Fast(), ["generator_step=summed", *changes])


def test_the_generators_loss_and_detached_fakes(parts):
    """Of E[D(a)] - E[D(a')] each term's gradient by itself: without its fakes, without its real features, and none."""
    walk, x, key = parts
    judge, found = LeNetCritic(), {}
    for loss in ("gap", "fakes"):
        for detached in ("false", "true"):
            settings = override(Fast(), [f"generator_loss={loss}", f"detach_fakes={detached}"])
            found[loss, detached] = Wgan(walk, judge, settings).encoder_gradients(x, key, wrong(2))
    real = torch.autograd.grad(judge(walk.model.encode(x)).mean(), list(walk.model.encoder.parameters()))
    for i, grad in enumerate(real):
        assert_close(found["gap", "true"][i], grad, kind="network")
        assert_close(found["gap", "false"][i], grad + found["fakes", "false"][i], kind="network")
        assert found["fakes", "false"][i].abs().sum() > 0
        assert not found["fakes", "true"][i].any()
