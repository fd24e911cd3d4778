"""The main job: an original and a complex LeNet are trained, attacked, and reported on (preset `fast`).

    network     classification error   attack 1      attack 2            angle error
    original    3 %                    -             U-Net on features   -
    complex     4 %                    a*, U-Net     U-Net on z          radians

Seven stages, each a run on disk under `<out>/stages`: a finished one is skipped, so the same command continues an
interrupted job. The attacks learn from the attacker's half of the training images and are scored on the defender's
half of the test images: the pictures of users whose classification error stands in the same row, which neither party
learned from. How they do on the attacker's own test half is recorded beside it (`own_test` in results.json): what an
adversary could know of its own success.
"""

import functools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from experiments import data as datasets
from experiments import metrics, runs, train
from experiments import settings as presets
from experiments.attacks import angle, clean_features, inversion1, inversion2, open_features
from experiments.attacks.knowledge import Knowledge, Transcript, encode_all
from experiments.progress import Progress, clock
from experiments.reports import demo_figures, demo_page
from experiments.seeds import angles, generator, partners
from models.attackers import AnglePredictor

LAW = 1e-5  # largest relative error of the rotation law, float32
# largest classification error on the digits' held-out part; a plain two-tensor trial reached 3 % and 5 %
BARS = {"digits": {"original": 0.08, "complex": 0.12}}
KEYED_FIELDS = (  # what a network without a key does not depend on
    *("generator", "weights", "c", "detach_b", "adversary", "penalty", "clip", "k", "schedule"),
    *("critic_lr", "generator_lr", "clip_lr", "critic_every", "generator_every"),
)
ATTACK_FIELDS = ("attack_epochs", "attack_batch", "attack_lr", "attack_decay", "unet_width")
ANGLE_FIELDS = ("angle_epochs", "angle_batch", "angle_lr", "angle_loss")
STAGES = (
    # name, title, seconds per image and epoch on one thread (a U-Net's at width 8), for the time left
    ("lenet-original", "original LeNet", 1.4e-4),
    ("lenet-complex", "complex LeNet with WGAN", 7e-4),
    ("open-features", "U-Net on the original's features", 1.9e-3),
    ("clean-features", "U-Net on the complex one's clean features (anchor)", 1.9e-3),
    ("angle", "angle predictor", 6e-5),
    ("inversion1", "attack 1, U-Net on a*", 1.9e-3),
    ("inversion2", "attack 2, U-Net on both parts", 1.9e-3),
)


NARROW = 16  # U-Net width up to which one thread does


class UsageError(ValueError):
    """A setting that cannot be; the message is one line."""


@dataclass
class Job:
    """What every stage reads."""

    settings: presets.Report
    data: datasets.Data
    seed: int
    device: torch.device
    stages: Path
    progress: Progress


def run(args):
    """Do the job; returns the exit status: 0, or 1 where the run did not show what it had to."""
    began = time.monotonic()
    try:
        settings = presets.override(presets.preset("fast", args.data), args.changes)
    except ValueError as error:
        raise UsageError(error) from None
    device = choose_device(args.device)
    if device.type == "cpu" and settings.unet_width <= NARROW and "OMP_NUM_THREADS" not in os.environ:
        # U-Net of width 8, batches of 32, two cores, images a second: two threads 670, one 546; with one other busy
        # process beside it two threads 43 (each waits for the other at every layer), one 543
        torch.set_num_threads(1)
    out = Path(args.out or f"runs/demo/{args.data}-seed{args.seed}")
    data = datasets.load(args.data, settings, args.data_root, args.accept_checksum_mismatch)
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"*{runs.PART}"):
        left.unlink()
    job = Job(settings, data.to(device), args.seed, device, out / "stages", Progress(expected(settings, data)))
    announce(job, out)
    results = work(job)
    results["seconds"] = time.monotonic() - began
    demo_figures.write(out, results)
    demo_page.write(out, results)
    for line in demo_page.summary_lines(results):
        job.progress.say(line)
    job.progress.say(f"report: {out / 'report.md'}  ({clock(results['seconds'])})")
    return 0 if all(bar["passed"] for bar in results["bars"]) else 1


