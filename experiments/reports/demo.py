"""The main job: an original and a complex LeNet are trained, attacked, and reported on (preset `fast`).

    network     classification error   attack 1      attack 2            angle error
    original    3 %                    -             U-Net on features   -
    complex     4 %                    a*, U-Net     U-Net on z          radians

Seven stages, each a run on disk under `<out>/stages`: a finished one is skipped, a network's goes on where it was and
an attack's after its last epoch, so the same command continues an interrupted job. Who is attacked and
scored on what: `experiments.attack`.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from experiments import attack, metrics, runs, victim
from experiments import data as datasets
from experiments import settings as presets
from experiments.job import Job, choose_device, chosen_settings, data_facts, describe, describe_data, refuse
from experiments.progress import Progress, clock
from experiments.reports import demo_figures, demo_page

LAW = 1e-5  # largest relative error of the rotation law, float32
# largest classification error on the digits' held-out part; a plain two-tensor trial reached 3 % and 5 %
BARS = {"digits": {"original": 0.08, "complex": 0.12}}
NARROW = 16  # U-Net width up to which one thread does


def run(args):
    """Do the job; returns the exit status: 0, or 1 where the run did not show what it had to."""
    began = time.monotonic()
    refuse(args.changes, ("network", "form"), "is not for demo, which trains both forms of LeNet; use train")
    settings = chosen_settings("fast", args.data, args.changes)
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
    original, original_run = victim.trained(replace(job, settings=replace(job.settings, form="original")))
    cmplx, complex_run = victim.trained(job)
    in_the_open = attack.Battery(job, original, original_run)
    under_a_key = attack.Battery(job, cmplx, complex_run)
    attacks = in_the_open.on_open()
    keyed, guessed, angle_run = under_a_key.on_keyed()
    attacks |= keyed
    mean = under_a_key.mean_image()
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
        "control": metrics.control(attacks["open-features"]["victims"]["rmse"], mean["rmse"]),
        "law": complex_run.summary()["law"],
        "curves": curves(job, (original_run, complex_run, angle_run), attacks),
        "shown": {
            "pixels": under_a_key.victims.pixels[under_a_key.shown].cpu(),
            "mean": job.data.attacker.train.pixels.mean(0).cpu(),
        },
    }
    stages = (results["networks"]["original"], results["networks"]["complex"], guessed, *attacks.values())
    results["worked"] = sum(stage["seconds"] for stage in stages)
    results["bars"] = bars(job.data.name, results)
    return results


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


def curves(job, trainings, attacks):
    """Rows (stage, epoch, measure, value) of every curve."""
    rows = []
    for name, records in [(r.name, r.metrics()) for r in trainings] + [(k, v["curve"]) for k, v in attacks.items()]:
        for m in records:
            rows += [
                SimpleNamespace(stage=name, epoch=m["epoch"], measure=k, value=v) for k, v in m.items() if k != "epoch"
            ]
    return rows


def expected(settings, data):
    """(title, expected seconds) of each stage."""
    images = len(data.defender.train)
    networks = [victim.expected(replace(settings, form=form), images) for form in ("original", "complex")]
    return networks + attack.expected((*attack.OPEN, *attack.KEYED), settings, images)


def announce(job, out):
    say = job.progress.say
    say(
        f"preset {job.settings.preset}, a demonstration; data {job.data.name}, seed {job.seed}; device "
        f"{describe(job.device)}"
    )
    for line in describe_data(job.data):
        say(line)
    seconds = sum(work for _, work in job.progress.stages)
    say(
        f"  about {clock(seconds)} on one core, 1 GiB of memory, 20 MB of disk under {out}; Ctrl-C stops, the same "
        "command continues"
    )
