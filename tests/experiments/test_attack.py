"""The attacks on one network as runs on disk: what the adversary is handed, and what comes of it."""

import pytest
import torch

from experiments import attack
from experiments import settings as presets
from experiments.attacks import open_features
from experiments.data import load
from experiments.job import Job
from experiments.networks import build
from experiments.progress import Progress
from experiments.runs import Run

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