def work(job):
    """Every stage, then everything the report prints, as plain values and small tensors."""
    original, original_run = trained(job, "original")
    cmplx, complex_run = trained(job, "complex")
    victims = job.data.defender.test
    own = job.data.attacker.test
    shown = one_of_each(victims.labels)

    def knowledge(model, **more):
        return Knowledge(encode=model.encode, train=job.data.attacker.train, val=job.data.attacker.val, **more)

    a_open, a = (encode_all(model.encode, victims) for model in (original, cmplx))
    own_open, own_a = (encode_all(model.encode, own) for model in (original, cmplx))
    (z, theta), (own_z, _) = transcript(cmplx, a, job.seed, "victims"), transcript(cmplx, own_a, job.seed, "own")
    redraw = functools.partial(attacked, job, victims, own, shown)
    attacks = {}
    attacks["open-features"] = redraw(
        "open-features", open_features, original_run, a_open, own_open, knowledge(original)
    )
    attacks["clean-features"] = redraw(
        "clean-features", clean_features, complex_run, z, own_z, knowledge(cmplx), clean=(a, own_a)
    )
    guessed, guess, angle_run = guessed_angles(job, complex_run, z, theta, knowledge(cmplx))
    attacks["inversion1"] = redraw("inversion1", inversion1, angle_run, z, own_z, knowledge(cmplx, guess_angle=guess))
    attacks["inversion2"] = redraw("inversion2", inversion2, complex_run, z, own_z, knowledge(cmplx))

    mean = metrics.mean_image_errors(job.data.attacker.train.pixels, victims.pixels)
    control = metrics.control(attacks["open-features"]["victims"]["rmse"], mean["rmse"])
    results = {
        "preset": job.settings.preset,
        "settings": presets.as_dict(job.settings),
        "seed": job.seed,
        "device": describe(job.device),
        "environment": runs.environment(),
        "data": data_facts(job.data),
        "networks": {"original": original_run.summary(), "complex": complex_run.summary()},
        "attacks": attacks,
        "angle": guessed,
        "mean_image": mean,
        "control": control,
        "law": law(cmplx, a, job.seed),
        "curves": curves(job, (original_run, complex_run, angle_run), attacks),
        "shown": {"pixels": victims.pixels[shown].cpu(), "mean": job.data.attacker.train.pixels.mean(0).cpu()},
    }
    stages = (results["networks"]["original"], results["networks"]["complex"], guessed, *attacks.values())
    results["worked"] = sum(stage["seconds"] for stage in stages)
    results["bars"] = bars(job.data.name, results)
    return results


def trained(job, form):
    """The LeNet of this form, trained now or earlier, in inference mode, and its run."""
    elsewhere = ATTACK_FIELDS + ANGLE_FIELDS + (() if form == "complex" else KEYED_FIELDS)
    settings = {k: v for k, v in presets.as_dict(job.settings).items() if k not in elsewhere}
    run = runs.Run(job.stages, f"lenet-{form}", {**settings, "form": form, "seed": job.seed}, job.data.fingerprint)
    model = train.build(form, job.settings, job.data.classes, job.seed).to(job.device)
    if skipped(job, run):
        model.load_state_dict(run.load())
        return model.eval(), run
    run.start()
    job.progress.start()

    def log(epoch, epochs, m):
        run.log(**m)
        hidden = f"  critic gap {m['critic_gap']:.2f}" if "critic_gap" in m else ""
        job.progress.epoch(
            epoch, epochs, f"loss {m.get('loss', float('nan')):.3f}  validation error {m['val_error']:.1%}{hidden}"
        )

    kept = train.train(model, job.data.defender, job.settings, job.seed, log)
    wrong, loss = train.error(model, job.data.defender.test, job.seed, "test")
    run.save(model.state_dict())
    run.finish(test_error=wrong, test_loss=loss, kept=kept, device=str(job.device))
    return model.eval(), run


