"""The attacks on one network as runs on disk: what the adversary is handed, and what comes of it."""

import pytest
import torch

import cvkernels.functional as F
from experiments import attack, evaluate, transcripts
from experiments import settings as presets
from experiments.attacks import LABELS, knowledge, open_features
from experiments.attacks.knowledge import Reconstruction
from experiments.data import Images, load
from experiments.job import Job
from experiments.keys import Scheme
from experiments.networks import build
from experiments.progress import Progress
from experiments.reports import demo_figures
from experiments.runs import Run
from experiments.seeds import generator
from models.attackers import AnglePredictor
from tests.close import assert_close

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
    z, theta = noisy.seen
    assert theta is None
    noise = z - noisy.clean
    assert abs(noise.std().item() - 0.5) < 0.01 and abs(noise.mean().item()) < 0.01
    assert torch.equal(z, battery("form=noisy", "gamma=0.5").seen[0])  # the seed's
    views = []

    def stop(view, *rest):
        views.append(view)
        raise Stopped

    monkeypatch.setattr(open_features, "train_unet", stop)
    with pytest.raises(Stopped):
        noisy.on_open()
    a, rng = noisy.clean, torch.Generator().manual_seed(1)
    one, other = (views[0](a, rng) - a for _ in range(2))
    assert abs(one.std().item() - 0.5) < 0.01
    assert abs((one * other).mean().item()) < 0.01  # drawn anew
    assert abs((one * (z - a)).mean().item()) < 0.01


def test_nothing_is_on_features_that_cross_in_the_open(battery):
    for form in ("original", "layers"):
        it = battery(f"form={form}")
        assert torch.equal(it.seen[0], it.clean)
        assert it.knowledge().gamma == 0


def test_no_attack_is_handed_the_keys(battery, monkeypatch):
    """Neither a seed that gives the victims' angles, nor the network by way of its encoder."""
    handed = {}

    def spy(name, result):
        def attack(transcript, knowledge, settings, seed, work, *rest):
            handed[name] = seed, knowledge
            for epoch in (1, 2):
                work.log(epoch, 2, {"epoch": epoch, "train_rmse": 1.0, "val_rmse": 1.0, "val_angle_error": 1.0})
            return result(transcript)

        return attack

    def redrawn(transcript):
        return Reconstruction(lambda index: torch.rand(len(index), 3, 32, 32), {"w": torch.zeros(1)})

    def guessed(transcript):
        return torch.zeros(len(transcript.seen)), AnglePredictor(6, 14, kind="lenet")

    for name in ("clean_features", "inversion1", "inversion2"):
        monkeypatch.setattr(getattr(attack, name), "attack", spy(name, redrawn))
    monkeypatch.setattr(attack.angle, "attack", spy("angle", guessed))
    monkeypatch.setattr(open_features, "attack", spy("open_features", redrawn))
    keyed, plain = battery(), battery("form=original", seed=5)
    keyed.on_keyed()
    plain.on_open()
    a, theta = keyed.features[0].kept, keyed.seen[1]
    assert torch.equal(Scheme().conceal(a, generator(keyed.job.seed, "keys", "transcript", "victims"))[1], theta)
    assert len(handed) == 5
    for seed, known in handed.values():
        guess = Scheme().conceal(a, generator(seed, "keys", "transcript", "victims"))[1]
        assert not (guess == theta).any()
        encode = known.encode
        assert not hasattr(encode, "__self__")
        (inside,) = (cell.cell_contents for cell in encode.__closure__)
        assert inside in (keyed.model.encoder, plain.model.encoder)


def test_the_adversarys_seed_is_its_own(battery):
    """It changes what the attack draws, and not what the cloud saw."""
    one = battery()
    other = attack.Battery(one.job, one.model, one.parent, seed=1)
    assert (other.seed, one.seed) == (1, 0)
    assert other.attacker not in (one.attacker, 0, 1)
    assert torch.equal(one.seen[0], other.seen[0])


FEW = ("train_images=20", "test_images=10", "attack_batch=5", "angle_batch=5", "attack_decay=true")


