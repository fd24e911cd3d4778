"""What every stage of work reads: settings, data, seed, device, where its runs lie, and who is told of progress."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import data as datasets
from experiments import runs
from experiments import settings as presets
from experiments.networks import check_fits
from experiments.progress import Progress


class UsageError(ValueError):
    """A setting that cannot be; the message is one line."""


@dataclass
class Job:
    settings: presets.Report
    data: datasets.Data
    seed: int
    device: torch.device
    place: Path  # where its runs lie
    progress: Progress


def skipped(job, run):
    """True, and said so, where the run is finished; another commit's run is used and named."""
    if not run.finished:
        return False
    then = json.loads((run.folder / "environment.json").read_text())["commit"]
    now = runs.commit()
    job.progress.skip("finished earlier" + (f", under commit {then} (now {now})" if then != now else ""))
    return True


def chosen_settings(name, data, changes, network="lenet"):
    """A preset with its changes, which its network and the data can take, or a UsageError of one line."""
    try:
        settings = presets.override(presets.preset(name, data, network), changes)
        check_fits(settings, data)
    except ValueError as error:
        raise UsageError(error) from None
    return settings


def refuse(changes, names, why):
    """A UsageError where `--set` changes one of these names."""
    for change in changes:
        name = change.partition("=")[0].strip()
        if name in names:
            raise UsageError(f"`--set {name}` {why}")


def choose_device(name):
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("`--device cuda` needs a GPU that torch can use, and there is none; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe(device):
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread" + "s" * (threads > 1)


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


def describe_data(data):
    """Lines that say who holds what, and what is to be known of it."""
    lines = [
        f"  {party}: {n['train']} images to learn from, {n['val']} to choose by, {n['test']} to be scored on"
        for party, n in data_facts(data)["images"].items()
    ]
    return lines + [f"  {note}" for note in data.notes]