def transcript(model, a, seed, whose):
    """What the cloud sees of features a `[N, C, h, w]`, and the angles `[N]`, which only the scoring is told."""
    rng = generator(seed, "keys", "transcript", whose)
    theta = angles(len(a), rng=rng, device=a.device)
    with torch.no_grad():
        return model.conceal(a, theta, partners(len(a), rng, a.device)), theta


def attacked(job, victims, own, shown, name, module, parent, seen, own_seen, knowledge, clean=None):
    """Run one redrawing attack (or read the finished run) and score it.

    Args:
        parent: the run that this one builds on; its id is part of this one's.
        seen, own_seen: the transcripts of the victims' images and of the attacker's own test images.
        clean: for the anchor alone, the features before the rotation of both.
    """
    fields = {k: v for k, v in presets.as_dict(job.settings).items() if k in ATTACK_FIELDS}
    run = runs.Run(job.stages, name, {**fields, "on": parent.id, "seed": job.seed}, job.data.fingerprint)
    if not skipped(job, run):
        run.start()
        job.progress.start()

        def log(epoch, epochs, m):
            run.log(**m)
            job.progress.epoch(epoch, epochs, f"RMSE train {m['train_rmse']:.3f}  own validation {m['val_rmse']:.3f}")

        facts = {"clean_features": torch.cat(clean)} if clean else {}
        facts |= {k: getattr(knowledge, k) for k in module.KNOWS if k not in facts}
        result = module.attack(Transcript(torch.cat((seen, own_seen))), Knowledge(**facts), job.settings, job.seed, log)
        images, own_images = result.images.split((len(victims), len(own)))
        best = min(run.metrics(), key=lambda m: (m["val_rmse"], -m["epoch"]))
        run.save(result.weights)
        run.save({"images": images[shown]}, "redrawn.safetensors")
        run.finish(
            victims=metrics.image_errors(images, victims.pixels),
            published_units=metrics.published_units(images, victims.pixels),
            own_test=metrics.image_errors(own_images, own.pixels),
            kept=best,
            epochs=job.settings.attack_epochs,
            device=str(job.device),
        )
    return run.summary() | {"redrawn": run.load("redrawn.safetensors")["images"], "curve": run.metrics()}


def guessed_angles(job, parent, z, theta, knowledge):
    """The angle attack: (its errors, the predictor as a function of z, its run)."""
    fields = {k: v for k, v in presets.as_dict(job.settings).items() if k in ANGLE_FIELDS}
    run = runs.Run(job.stages, "angle", {**fields, "on": parent.id, "seed": job.seed}, job.data.fingerprint)
    if not skipped(job, run):
        run.start()
        job.progress.start()

        def log(epoch, epochs, m):
            run.log(**m)
            job.progress.epoch(epoch, epochs, f"own validation error {m['val_angle_error']:.3f} rad")

        guesses, predictor = angle.attack(Transcript(z), knowledge.only(angle.KNOWS), job.settings, job.seed, log)
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
    predictor = AnglePredictor(*z.shape[2:4], loss=job.settings.angle_loss).to(job.device)
    predictor.load_state_dict(run.load())
    return run.summary() | run.load("angles.safetensors"), functools.partial(angle.guess, predictor), run


def law(model, a, seed):
    """Relative error of the rotation law on the trained processor, by mode and batch size: per-sample angles, true
    features."""
    found = {}
    # a GPU's convolutions may round their inputs to TF32, whose 1e-3 would hide a fault
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for mode in ("training", "inference"):
            model.processor.train(mode == "training")
            for n in (1, 7):
                rng = generator(seed, "law", mode, n)
                take = torch.arange(n) % len(a)
                key, turn = (angles(n, rng=rng, device=a.device) for _ in range(2))
                z = model.conceal(a[take], key, a[(take + 1) % len(a)]).detach()
                found[f"{mode}, batch {n}"] = metrics.law_error(model.process, z, turn)
    model.eval()
    return found


