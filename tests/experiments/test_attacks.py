"""The adversaries: what they may know, and that what they are given is enough."""

import pytest
import torch

import cvkernels.functional as F
from experiments.attacks import angle, clean_features, inversion1, inversion2, open_features
from experiments.attacks.knowledge import Knowledge, Transcript, Undeclared, encode_all
from experiments.attacks.learn import Work
from experiments.data import load
from experiments.keys import Scheme
from experiments.networks import build
from experiments.seeds import angles, generator, partners
from experiments.settings import Fast, override
from tests.close import assert_close

SETTINGS = override(Fast(), ["train_images=60", "test_images=20", "attack_epochs=2", "angle_epochs=2", "unet_width=2"])


@pytest.fixture(scope="module")
def world():
    """A keyed network, the transcript of its victims, everything an adversary may be granted, and the true angles."""
    data = load("digits", SETTINGS)
    model = build(SETTINGS, data, 0).eval()
    a = encode_all(model.encode, data.defender.test)
    z, theta, _ = Scheme().conceal(a, generator(0))
    everything = Knowledge(
        encode=model.encode,
        scheme=Scheme(),
        gamma=0.0,
        train=data.attacker.train,
        val=data.attacker.val,
        clean_features=a,
        guess_angle=lambda z: torch.zeros(len(z)),
    )
    return model, Transcript(z), everything, theta


def test_what_was_not_declared_is_an_error():
    knowledge = Knowledge(encode=len, train=1)
    assert knowledge.train == 1
    with pytest.raises(Undeclared, match=r"`clean_features` is not in this .*declared knowledge \(encode, train\)"):
        knowledge.clean_features  # noqa: B018
    with pytest.raises(Undeclared, match="`theta` is not in"):
        getattr(knowledge, "theta", None)
    with pytest.raises(Undeclared):
        hasattr(knowledge, "b")
    with pytest.raises(Undeclared, match="cannot be added"):
        knowledge.clean_features = 1
    with pytest.raises(Undeclared, match="`guess_angle`"):
        knowledge.only(("encode", "guess_angle"))


def test_nobody_can_be_granted_the_key():
    for secret in ("theta", "b", "model", "images"):
        with pytest.raises(ValueError, match=f"`facts` must be among .*got {secret}"):
            Knowledge(**{secret: 1})


@pytest.mark.parametrize(
    "module", [inversion1, inversion2, clean_features, open_features], ids=lambda m: m.__name__[20:]
)
def test_each_attack_runs_on_what_it_declares(world, module):
    _, transcript, everything, _ = world
    if module is open_features:
        transcript = Transcript(everything.clean_features)
    epochs = []
    knowledge = everything.only(module.KNOWS)
    result = module.attack(transcript, knowledge, SETTINGS, 0, Work(lambda *record: epochs.append(record)))
    images = result.redraw(torch.arange(20))
    assert images.shape == (20, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert_close(result.redraw(torch.tensor([3, 17])), images[[3, 17]], kind="network")
    assert [record[:2] for record in epochs] == [(1, 2), (2, 2)]
    assert all({"train_rmse", "val_rmse"} <= record[2].keys() for record in epochs)


@pytest.mark.parametrize("module", [angle, inversion1, inversion2], ids=lambda m: m.__name__[20:])
def test_no_attack_asks_for_the_clean_features(world, module):
    assert "clean_features" not in module.KNOWS
    _, transcript, everything, _ = world
    with pytest.raises(Undeclared, match="`encode` is not in this adversary's declared knowledge"):
        module.attack(transcript, everything.only(("train", "val")), SETTINGS, 0, Work())


def test_angles_are_learned(world):
    """An encoder that ends in ReLU puts every feature into one quadrant, whose place gives the key away."""
    _, transcript, everything, theta = world
    settings = override(SETTINGS, ["angle_epochs=40", "angle_lr=5e-3"])
    errors = []
    knowledge, work = everything.only(angle.KNOWS), Work(lambda e, n, m: errors.append(m["val_angle_error"]))
    guess, _ = angle.attack(transcript, knowledge, settings, 0, work)
    assert guess.shape == theta.shape
    assert min(errors) < 0.5 < torch.pi / 2  # a blind guess's mean is π/2
    wrong = (guess - theta).abs()
    assert torch.minimum(wrong, 2 * torch.pi - wrong).mean() < 0.7


def test_own_transcripts_have_fresh_keys():
    a = torch.rand(6, 3, 4, 4)
    rng = generator(0)
    (one, theta, _), (other, fresh, _) = (Scheme().conceal(a, rng) for _ in range(2))
    assert not (theta == fresh).any()
    assert not torch.equal(one, other)
    rng = generator(0)
    theta, b = angles(6, rng=rng), partners(6, rng)
    assert_close(one, F.rotate(a, a[b], theta))
    assert_close(F.unrotate(one, theta), a)


def test_attack1_turns_back_by_the_guess(world):
    """With an angle predictor that is always right, attack 1 sees the clean features."""
    _, transcript, everything, theta = world
    seen = []

    def right(z):
        seen.append(z)
        return theta

    facts = {name: getattr(everything, name) for name in ("encode", "scheme", "train", "val")}

    def guess(z):
        return right(z) if len(z) == len(theta) else torch.zeros(len(z))

    inversion1.attack(transcript, Knowledge(**facts, guess_angle=guess), SETTINGS, 0, Work()).redraw(torch.arange(20))
    assert torch.equal(seen[-1], transcript.seen)
    assert_close(F.unrotate(seen[-1], theta), everything.clean_features, kind="network")


def test_the_faults_of_published_attacks(world, monkeypatch):
    """What a fault changes of what the U-Net is shown, and that nothing else moves."""
    _, transcript, everything, _ = world
    shown = {}

    every = torch.arange(len(transcript.seen))

    def see(view, knowledge, settings, seed, name, work):
        shown["learned"] = view(everything.clean_features, generator(1))
        return torch.nn.Identity()

    def look(unet, seen, index, read):
        shown["read"] = read(seen[index])

    facts = {name: getattr(everything, name) for name in ("encode", "scheme", "train", "val")}
    fixed = Knowledge(**facts, guess_angle=lambda z: torch.full((len(z),), 0.4))
    for module, fault in ((inversion1, "wrong_sign"), (inversion2, "single_part")):
        monkeypatch.setattr(module, "train_unet", see)
        monkeypatch.setattr(module, "draw", look)
        for on in ("false", "true"):
            module.attack(transcript, fixed, override(SETTINGS, [f"{fault}={on}"]), 0, Work()).redraw(every)
            shown[fault, on] = shown["learned"], shown["read"]
    own = Scheme().conceal(everything.clean_features, generator(1))[0]
    turn = torch.full((len(own),), 0.4)
    for i, z in enumerate((own, transcript.seen)):
        assert_close(shown["wrong_sign", "false"][i], F.unrotate(z, turn))
        assert_close(shown["wrong_sign", "true"][i], F.unrotate(z, -turn))
        assert torch.equal(shown["single_part", "false"][i], z.flatten(1, 2))
        assert torch.equal(shown["single_part", "true"][i], z[:, 0])


@pytest.mark.parametrize("shared", ["false", "true"])
def test_the_attackers_unet_shares_kernels_where_asked(world, shared):
    _, transcript, everything, _ = world
    settings = override(SETTINGS, [f"shared_kernels={shared}", "attack_epochs=1"])
    result = inversion2.attack(transcript, everything, settings, 0, Work())
    assert any(".inner." in name for name in result.weights) == (shared == "true")
