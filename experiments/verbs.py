"""What each verb of the command line does; returns its exit status."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from experiments import attack, memory, processes, runs, victim
from experiments import data as datasets
from experiments import settings as presets
from experiments.data.images import DataError
from experiments.data.inventory import inventory
from experiments.departures import departure_lines
from experiments.job import Job, UsageError, choose_device, chosen_settings, describe, describe_data, refuse
from experiments.networks import build, on_meta
from experiments.progress import Progress, clock
from experiments.reports import attacked, compared, demo
from experiments.train import How


def data(args):
    """What is there, what is missing, where to put it."""
    rows = [("set", "state", "what to do"), *inventory(args.data_root)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for row in rows:
        print(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
    return 0


def train(args):
    refuse(args.changes, ("network", "form"), "is not for train, which takes both as words: train NETWORK FORM")
    changes = [f"network={args.network}", f"form={args.form}", *args.changes]
    settings = chosen_settings(args.preset, args.data, changes, args.network)
    if args.deterministic:  # cuBLAS reads it when its first handle is made; without it products are refused
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    needed = memory.step(settings, args.data, int(os.environ.get("WORLD_SIZE", "1")))
    try:
        device = processes.join(choose_device(args.device))
    except ValueError as error:
        raise UsageError(error) from None
    chief, together = processes.rank() == 0, processes.world()
    if together > 1 and settings.b == "both":
        raise UsageError("`b`=both pairs the halves of a batch, which several processes would part; use one process")
    if settings.batch < 2 * together:
        raise UsageError(f"`batch` must be at least 2 for each of {together} processes, got {settings.batch}")
    progress = Progress([("", 0.0)], quiet=not chief)
    found = processes.one_after(lambda: _load(args, settings, progress))  # it may download, or decode pictures
    progress.stages = [victim.expected(settings, len(found.defender.train))]
    job = Job(settings, found.to(device), args.seed, device, Path(args.runs), progress)
    run = victim.open_run(job)
    if args.force and chief:
        shutil.rmtree(run.folder, ignore_errors=True)
    _announce(job, run, settings, needed)
    left = [n for n in (change.partition("=")[0].strip() for change in args.changes) if n not in run.settings]
    if left:
        progress.say(f"  no part of this run: {', '.join(left)}; an adversary's settings are given to attack")
    graph = device.type == "cuda" and not args.no_graph and settings.schedule == "together"
    if graph and together > 1:
        graph = False
        progress.say("  no CUDA graphs: not tried with several processes")
    model, run = victim.trained(job, How(graph, args.compile, args.deterministic, tensorboard=args.tensorboard))
    if chief:
        summary = run.summary()
        held = max(summary["law"].values(), default=None)
        progress.say(
            f"test error {summary['test_error']:.1%}"
            + (f", rotation law {held:.1e}" if held is not None else "")
            + f"; {clock(summary['seconds'])} of work; {run.folder}"
        )
    processes.leave()
    return 0


def attack_run(args):
    run, settings, name, seed = _finished(args.run, args.runs)
    settings = _changed(settings, args.changes, attack.ATTACK_FIELDS + attack.ANGLE_FIELDS)
    control = _control(args.control, args.runs, run, settings, seed) if args.control else None
    device = choose_device(args.device)
    progress = Progress([("", 0.0)])
    args.data = name
    found = _load(args, settings, progress)
    if found.fingerprint != run.data:
        raise UsageError(f"`--data-root` holds other data than {run.folder} was trained on; give the same")
    names = attack.KEYED if settings.form == "complex" else attack.OPEN
    stages = attack.expected(names, settings, len(found.attacker.train))
    if control:
        stages = attack.expected(attack.OPEN, settings, len(found.attacker.train)) + stages
    progress.stages = stages
    job = Job(settings, found.to(device), seed, device, run.folder / "attacks", progress)
    for line in (f"attacks on {run.folder}; device {describe(device)}", *describe_data(found)):
        progress.say(line)

    def battery(run, settings):
        here = replace(job, settings=settings, place=run.folder / "attacks")
        model = build(settings, found, seed).to(device)
        model.load_state_dict(run.load())
        return attack.Battery(here, model.eval(), run, args.seed)

    results = {"run": run, "settings": settings, "data": found}
    if control:
        results["control"] = battery(*control).on_open()["open-features"]
    victims = battery(run, settings)
    if settings.form == "complex":
        results["attacks"], results["angle"], _ = victims.on_keyed()
    else:
        results["attacks"] = victims.on_open()
    results["mean_image"] = victims.mean_image()
    results["shown"] = victims.victims[victims.shown].unit().pixels.cpu()
    attacked.write(job.place, results)
    for line in attacked.summary_lines(results):
        progress.say(line)
    progress.say(f"report: {job.place / 'report.md'}")
    return 0


def list_runs(args):
    rows = [("run", "id", "preset", "data", "seed", "state")]
    for folder in _folders(args.runs):
        kept = json.loads((folder / "settings.json").read_text())["settings"]
        named = (str(kept.get(name, "-")) for name in ("preset", "data", "seed"))  # an attack has its network's
        rows.append((folder.parent.name, folder.name, *named, _state(folder, kept)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows if len(rows) > 1 else [(f"no runs under {args.runs}",)]:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=False)).rstrip())
    return 0


def show(args):
    folder = _find(args.run, args.runs)
    kept = json.loads((folder / "settings.json").read_text())
    print(f"{folder}: {_state(folder, kept['settings'])}\n\nsettings (data {kept['data']}, format {kept['format']})")
    for name, value in kept["settings"].items():
        print(f"  {name:18} {value}")
    trained = _is_network(kept["settings"])
    if trained:
        for line in departure_lines(presets.from_dict(kept["settings"]), kept["settings"]["data"], "  "):
            print(line)
    print("\nenvironment")
    for name, value in json.loads((folder / "environment.json").read_text()).items():
        print(f"  {name:18} {value}")
    if trained:
        print(f"\nthreat model\n{attacked.threat_model(kept['settings']['form'])}")
    return 0


def compare(args):
    found = [_finished(name, args.runs)[:2] for name in args.run]
    out = Path(args.out)
    compared.write(out, found)
    table = compared.rows(found)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    print(f"report: {out / 'report.md'}")
    return 0


VERBS = {
    "demo": demo.run,
    "data": data,
    "train": train,
    "attack": attack_run,
    "compare": compare,
    "list": list_runs,
    "show": show,
}


def _load(args, settings, progress):
    root = None if args.data == "digits" else args.data_root
    found = datasets.load(args.data, settings, root, args.accept_checksum_mismatch, progress.say)
    for party in (found.defender, found.attacker):
        few = min(len(part) for part in (party.train, party.val, party.test))
        if few < 2:
            raise DataError(f"{args.data} has too few images: a part of them has {few}, and each hides behind another")
    return found


def _announce(job, run, settings, needed):
    say = job.progress.say
    say(
        f"preset {settings.preset}, {victim.title(settings)} on {job.data.name}, seed {job.seed}, "
        f"{settings.precision}; device {describe(job.device)}"
        + (f", {processes.world()} processes" if processes.world() > 1 else "")
    )
    for line in (*departure_lines(settings, job.data.name, "  "), *describe_data(job.data)):
        say(line)
    (_, seconds) = job.progress.stages[0]
    parameters = sum(p.numel() for p in on_meta(settings, job.data).parameters())
    say(
        f"  about {clock(seconds)} on one core; {parameters:,} parameters; a step's tensors take about "
        f"{needed / 2**30:.2f} GiB of memory (counted, not measured); {20 * parameters / 2**20 + 1:.0f} MB of disk "
        f"under {run.folder}; Ctrl-C stops, the same command continues"
    )


def _folders(root):
    """The folders of the runs under `root`: trained networks, or under <run>/attacks attacks."""
    return sorted(path.parent for path in Path(root).glob("*/*/settings.json"))


def _is_network(kept):
    """Whether the settings on disk are those of a trained network, not of an attack on one."""
    return "form" in kept


def _find(name, root):
    """A run's folder, by its path or the first digits of its id."""
    if (Path(name) / "settings.json").is_file():
        return Path(name)
    found = [folder for folder in _folders(root) if folder.name.startswith(name)]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise UsageError(f"`run` must be a run's folder or the first digits of its id; {what} {name!r} under {root}")
    return found[0]


