"""The two attacks, their anchors and their control on one trained network, each a run on disk.

They learn from the attacker's half of the training images and are scored on the defender's half of the test images:
the pictures of users whose classification error stands in the same row, which neither party learned from. How they do
on the attacker's own test half is recorded beside it (`own_test`): what an adversary could know of its own success.
(Without `halves` both parties hold the same images.)
"""

import functools

import torch

from experiments import metrics, runs
from experiments import settings as presets
from experiments.attacks import angle, clean_features, inversion1, inversion2, open_features
from experiments.attacks.knowledge import Knowledge, Transcript, encode_all
from experiments.evaluate import stored
from experiments.job import skipped
from experiments.keys import scheme_of
from experiments.networks import critic_kind
from experiments.seeds import generator, number
from models.attackers import AnglePredictor

ATTACK_FIELDS = (
    *("attack_epochs", "attack_batch", "attack_lr", "attack_decay", "unet_width"),
    *("wrong_sign", "single_part", "shared_kernels"),
)
ANGLE_FIELDS = ("angle_epochs", "angle_batch", "angle_lr", "angle_loss")
OPEN = ("open-features",)  # the attacks on a network whose features cross in the open
KEYED = ("clean-features", "angle", "inversion1", "inversion2")
TITLES = {
    "open-features": "U-Net on the features that cross in the open",
    "clean-features": "U-Net on the clean features (anchor)",
    "angle": "angle predictor",
    "inversion1": "attack 1, U-Net on a*",
    "inversion2": "attack 2, U-Net on both parts",
}
COSTS = {"angle": 6e-5}  # seconds per image and epoch on one thread, for the time left; a U-Net's at width 8:
UNET_COST = 1.9e-3


def expected(names, settings, images):
    """(title, expected seconds) of each of these attacks, for `images` images to learn from."""
    wide = (settings.unet_width / 8) ** 1.2
    return [
        (
            TITLES[name],
            images
            * (COSTS[name] * settings.angle_epochs if name in COSTS else UNET_COST * settings.attack_epochs * wide),
        )
        for name in names
    ]


