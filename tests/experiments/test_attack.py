"""The attacks on one network as runs on disk: what the adversary is handed, and what comes of it."""

import pytest
import torch

from experiments import attack
from experiments import settings as presets
from experiments.attacks import open_features
from experiments.attacks.knowledge import Reconstruction
from experiments.data import load
from experiments.job import Job
from experiments.keys import Scheme
from experiments.networks import build
from experiments.progress import Progress
from experiments.runs import Run
from experiments.seeds import generator
from models.attackers import AnglePredictor

TINY = ["epochs=1", "train_images=60", "test_images=40", "attack_epochs=2", "angle_epochs=2", "unet_width=2"]


class Stopped(Exception):
    """The test has seen what it wanted."""


@pytest.fixture
def battery(tmp_path):
    """A function: the attacks on an untrained network of these settings, where runs lie in a folder of its own."""

    def make(*changes, seed=0, place=tmp_path, **more):
        settings = presets.override(presets.Fast(), [*TINY, *changes])
        data = load("digits", settings)
        job = Job(settings, data, seed, torch.device("cpu"), place, Progress([("", 1.0)] * 9, quiet=True))
        run = Run(place, "network", {"of": [*changes], "seed": seed}, data.fingerprint)
        return attack.Battery(job, build(settings, data, seed).eval(), run, **more)

    return make


def test_noise_is_on_what_the_cloud_sees_and_on_what_the_attack_learns_from(battery, monkeypatch):
    noisy = battery("form=noisy", "gamma=0.5")
    z, own_z, theta = noisy.transcripts
    assert theta is None
    for seen, clean in zip((z, own_z), noisy.features, strict=True):
        noise = seen - clean
        assert abs(noise.std().item() - 0.5) < 0.01 and abs(noise.mean().item()) < 0.01
    assert torch.equal(z, battery("form=noisy", "gamma=0.5").transcripts[0])  # the seed's
    views = []

    def stop(view, *rest):
        views.append(view)
        raise Stopped

    monkeypatch.setattr(open_features, "train_unet", stop)
    with pytest.raises(Stopped):
        noisy.on_open()
    a, rng = noisy.features[0], torch.Generator().manual_seed(1)
    one, other = (views[0](a, rng) - a for _ in range(2))
    assert abs(one.std().item() - 0.5) < 0.01
    assert abs((one * other).mean().item()) < 0.01  # drawn anew
    assert abs((one * (z - a)).mean().item()) < 0.01


def test_nothing_is_on_features_that_cross_in_the_open(battery):
    for form in ("original", "layers"):
        it = battery(f"form={form}")
        assert torch.equal(it.transcripts[0], it.features[0])
        assert it.knowledge().gamma == 0


def test_no_attack_is_handed_the_keys(battery, monkeypatch):
    """Neither a seed that gives the victims' angles, nor the network by way of its encoder."""
    handed = {}

    def spy(name, result):
        def attack(transcript, knowledge, settings, seed, log, *rest):
            handed[name] = seed, knowledge
            for epoch in (1, 2):
                log(epoch, 2, {"epoch": epoch, "train_rmse": 1.0, "val_rmse": 1.0, "val_angle_error": 1.0})
            return result(transcript)

        return attack

    def redrawn(transcript):
        return Reconstruction(torch.rand(len(transcript.seen), 3, 32, 32), {"w": torch.zeros(1)})

    def guessed(transcript):
        return torch.zeros(len(transcript.seen)), AnglePredictor(6, 14, kind="lenet")

    for name in ("clean_features", "inversion1", "inversion2"):
        monkeypatch.setattr(getattr(attack, name), "attack", spy(name, redrawn))
    monkeypatch.setattr(attack.angle, "attack", spy("angle", guessed))
    monkeypatch.setattr(open_features, "attack", spy("open_features", redrawn))
    keyed, plain = battery(), battery("form=original", seed=5)
    keyed.on_keyed()
    plain.on_open()
    a, theta = keyed.features[0], keyed.transcripts[2]
    assert torch.equal(Scheme().conceal(a, generator(keyed.job.seed, "keys", "transcript", "victims"))[1], theta)
    assert len(handed) == 5
    for seed, knowledge in handed.values():
        guess = Scheme().conceal(a, generator(seed, "keys", "transcript", "victims"))[1]
        assert not (guess == theta).any()
        encode = knowledge.encode
        assert not hasattr(encode, "__self__")
        (inside,) = (cell.cell_contents for cell in encode.__closure__)
        assert inside in (keyed.model.encoder, plain.model.encoder)


def test_the_adversarys_seed_is_its_own(battery):
    """It changes what the attack draws, and not what the cloud saw."""
    one = battery()
    other = attack.Battery(one.job, one.model, one.parent, seed=1)
    assert (other.seed, one.seed) == (1, 0)
    assert other.attacker not in (one.attacker, 0, 1)
    assert torch.equal(one.transcripts[0], other.transcripts[0])
