"""Trained networks side by side: their learning curves, and a table of what each came to and what attacks saw of it."""

import csv

from experiments import runs
from experiments.departures import departure_lines, differing_text
from experiments.reports.attacked import LABELS
from experiments.reports.demo_figures import BLUE, GREEN, GREY, ORANGE, RED, save_figure, save_table
from experiments.victim import title

COLOURS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", GREY, "black")
DASHES = {"complex": "-", "original": "--", "layers": "-.", "noisy": ":"}
MARKERS = ("", "o", "s", "^", "x")  # where there are more networks than colours
HEADER = (
    "network", "data", "preset", "seed", "differs in", "epochs (kept)", "test error", "validation error",
    "rotation law", "attack 1", "attack 2", "angle error", "clean features", "open features", "mean image", "hours",
)  # fmt: skip
ATTACKED = {  # column: the line of an attack's table
    "attack 1": f"{LABELS['inversion1']}, RMSE",
    "attack 2": f"{LABELS['inversion2']}, RMSE",
    "angle error": "angle error, mean / median",
    "clean features": f"{LABELS['clean-features']}, RMSE",
    "open features": f"{LABELS['open-features']}, RMSE",
    "mean image": "mean image, RMSE",
}


def rows(found):
    """Of (run, settings) pairs a row of text each, a header first; what a run was not asked is `-`."""
    table = [HEADER]
    for run, settings in found:
        summary, seen = run.summary(), _attacks(run)
        law = max(summary["law"].values(), default=None)
        table.append((
            name(settings),
            *_where(run, settings),
            _differs(run, settings) or "-",
            f"{settings.epochs} ({summary['kept']['epoch']})",
            f"{summary['test_error']:.1%}",
            f"{summary['kept']['val_error']:.1%}",
            "-" if law is None else f"{law:.0e}",
            *(seen.get(line, "-") for line in ATTACKED.values()),
            f"{summary['seconds'] / 3600:.2f}",
        ))  # fmt: skip
    return table


def name(settings):
    """What a row is called; a noisy network with the size of its noise."""
    return title(settings) + (f", γ {settings.gamma:g}" if settings.form == "noisy" else "")


def styles(found):
    """For each run its (dash, colour, marker): a dash for the form, a colour for all else that makes it what it is."""
    kinds = [(settings.network, *_where(run, settings), name(settings).partition(", ")[2], _differs(run, settings))
             for run, settings in found]  # fmt: skip
    order = list(dict.fromkeys(kinds))
    many = len(COLOURS)
    return [
        (DASHES[settings.form], COLOURS[order.index(kind) % many], MARKERS[order.index(kind) // many % len(MARKERS)])
        for kind, (_, settings) in zip(kinds, found, strict=True)
    ]


def labels(found):
    """For each run what the legend calls it: its row's name and whatever the runs do not have in common."""
    wheres = [_where(run, settings) for run, settings in found]
    told = ("{}", "preset {}", "seed {}")
    varied = [i for i in range(3) if len({where[i] for where in wheres}) > 1]
    return [
        ", ".join(
            part
            for part in (name(settings), *(told[i].format(where[i]) for i in varied), _differs(run, settings))
            if part
        )
        for where, (run, settings) in zip(wheres, found, strict=True)
    ]


def _where(run, settings):
    """(data, preset, seed) as text."""
    return run.settings["data"], settings.preset, str(run.settings["seed"])


def _differs(run, settings):
    """What is not the preset's own, but for the noise's size, which is in the name."""
    found = differing_text(settings, run.settings["data"])
    return ", ".join(part for part in found.split(", ") if not part.startswith("gamma="))


def write(out, found):
    """report.md, results.csv, learning.png and learning.csv."""
    import matplotlib

    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    table = rows(found)
    save_table(out / "results.csv", table)
    header, *body = (f"| {' | '.join(row)} |" for row in table)
    environments = [run.environment() for run, _ in found]
    commits = dict.fromkeys(
        commit for e in environments for commit in (*(b.get("commit") for b in e["before"]), e["commit"])
    )
    lines = [
        f"# Trained networks side by side ({_presets(found)})",
        "",
        header,
        "|---" * len(HEADER) + "|",
        *body,
        "",
        "The weights kept are those of the epoch with the lowest validation error. RMSE of pixels 0..1 of what each "
        "attack redraws, lower means that it sees more; open features: the same U-Net on the features of a network "
        "without a key; clean features: given those before the rotation. Differs in: settings other than the preset's.",
        "",
        *_departures(found),
        f"Runs {', '.join(f'`{run.folder.name}`' for run, _ in found)}; commits {', '.join(commits)}.",
        "",
        "![learning curves](learning.png)",
        "",
    ]
    runs.write_text(out / "report.md", "\n".join(lines))
    curves(out, found)


def curves(out, found):
    """Validation error, training loss and critic gap against the epoch, each run in a style of its own."""
    from matplotlib import pyplot as plt

    hidden = any("critic_gap" in m for run, _ in found for m in run.metrics())
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    data = [("run", "network", "form", "epoch", "measure", "value")]
    with plt.rc_context(style | {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "savefig.dpi": 160}):
        size = (4.2 * (2 + hidden), 3 + 0.1 * len(found))  # inches; two names a line below
        figure, axes = plt.subplots(1, 2 + hidden, figsize=size, layout="constrained")
        shown = {"val_error": ("error on the validation images", "error (%)", 100)}
        shown |= {"loss": ("training loss", "nats", 1)}
        if hidden:
            shown |= {"critic_gap": ("critic: gap between true and wrongly turned", "E[D(a)] - E[D(a')]", 1)}
        named = list(zip(found, styles(found), labels(found), strict=True))
        for ax, (measure, (heading, unit, scale)) in zip(axes, shown.items(), strict=True):
            for (run, _), (dash, colour, marker), label in named:
                points = [(m["epoch"], scale * m[measure]) for m in run.metrics() if measure in m]
                if points:
                    line = {"linestyle": dash, "color": colour, "marker": marker, "markersize": 3}
                    ax.plot(*zip(*points, strict=True), label=label, **line)
            ax.set(title=heading, xlabel="epoch", ylabel=unit)
            if measure == "critic_gap":
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, None)
            ax.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        save_figure(figure, out / "learning.png")
    for run, settings in found:
        for m in run.metrics():
            data += [(run.folder.name, settings.network, settings.form, m["epoch"], k, m[k]) for k in m if k != "epoch"]
    save_table(out / "learning.csv", data)


def _presets(found):
    names = list(dict.fromkeys(settings.preset for _, settings in found))
    return ("preset " if len(names) == 1 else "presets ") + ", ".join(f"`{n}`" for n in names)


def _departures(found):
    """Where the authors' preset is not their code's protocol, each list once."""
    told = {}
    for run, settings in found:
        told.setdefault(tuple(departure_lines(settings, run.settings["data"])), []).append(name(settings))
    return [
        line
        for lines, names in told.items()
        if lines
        for line in (f"{', '.join(dict.fromkeys(names))}:", "", *lines, "")
    ]


def _attacks(run):
    """The table that the attacks on a run have left, as a dictionary; empty where there were none."""
    path = run.folder / "attacks" / "results.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