def _finished(name, root):
    """(run, settings, data set, seed) of a finished run."""
    folder = _find(name, root)
    if not (folder / "summary.json").is_file():
        raise UsageError(f"`run` must be finished, {folder} is not; continue it with train first")
    kept = json.loads((folder / "settings.json").read_text())
    if not _is_network(kept["settings"]):
        raise UsageError(f"`run` must be a trained network, {folder} is an attack on one")
    run = runs.Run(folder.parents[1], folder.parent.name, kept["settings"], kept["data"])
    if run.id != folder.name:
        raise UsageError(
            f"{folder} was trained under format {kept['format']}, this is format {runs.FORMAT}: train it anew"
        )
    return run, presets.from_dict(kept["settings"]), kept["settings"]["data"], kept["settings"]["seed"]


def _control(name, root, run, settings, seed):
    """The control of an attack on `run`: (its run, its settings with the attacker of `settings`)."""
    if settings.form == "original":
        raise UsageError("`--control` is for the other forms, an original network is its own control; leave it out")
    control, its, _, its_seed = _finished(name, root)
    pairs = {"form": (its.form, "original"), "network": (its.network, settings.network)}
    pairs |= {"cut": (its.cut, settings.cut), "seed": (its_seed, seed), "data": (control.data, run.data)}
    wrong = [f"{what} {got} and not {must}" for what, (got, must) in pairs.items() if got != must]
    if wrong:
        raise UsageError(
            "`--control` must be a run of the original network, of the same network, cut, data and seed; "
            f"{control.folder} has {', '.join(wrong)}"
        )
    attacker = {name: getattr(settings, name) for name in attack.ATTACK_FIELDS + attack.ANGLE_FIELDS}
    return control, replace(its, **attacker)


def _changed(settings, changes, fields):
    """Settings with changes that an adversary may make: to itself."""
    for change in changes:
        name = change.partition("=")[0].strip()
        if name in presets.as_dict(settings) and name not in fields:
            raise UsageError(f"`--set` of an attack changes {', '.join(fields)}, got {name!r}")
    try:
        return presets.override(settings, changes)
    except ValueError as error:
        raise UsageError(error) from None


def _state(folder, kept):
    if (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text())
        return f"finished, test error {summary['test_error']:.1%}" if "test_error" in summary else "finished"
    if (folder / "stopped.json").is_file():
        stopped = json.loads((folder / "stopped.json").read_text())
        return f"{stopped['why']}: {stopped['where']}"
    path = folder / "metrics.jsonl"
    epochs = len(path.read_text().splitlines()) if path.is_file() else 0
    (planned,) = (kept[name] for name in ("epochs", "attack_epochs", "angle_epochs") if name in kept)
    return f"interrupted after {epochs} of {planned} epochs"