@pytest.mark.parametrize("name", ["angle", "inversion2"])
def test_an_attack_stopped_in_its_second_epoch_ends_as_one_that_was_not(battery, name, tmp_path):
    def work(it):
        if name == "angle":
            return it._angles()[2]
        it._redraw(name, attack.inversion2, it.parent)
        return it._run(name, attack.ATTACK_FIELDS, it.parent)

    def watched(it, stop_in=None):
        steps = []

        def step(epochs_done, epochs, step, steps_of, images, means):
            steps.append((epochs_done, step, *means()))
            if (epochs_done, step) == (stop_in, 2):
                raise KeyboardInterrupt

        it.job.progress.step = step
        return steps

    whole = work(battery(*FEW, place=tmp_path / "whole"))
    first, again = (battery(*FEW, place=tmp_path / "parts") for _ in range(2))
    steps = watched(first, stop_in=1)
    with pytest.raises(KeyboardInterrupt):
        work(first)
    assert steps[-1][:2] == (1, 2) and steps[-1][2] in ("loss", "train_rmse")
    steps = watched(again)
    parts = work(again)
    assert steps[0][:2] == (1, 1)  # the first epoch is not done again
    assert f"{parts.folder}: goes on after epoch 1" in again.job.progress.stream.getvalue()
    assert parts.metrics() == whole.metrics() and len(parts.metrics()) == 2
    for file in ("weights.safetensors", {"angle": "angles.safetensors"}.get(name, "redrawn.safetensors")):
        one, other = whole.load(file), parts.load(file)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not list(tmp_path.rglob("state.safetensors"))


def test_much_is_worked_at_in_pieces_and_little_at_once(battery, monkeypatch, tmp_path):
    """Pictures mapped as bytes, features that do not fit: no more than a batch of either is ever made, and what comes
    out is what comes out of the same in memory."""
    results, most = [], []
    unit = Images.unit
    for much in (False, True):
        with monkeypatch.context() as m:
            it = battery(
                "train_images=40", "test_images=20", "attack_batch=4", "form=original", place=tmp_path / str(much)
            )
            data = it.job.data
            for side in (data.defender, data.attacker):
                for part in ("train", "val", "test"):
                    object.__setattr__(side, part, as_bytes(getattr(side, part), much))
            it.victims, it.own = data.defender.test, data.attacker.test
            m.setattr(evaluate, "AT_ONCE", 5)
            m.setattr(attack, "SCORED", 5 * 4 * 3 * 32 * 32)
            if much:
                for module in (knowledge, transcripts):
                    m.setattr(module, "IN_MEMORY", 0)
                m.setattr(Images, "unit", lambda images: most.append(len(images)) or unit(images))
            results.append((it.mean_image(), it.clean, it.on_open()["open-features"]))
            assert (it.features[0].kept is None) is much
            assert it.seen[0].is_contiguous()
    (mean, clean, small), (other_mean, other_clean, large) = results
    assert max(most) <= 6  # a last one joins the five before it
    assert_close(other_clean, clean, kind="network")
    assert other_mean == pytest.approx(mean)
    for of in ("victims", "own_test", "published_units", "kept"):
        assert large[of] == pytest.approx(small[of], rel=1e-3)
    assert not list(tmp_path.rglob(".transcript*"))


def as_bytes(images, mapped):
    found = Images((images.pixels * 255).round().to(torch.uint8), images.labels)
    return found.mapped() if mapped else found


def test_what_crosses_in_pieces_is_under_one_key_each(battery, monkeypatch):
    monkeypatch.setattr(evaluate, "AT_ONCE", 5)
    for module in (knowledge, transcripts):
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    it = battery("test_images=23")
    z, theta = it.seen
    assert len(it.features[0].parts()) > 3
    assert len(theta) == len(theta.unique()) == len(it.victims)
    assert_close(F.unrotate(z[: len(theta)], theta), it.clean[: len(theta)], kind="network")


def test_every_attack_has_its_one_name():
    assert LABELS.keys() == {*attack.OPEN, *attack.KEYED}
    told = [title for title, _ in attack.expected(LABELS, presets.Fast(), 10)]
    assert told == list(LABELS.values())
    assert demo_figures.STYLES.keys() == LABELS.keys() - {"angle"}
