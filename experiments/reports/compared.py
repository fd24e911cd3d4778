"""Trained networks side by side: their learning curves, and a table of what each came to and what attacks saw of it."""

import csv

from experiments import runs
from experiments.reports.attacked import LABELS
from experiments.reports.demo_figures import BLUE, GREEN, ORANGE, RED, save_figure, save_table
from experiments.victim import title

COLOURS = (BLUE, RED, GREEN, ORANGE)
HEADER = (
    "network", "epochs (kept)", "test error", "validation error", "rotation law", "attack 1", "attack 2", "angle error",
    "clean features", "open features", "mean image", "hours",
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
            title(settings),
            f"{settings.epochs} ({summary['kept']['epoch']})",
            f"{summary['test_error']:.1%}",
            f"{summary['kept']['val_error']:.1%}",
            "-" if law is None else f"{law:.0e}",
            *(seen.get(line, "-") for line in ATTACKED.values()),
            f"{summary['seconds'] / 3600:.2f}",
        ))  # fmt: skip
    return table


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
        "# Trained networks side by side",
        "",
        header,
        "|---" * len(HEADER) + "|",
        *body,
        "",
        "The weights kept are those of the epoch with the lowest validation error. RMSE of pixels 0..1 of what each "
        "attack redraws, lower means that it sees more; open features: the same U-Net on the features of a network "
        "without a key; clean features: given those before the rotation.",
        "",
        f"Runs {', '.join(f'`{run.folder.name}`' for run, _ in found)}; commits {', '.join(commits)}.",
        "",
        "![learning curves](learning.png)",
        "",
    ]
    runs.write_text(out / "report.md", "\n".join(lines))
    curves(out, found)


def curves(out, found):
    """Validation error, training loss and critic gap against the epoch, a colour a network, a dash for the original."""
    from matplotlib import pyplot as plt

    networks = list(dict.fromkeys(settings.network for _, settings in found))
    hidden = any("critic_gap" in m for run, _ in found for m in run.metrics())
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    data = [("run", "network", "form", "epoch", "measure", "value")]
    with plt.rc_context(style | {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "savefig.dpi": 160}):
        figure, axes = plt.subplots(1, 2 + hidden, figsize=(4.2 * (2 + hidden), 3.6), layout="constrained")
        shown = {"val_error": ("error on the validation images", "error (%)", 100)}
        shown |= {"loss": ("training loss", "nats", 1)}
        if hidden:
            shown |= {"critic_gap": ("critic: gap between true and wrongly turned", "E[D(a)] - E[D(a')]", 1)}
        for ax, (measure, (name, unit, scale)) in zip(axes, shown.items(), strict=True):
            for run, settings in found:
                points = [(m["epoch"], scale * m[measure]) for m in run.metrics() if measure in m]
                if points:
                    colour = COLOURS[networks.index(settings.network) % len(COLOURS)]
                    dash = "-" if settings.form == "complex" else "--"
                    ax.plot(*zip(*points, strict=True), dash, color=colour, label=title(settings))
            ax.set(title=name, xlabel="epoch", ylabel=unit)
            if measure == "critic_gap":
                ax.set_yscale("log")
            else:
                ax.set_ylim(0, None)
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].legend(fontsize=8)
        save_figure(figure, out / "learning.png")
    for run, settings in found:
        for m in run.metrics():
            data += [(run.folder.name, settings.network, settings.form, m["epoch"], k, m[k]) for k in m if k != "epoch"]
    save_table(out / "learning.csv", data)


def _attacks(run):
    """The table that the attacks on a run have left, as a dictionary; empty where there were none."""
    path = run.folder / "attacks" / "results.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
