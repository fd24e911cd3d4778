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
from experiments.attacks import LABELS, angle, clean_features, inversion1, inversion2, open_features
from experiments.attacks.knowledge import Features, Knowledge, Transcript
from experiments.attacks.learn import Work
from experiments.evaluate import batches, stored
from experiments.job import skipped
from experiments.keys import scheme_of
from experiments.networks import critic_kind
from experiments.seeds import generator, number
from experiments.transcripts import crossing, gathered
from models.attackers import AnglePredictor

ATTACK_FIELDS = (
    *("attack_epochs", "attack_batch", "attack_lr", "attack_decay", "unet_width"),
    *("wrong_sign", "single_part", "shared_kernels"),
)
ANGLE_FIELDS = ("angle_epochs", "angle_batch", "angle_lr", "angle_loss")
OPEN = ("open-features",)  # the attacks on a network whose features cross in the open
KEYED = ("clean-features", "angle", "inversion1", "inversion2")
COSTS = {"angle": 6e-5}  # seconds per image and epoch on one thread, for the time left; a U-Net's at width 8:
UNET_COST = 1.9e-3
SCORED = 2**28  # bytes of pixels that are scored at once: 21,845 images of 32x32, 445 of 224x224


def expected(names, settings, images):
    """(title, expected seconds) of each of these attacks, for `images` images to learn from."""
    wide = (settings.unet_width / 8) ** 1.2
    return [
        (
            LABELS[name],
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
        return tuple(Features(query(self.model), images) for images in (self.victims, self.own))

    @functools.cached_property
    def scheme(self):
        """How the device draws keys; None where the network has none."""
        return scheme(self.job, self.model) if self.model.keyed else None

    @functools.cached_property
    def seen(self):
        """What the cloud saw of the victims' images and then of the attacker's own, `[V + O, ...]`, and the victims'
        angles `[V]`, which only the scoring is told (None without a key)."""
        angles = []

        def parts():
            for features, whose in zip(self.features, ("victims", "own"), strict=True):
                for z, theta in crossing(self.model, self.scheme, features, self.job.seed, whose):
                    angles.append(theta)
                    yield z

        seen = gathered(parts(), len(self.victims) + len(self.own), self.job.place)
        return seen, torch.cat(angles)[: len(self.victims)] if self.model.keyed else None

    @functools.cached_property
    def clean(self):
        """The features of both before the rotation, for the anchor alone."""
        parts = (features[index] for features in self.features for index in features.parts())
        return gathered(parts, len(self.victims) + len(self.own), self.job.place)

    def knowledge(self, **more):
        facts = {"encode": query(self.model)} | more
        facts |= {"scheme": self.scheme} if self.model.keyed else {"gamma": noise_of(self.model)}
        return Knowledge(train=self.job.data.attacker.train, val=self.job.data.attacker.val, **facts)

    def on_open(self):
        """{name: result} for a network whose features cross in the open."""
        return {"open-features": self._redraw("open-features", open_features, self.parent)}

    def on_keyed(self):
        """({name: result}, the angle's result, its run) for a network under a key."""
        found = {}
        found["clean-features"] = self._redraw("clean-features", clean_features, self.parent)
        guessed, guess, angle_run = self._angles()
        found["inversion1"] = self._redraw("inversion1", inversion1, angle_run, guess_angle=guess)
        found["inversion2"] = self._redraw("inversion2", inversion2, self.parent)
        return found, guessed, angle_run

    def mean_image(self):
        """The lower anchor: the errors of every image redrawn as the mean of the attacker's own, which needs no
        features at all."""
        train = self.job.data.attacker.train
        mean = sum(train.batch(part).pixels.mean(0) * (len(part) / len(train)) for part in pieces(train))
        return scored(lambda index: mean.expand(len(index), *mean.shape), self.victims)[0]

    def _redraw(self, name, module, parent, **more):
        """Run one redrawing attack (or read the finished run, or go on with it) and score it."""
        job = self.job
        run = self._run(name, ATTACK_FIELDS, parent)
        if not skipped(job, run):
            work = self._work(run, lambda m: f"RMSE train {m['train_rmse']:.3f}  own validation {m['val_rmse']:.3f}")
            if "clean_features" in module.KNOWS:
                more["clean_features"] = self.clean
            knowledge = self.knowledge(**more).only(module.KNOWS)
            result = module.attack(Transcript(self.seen[0]), knowledge, job.settings, self.attacker, work)
            best = min(run.metrics(), key=lambda m: (m["val_rmse"], -m["epoch"]))
            std = metrics.ROMECH.get(job.data.name)
            errors, units = scored(result.redraw, self.victims, std)
            own, _ = scored(lambda index: result.redraw(index + len(self.victims)), self.own)
            run.save(result.weights)
            run.save({"images": result.redraw(self.shown)}, "redrawn.safetensors")
            run.finish(
                victims=errors,
                published_units=units,
                own_test=own,
                kept=best,
                epochs=job.settings.attack_epochs,
                device=str(job.device),
            )
        return run.summary() | {"redrawn": run.load("redrawn.safetensors")["images"], "curve": run.metrics()}

    def _run(self, name, names, parent):
        """The run on disk of an attack that depends on the settings of these names."""
        job = self.job
        fields = {k: v for k, v in presets.as_dict(job.settings).items() if k in names}
        return runs.Run(job.place, name, {**fields, "on": parent.id, "seed": self.seed}, job.data.fingerprint)

    def _work(self, run, told):
        """Begin or go on with an attack's run; `told`: an epoch's metrics -> what of them is shown."""
        progress = self.job.progress
        state = run.start()
        if state:
            progress.say(f"{run.folder}: goes on after epoch {state[1]['epoch']}")
        progress.start()

        def log(epoch, epochs, m):
            run.log(**m)
            progress.epoch(epoch, epochs, told(m))

        return Work(log, progress.step, run.checkpoint, state)

    def _angles(self):
        """The angle attack: (its errors, the predictor as a function of z, its run)."""
        job, (seen, theta) = self.job, self.seen
        z = seen[: len(self.victims)]
        run = self._run("angle", ANGLE_FIELDS, self.parent)
        kind = critic_kind(job.settings)
        if not skipped(job, run):
            work = self._work(run, lambda m: f"own validation error {m['val_angle_error']:.3f} rad")
            knowledge = self.knowledge().only(angle.KNOWS)
            guesses, predictor = angle.attack(Transcript(z), knowledge, job.settings, self.attacker, work, kind)
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


def pieces(images):
    """Indices that cover these images in order, each of as many as are scored at once."""
    return batches(len(images), max(2, SCORED // (4 * images.pixels[0].numel())))


def scored(redraw, images, std=None):
    """(errors, the same in published units) of what `redraw` gives for an index of these images; `std` as in
    `metrics.published_units`."""
    errors, units = [], []
    for index in pieces(images):
        drawn, target = redraw(index), images.batch(index).pixels
        errors.append((len(index), metrics.image_errors(drawn, target)))
        units.append((len(index), metrics.published_units(drawn, target, std)))
    return metrics.together(errors), metrics.together(units)


def one_of_each(labels):
    """The first image of each of the first ten classes, an index; of attributes, the first ten images."""
    if labels.ndim == 2:
        return torch.arange(min(10, len(labels)))
    return torch.tensor([(labels == c).nonzero()[0].item() for c in labels.unique().tolist()[:10]])