def bars(name, results):
    """What the run has to show, each with its value and whether it did. On CIFAR-10's subset the networks have to
    have learned at all and the law to hold: how far a LeNet and a narrow U-Net get there is a finding, and the positive
    control says what may be concluded from it."""
    found = []

    def bar(what, value, most):
        found.append({"what": what, "value": value, "most": most, "passed": value <= most})

    learned = metrics.LEARNED * (1 - 1 / results["data"]["classes"])
    for form in ("original", "complex"):
        most = BARS.get(name, {}).get(form, learned)
        bar(f"classification error, {form} LeNet", results["networks"][form]["test_error"], most)
    if name == "digits":
        half = metrics.CONTROL * results["mean_image"]["rmse"]
        bar("RMSE from the original's features", results["attacks"]["open-features"]["victims"]["rmse"], half)
        bar("RMSE from the complex one's clean features", results["attacks"]["clean-features"]["victims"]["rmse"], half)
    bar("rotation law on the trained processor, relative error", max(results["law"].values()), LAW)
    return found


def skipped(job, run):
    """True, and said so, where the run is finished; another commit's run is used and named."""
    if not run.finished:
        return False
    then = json.loads((run.folder / "environment.json").read_text())["commit"]
    now = runs.commit()
    job.progress.skip("finished earlier" + (f", under commit {then} (now {now})" if then != now else ""))
    return True


def curves(job, trainings, attacks):
    """Rows (stage, epoch, measure, value) of every curve."""
    rows = []
    for name, records in [(r.name, r.metrics()) for r in trainings] + [(k, v["curve"]) for k, v in attacks.items()]:
        for m in records:
            rows += [
                SimpleNamespace(stage=name, epoch=m["epoch"], measure=k, value=v) for k, v in m.items() if k != "epoch"
            ]
    return rows


def one_of_each(labels):
    """The first image of each of the first ten classes, an index."""
    return torch.tensor([(labels == c).nonzero()[0].item() for c in labels.unique().tolist()[:10]])


def data_facts(data):
    sizes = {
        party: {part: len(getattr(getattr(data, party), part)) for part in ("train", "val", "test")}
        for party in ("defender", "attacker")
    }
    return {
        "name": data.name,
        "classes": data.classes,
        "fingerprint": data.fingerprint,
        "notes": list(data.notes),
        "images": sizes,
    }


def expected(settings, data):
    """(title, expected seconds) of each stage."""
    epochs = {"lenet-original": settings.epochs, "lenet-complex": settings.epochs, "angle": settings.angle_epochs}
    wide = (settings.unet_width / 8) ** 1.2
    return [
        (title, cost * len(data.defender.train) * (epochs[name] if name in epochs else settings.attack_epochs * wide))
        for name, title, cost in STAGES
    ]


def choose_device(name):
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("`--device cuda` needs a GPU that torch can use, and there is none; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device):
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread" + "s" * (threads > 1)


def announce(job, out):
    facts = data_facts(job.data)
    say = job.progress.say
    say(
        f"preset {job.settings.preset}, a demonstration; data {facts['name']}, seed {job.seed}; device "
        f"{describe(job.device)}"
    )
    for party, sizes in facts["images"].items():
        say(
            f"  {party}: {sizes['train']} images to learn from, {sizes['val']} to choose by, {sizes['test']} to be "
            "scored on"
        )
    for note in facts["notes"]:
        say(f"  {note}")
    seconds = sum(work for _, work in job.progress.stages)
    say(
        f"  about {clock(seconds)} on one core, 1 GiB of memory, 20 MB of disk under {out}; Ctrl-C stops, the same "
        "command continues"
    )