class Battery:
    """The attacks on one network.

    Args:
        job: whose settings say how long an adversary learns.
        model: trained, in inference mode.
        parent: its run; the attacks' runs carry its id.
        seed: the adversary's, the job's if not given. An attack gets a number made from it, since whoever has the job's
            own seed has the victims' keys.
    """

    def __init__(self, job, model, parent, seed=None):
        self.job, self.model, self.parent = job, model, parent
        self.seed = job.seed if seed is None else seed
        self.attacker = number(generator(self.seed, "attacker"))
        self.victims, self.own = job.data.defender.test, job.data.attacker.test
        self.shown = one_of_each(self.victims.labels)

    @functools.cached_property
    def features(self):
        """What the victims' images are before they cross, and the attacker's own test images."""
        return tuple(encode_all(self.model.encode, images) for images in (self.victims, self.own))

    @functools.cached_property
    def transcripts(self):
        """What the cloud saw of both, and the victims' angles, which only the scoring is told (None without a key)."""
        a, own = self.features
        z, theta = transcript(self.job, self.model, a, "victims")
        return z, transcript(self.job, self.model, own, "own")[0], theta

    def knowledge(self, **more):
        facts = {"encode": query(self.model)} | more
        facts |= {"scheme": scheme(self.job, self.model)} if self.model.keyed else {"gamma": noise_of(self.model)}
        return Knowledge(train=self.job.data.attacker.train, val=self.job.data.attacker.val, **facts)

    def on_open(self):
        """{name: result} for a network whose features cross in the open."""
        z, own_z, _ = self.transcripts
        return {"open-features": self._redraw("open-features", open_features, self.parent, z, own_z)}

    def on_keyed(self):
        """({name: result}, the angle's result, its run) for a network under a key."""
        z, own_z, _ = self.transcripts
        found = {}
        found["clean-features"] = self._redraw(
            "clean-features", clean_features, self.parent, z, own_z, clean=self.features
        )
        guessed, guess, angle_run = self._angles()
        found["inversion1"] = self._redraw("inversion1", inversion1, angle_run, z, own_z, guess_angle=guess)
        found["inversion2"] = self._redraw("inversion2", inversion2, self.parent, z, own_z)
        return found, guessed, angle_run

    def mean_image(self):
        """The lower anchor."""
        train = self.job.data.attacker.train.unit().pixels
        return metrics.mean_image_errors(train, self.victims.unit().pixels)

    def _redraw(self, name, module, parent, seen, own_seen, clean=None, **more):
        """Run one redrawing attack (or read the finished run) and score it.

        Args:
            seen, own_seen: the transcripts of the victims' images and of the attacker's own test images.
            clean: for the anchor alone, the features before the rotation of both.
        """
        job = self.job
        fields = {k: v for k, v in presets.as_dict(job.settings).items() if k in ATTACK_FIELDS}
        run = runs.Run(job.place, name, {**fields, "on": parent.id, "seed": self.seed}, job.data.fingerprint)
        if not skipped(job, run):
            run.start()
            job.progress.start()

            def log(epoch, epochs, m):
                run.log(**m)
                job.progress.epoch(
                    epoch, epochs, f"RMSE train {m['train_rmse']:.3f}  own validation {m['val_rmse']:.3f}"
                )

            knowledge = self.knowledge(**more)
            facts = {"clean_features": torch.cat(clean)} if clean else {}
            facts |= {k: getattr(knowledge, k) for k in module.KNOWS if k not in facts}
            result = module.attack(
                Transcript(torch.cat((seen, own_seen))), Knowledge(**facts), job.settings, self.attacker, log
            )
            victims, own = self.victims.unit().pixels, self.own.unit().pixels
            images, own_images = result.images.split((len(victims), len(own)))
            best = min(run.metrics(), key=lambda m: (m["val_rmse"], -m["epoch"]))
            run.save(result.weights)
            run.save({"images": images[self.shown]}, "redrawn.safetensors")
            run.finish(
                victims=metrics.image_errors(images, victims),
                published_units=metrics.published_units(images, victims, metrics.ROMECH.get(job.data.name)),
                own_test=metrics.image_errors(own_images, own),
                kept=best,
                epochs=job.settings.attack_epochs,
                device=str(job.device),
            )
        return run.summary() | {"redrawn": run.load("redrawn.safetensors")["images"], "curve": run.metrics()}

    def _angles(self):
        """The angle attack: (its errors, the predictor as a function of z, its run)."""
        job, (z, _, theta) = self.job, self.transcripts
        fields = {k: v for k, v in presets.as_dict(job.settings).items() if k in ANGLE_FIELDS}
        run = runs.Run(job.place, "angle", {**fields, "on": self.parent.id, "seed": self.seed}, job.data.fingerprint)
        kind = critic_kind(job.settings)
        if not skipped(job, run):
            run.start()
            job.progress.start()

            def log(epoch, epochs, m):
                run.log(**m)
                job.progress.epoch(epoch, epochs, f"own validation error {m['val_angle_error']:.3f} rad")

            knowledge = self.knowledge().only(angle.KNOWS)
            guesses, predictor = angle.attack(Transcript(z), knowledge, job.settings, self.attacker, log, kind)
            errors = metrics.angle_errors(guesses, theta)
            run.save(predictor.state_dict())
            run.save({"theta": theta, "guess": guesses, **errors}, "angles.safetensors")
            run.finish(
                circular_mean=errors["circular"].mean().item(),
                circular_median=errors["circular"].median().item(),
                raw_mean=errors["raw"].mean().item(),
                wrapped=int((errors["raw"] > torch.pi).sum()),
                device=str(job.device),
            )
        predictor = AnglePredictor(*z.shape[2:4], loss=job.settings.angle_loss, kind=kind).to(job.device)
        predictor.load_state_dict(run.load())
        return run.summary() | run.load("angles.safetensors"), functools.partial(angle.guess, predictor), run


def scheme(job, model):
    """How the device draws keys, with its bank of b where it has one: public, as the weights are."""
    found = scheme_of(job.settings)
    if found.b == "bank":
        found.bank = stored(model, job.data.defender.train, job.settings, job.seed)
    return found


def query(model):
    """What an adversary has of a network: its encoder, as a function of images."""
    encoder = model.encoder

    def encode(x):
        return encoder(x)

    return encode


def noise_of(model):
    """The size of the noise that a network without a key adds to its features before they cross, 0 where none."""
    return getattr(model, "gamma", 0.0)


def transcript(job, model, a, whose):
    """What the cloud sees of features a `[N, C, h, w]`, and the angles `[N]`, which only the scoring is told; None
    without a key."""
    rng = generator(job.seed, "keys", "transcript", whose)
    with torch.no_grad():
        if model.keyed:
            return scheme(job, model).conceal(a, rng)[:2]
        with torch.random.fork_rng(devices=[a.device] if a.is_cuda else []):
            torch.manual_seed(number(rng))  # the network's own noise is drawn from torch's generator
            return model.conceal(a), None


def one_of_each(labels):
    """The first image of each of the first ten classes, an index; of attributes, the first ten images."""
    if labels.ndim == 2:
        return torch.arange(min(10, len(labels)))
    return torch.tensor([(labels == c).nonzero()[0].item() for c in labels.unique().tolist()[:10]])
