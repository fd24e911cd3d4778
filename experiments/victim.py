"""One network, trained now or earlier: a run on disk."""

import json

import torch

from experiments import attack, metrics, processes, runs
from experiments import settings as presets
from experiments.attack import ANGLE_FIELDS, ATTACK_FIELDS
from experiments.attacks.knowledge import encode_all
from experiments.evaluate import error
from experiments.job import skipped
from experiments.networks import build
from experiments.seeds import angles, generator
from experiments.train import USUAL, Diverged, train

KEYED_FIELDS = (  # what a network without a key does not depend on
    *("weights", "c", "detach_b", "b", "bank", "swap", "adversary", "penalty", "clip", "k", "fakes", "schedule"),
    *("detach_modulus", "norm_power", "batch_statistics", "generator_loss", "generator_step", "detach_fakes", "critic"),
    *("critic_lr", "generator_lr", "clip_critic_lr", "clip_generator_lr", "critic_every", "generator_every"),
)
FIELDS = {  # what a form does not depend on, beyond the attacks
    "original": (*KEYED_FIELDS, "generator", "gamma"),
    "noisy": (*KEYED_FIELDS, "generator"),
    "layers": (*KEYED_FIELDS, "gamma"),
    "complex": ("gamma",),
}
# rough seconds an image and epoch of LeNet on one thread, for the time left until the run's own rate is known
COSTS = {"original": 1.4e-4, "layers": 1.6e-4, "noisy": 1.4e-4, "complex": 7e-4}


def title(settings):
    """What the run is called on the screen."""
    wgan = settings.form == "complex" and settings.adversary != "off"
    network = settings.network.replace("lenet", "LeNet").replace("resnet", "ResNet-")
    return f"{settings.form} {network}" + (" with WGAN" if wgan else "")


def expected(settings, images):
    """(title, expected seconds) for `images` images to learn from."""
    deep = {"lenet": 1, "vgg16": 6000, "alexnet": 400}.get(settings.network)
    if deep is None:  # a ResNet
        deep = 25 * int(settings.network[6:].partition("-")[0]) / 20
    return title(settings), images * settings.epochs * COSTS[settings.form] * deep


def open_run(job):
    """The run on disk that these settings mean."""
    elsewhere = ATTACK_FIELDS + ANGLE_FIELDS + FIELDS[job.settings.form]
    settings = {k: v for k, v in presets.as_dict(job.settings).items() if k not in elsewhere}
    name = f"{job.settings.network}-{job.settings.form}"
    return runs.Run(job.place, name, {**settings, "data": job.data.name, "seed": job.seed}, job.data.fingerprint)


def trained(job, how=USUAL):
    """The network of the job's settings, in inference mode, and its run.

    Raises:
        Diverged: the run is marked so on disk, with its last good state.   Interrupted: Ctrl-C.
    """
    settings, side = job.settings, job.data.defender
    run = open_run(job)  # of several processes the first one reads and writes it
    chief = processes.rank() == 0
    model = build(settings, job.data, job.seed).to(job.device)
    if processes.told(lambda: skipped(job, run)):
        model.load_state_dict(processes.told(run.load))
        return model.eval(), run
    state = processes.told(run.start)
    if state and chief:
        epoch, step = state[1]["epoch"], state[1]["step"]
        then = _earlier_commit(run)
        job.progress.say(f"{run.folder}: goes on after epoch {epoch}, step {step}{then}")
    job.progress.start()
    curves = _tensorboard(run) if how.tensorboard and chief else None

    def log(epoch, epochs, m):
        if chief:
            run.log(**m)
        if curves:
            for name in m.keys() - {"epoch"}:
                curves.add_scalar(name, m[name], epoch)
        hidden = f"  critic gap {m['critic_gap']:.2f}" if "critic_gap" in m else ""
        job.progress.epoch(
            epoch, epochs, f"loss {m.get('loss', float('nan')):.3f}  validation error {m['val_error']:.1%}{hidden}"
        )

    def watch(trainer, steps, images):
        job.progress.step(trainer.epoch, settings.epochs, trainer.step, steps, images, trainer.means)

    try:
        kept = train(model, side, settings, job.seed, log, run, how, watch, state)
    except Diverged as diverged:
        where = str(diverged)
        processes.told(lambda: run.stop(why="diverged", where=where))
        raise
    wrong, loss = error_of(model, job)
    held = law(model, job) if model.keyed else {}
    if chief:
        run.save(model.state_dict())
        run.finish(test_error=wrong, test_loss=loss, kept=kept, law=held, device=str(job.device))
    return model.eval(), run


def error_of(model, job):
    """(share of wrong answers, cross-entropy) on the defender's test images."""
    scheme = attack.scheme(job, model)
    return error(model, job.data.defender.test, scheme, job.seed, "test")


def law(model, job, images=7):
    """Relative error of the rotation law on the trained processor, by mode and batch size: per-sample angles, true
    features."""
    some = job.data.defender.test[torch.arange(min(images, len(job.data.defender.test)))]
    a = encode_all(model.encode, some)
    found = {}
    # a GPU's convolutions may round their inputs to TF32, whose 1e-3 would hide a fault
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for mode in ("training", "inference"):
            model.processor.train(mode == "training")
            for n in (1, images):
                rng = generator(job.seed, "law", mode, n)
                take = torch.arange(n) % len(a)
                key, turn = (angles(n, rng=rng, device=a.device) for _ in range(2))
                z = model.conceal(a[take], key, a[(take + 1) % len(a)]).detach()
                found[f"{mode}, batch {n}"] = metrics.law_error(model.process, z, turn)
        model.load_state_dict(before)  # training mode has moved the running statistics
    model.eval()
    return found


def _earlier_commit(run):
    before = json.loads((run.folder / "environment.json").read_text())["before"]
    commits = {e.get("commit") for e in before} - {runs.commit()}
    return f"; begun under commit {', '.join(sorted(commits))}, now {runs.commit()}" if commits else ""


def _tensorboard(run):
    """A writer beside the run; the module is an extra, whose absence is said in one line."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run.folder / "tensorboard")
