"""What the attacks see of one trained network: a table and a picture, and under which threat model."""

from experiments import metrics, runs
from experiments.attacks import LABELS, angle, inversion1, inversion2, open_features
from experiments.attacks.knowledge import DESCRIPTIONS
from experiments.departures import departure_lines, differing_text
from experiments.reports.demo_figures import reconstruction_rows, save_table

KEYED = {"angle predictor": angle, "inversion attack 1": inversion1, "inversion attack 2": inversion2}


def threat_model(form):
    """Who knows what, as the attacks declare it."""
    seen = {
        "complex": "what the cloud saw: features under the key",
        "noisy": "what the cloud saw: features under noise",
    }.get(form, "the features, which cross in the open")
    lines = [f"  every adversary sees {seen}; none is given the victims' images, keys or clean features"]
    for name, module in (KEYED if form == "complex" else {"inversion": open_features}).items():
        lines.append(f"  {name} also knows")
        lines += [f"    - {DESCRIPTIONS[fact]}" for fact in module.KNOWS if fact != "gamma" or form == "noisy"]
    return "\n".join(lines)


def learned_from(halves):
    """Whose images the attacks learned from and are scored on, a sentence or two."""
    if halves:
        return (
            "The attacks learned from the attacker's half of the training images and are scored on the defender's half "
            "of the test images."
        )
    return (
        "Nothing was halved: the attacks learned from the very images that the network learned from, and are scored on "
        "its test images."
    )


def table(results):
    """Rows of text, a header first."""
    score = {k: f"{v['victims']['rmse']:.3f}" for k, v in results["attacks"].items()}
    control, mean = results.get("control"), results["mean_image"]["rmse"]
    verdict = "not run (--control)"
    if results["settings"].form == "original":  # its own control; no other network's features are the original's
        control = results["attacks"]["open-features"]
    if control:
        passed = metrics.control(control["victims"]["rmse"], mean)
        verdict = f"{control['victims']['rmse']:.3f}, " + ("passed" if passed else "attacker too weak: no conclusion")
    rows = [("measure", "value")]
    rows.append(("classification error", f"{results['run'].summary()['test_error']:.1%}"))
    rows += [(f"{LABELS[name]}, RMSE", value) for name, value in score.items()]
    if "angle" in results:
        found = results["angle"]
        rows.append(
            ("angle error, mean / median", f"{found['circular_mean']:.3f} / {found['circular_median']:.3f} rad")
        )
    rows.append(("mean image, RMSE", f"{mean:.3f}"))
    rows.append(("positive control: the same U-Net on the original network", verdict))
    return rows


def summary_lines(results):
    """The table as plain lines."""
    rows = table(results)[1:]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def write(out, results):
    """report.md, results.csv, reconstructions.png and its csv."""
    import matplotlib

    matplotlib.use("Agg")
    rows = table(results)
    run, settings, data = results["run"], results["settings"], results["data"]
    header, *body = rows
    lines = [
        f"# {settings.network}, {settings.form}, under attack on {data.name} (preset `{settings.preset}`)",
        "",
        f"| {' | '.join(header)} |",
        "|---|---|",
        *(f"| {' | '.join(row)} |" for row in body),
        "",
        f"RMSE of pixels 0..1; lower means that the attack sees more. {learned_from(settings.halves)}",
        *(f"Of the data: {note}." for note in data.notes),
        "",
        f"Settings other than the preset's: {differing_text(settings, data.name) or 'none'}.",
        "",
        *departure_lines(settings, data.name),
        "",
        f"U-Net of width {settings.unet_width}, {settings.attack_epochs} epochs; run `{run.folder.name}`, "
        f"{run.environment()['torch']}, commit {run.environment()['commit']}.",
        "",
        "![redrawn](reconstructions.png)",
        "",
        "Threat model:",
        "",
        threat_model(settings.form),
        "",
    ]
    out.mkdir(parents=True, exist_ok=True)
    pictures = [
        (LABELS[name].replace(": ", ":\n"), found["redrawn"], found["victims"]["rmse"])
        for name, found in results["attacks"].items()
    ]
    if "control" in results:
        found = results["control"]
        pictures.insert(0, ("original network:\nU-Net on its features", found["redrawn"], found["victims"]["rmse"]))
    with matplotlib.rc_context({"font.size": 9, "savefig.dpi": 160}):
        reconstruction_rows(out, results["shown"], pictures)
    save_table(out / "results.csv", rows)
    runs.write_text(out / "report.md", "\n".join(lines))
