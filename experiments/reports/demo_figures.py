"""The demo's three figures, each with its data beside it as csv."""

import csv
import io

import torch

from experiments import metrics, runs
from experiments.attacks import LABELS

# colour-blind safe (Okabe and Ito 2008)
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
STYLES = {  # stage: (colour, line)
    "open-features": (BLUE, "-"),
    "clean-features": (GREY, "--"),
    "inversion1": (GREEN, "-"),
    "inversion2": (RED, "-"),
}


def write(out, results):
    """reconstructions.png, curves.png, angles.png and their csv files."""
    import matplotlib

    matplotlib.use("Agg")
    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.grid": True,
    }
    with matplotlib.rc_context(style | {"grid.alpha": 0.3, "legend.frameon": False, "savefig.dpi": 160}):
        reconstructions(out, results)
        curves(out, results)
        angles(out, results)


def reconstructions(out, results):
    """One column per image, the originals above, one labelled row per attack below, the mean image last."""
    truth = results["shown"]["pixels"]
    mean = results["shown"]["mean"].expand_as(truth)
    rows = [
        (_label(k).replace(": ", ":\n"), results["attacks"][k]["redrawn"], results["attacks"][k]["victims"]["rmse"])
        for k in STYLES
    ]
    rows.append(("mean image, anchor:\nno features at all", mean, results["mean_image"]["rmse"]))
    reconstruction_rows(out, truth, rows)


def reconstruction_rows(out, truth, rows):
    """reconstructions.png and .csv: the images `[N, 3, H, W]` and below them rows of (label, images, RMSE of all)."""
    from matplotlib import pyplot as plt

    rows = [("the users' images", truth, None), *rows]
    figure, axes = plt.subplots(
        len(rows), len(truth), figsize=(0.78 * len(truth) + 2.5, 0.82 * len(rows) + 0.2), squeeze=False
    )
    for line, (label, images, error) in zip(axes, rows, strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            for side in ax.spines.values():
                side.set_visible(False)
        text = label if error is None else f"{label}\nRMSE {error:.3f}"
        line[0].set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8)
    figure.subplots_adjust(
        left=2.35 / figure.get_figwidth(), right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.08
    )
    save_figure(figure, out / "reconstructions.png")
    table = [["row", "image", "rmse"]]
    for label, images, _ in rows[1:]:
        table += [[label.replace("\n", " "), i, metrics.rmse(images[i], truth[i])] for i in range(len(truth))]
    save_table(out / "reconstructions.csv", table)


def curves(out, results):
    """Classification, critic, attacks and angle against the epoch."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.2), layout="constrained")
    classify, critic, attack, angle = axes.flat
    for stage, label, colour in (("lenet-original", "original", BLUE), ("lenet-complex", "complex, with WGAN", RED)):
        classify.plot(*_curve(results, stage, "val_error", 100), color=colour, label=label)
    classify.set(
        title="Classifiers: error on the defender's validation images",
        xlabel="epoch",
        ylabel="error (%)",
        ylim=(0, None),
    )
    classify.legend()
    critic.plot(*_curve(results, "lenet-complex", "critic_gap"), color=RED)
    critic.set(
        title="Critic: gap between true and wrongly turned features", xlabel="epoch", ylabel="E[D(a)] - E[D(a')]"
    )
    for stage, (colour, style) in STYLES.items():
        x, y = _curve(results, stage, "val_rmse")
        attack.plot(x, y, color=colour, linestyle=style, label=_label(stage))
    mean = results["mean_image"]["rmse"]
    attack.axhline(mean, color="black", linewidth=0.9, linestyle=":", label="mean image, no features at all")
    attack.axhline(
        mean / 2, color="black", linewidth=0.6, linestyle=(0, (1, 4)), label="half of it: the positive control's level"
    )
    attack.set(title="Attackers: RMSE on their own validation images", xlabel="epoch", ylabel="RMSE, pixels 0..1")
    attack.set_ylim(0, 2.3 * mean)  # what is worse than twice the mean image is off the picture; it is in the csv file
    attack.legend(fontsize=7.5, loc="upper right")
    angle.plot(*_curve(results, "angle", "val_angle_error"), color=GREEN)
    angle.set(title="Angle predictor: error on its own validation images", xlabel="epoch", ylim=(0, None))
    angle.set_ylabel("mean circular error (rad)")
    for ax in axes.flat:
        ax.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, out / "curves.png")
    save_table(
        out / "curves.csv",
        [["stage", "epoch", "measure", "value"]] + [[r.stage, r.epoch, r.measure, r.value] for r in results["curves"]],
    )


def angles(out, results):
    """Histogram of the angle errors: the whole half turn, and close to zero."""
    from matplotlib import pyplot as plt

    found = results["angle"]
    error = found["circular"]
    figure, (whole, near) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
    whole.hist(error.numpy(), bins=torch.linspace(0, torch.pi, 61).numpy(), color=GREEN)
    whole.set(
        xlabel="circular error (rad)",
        ylabel="samples",
        xlim=(0, torch.pi),
        yscale="log",
        ylim=(0.7, None),
        title="All errors, bins of 3°",
    )
    whole.set_xticks([0, torch.pi / 4, torch.pi / 2, 3 * torch.pi / 4, torch.pi], ["0", "π/4", "π/2", "3π/4", "π"])
    whole.axvline(torch.pi / 2, color=GREY, linestyle=":")
    note = "a blind guess's mean;\na taken for b"
    whole.text(torch.pi / 2 + 0.04, 0.97, note, transform=whole.get_xaxis_transform(), va="top", fontsize=8, color=GREY)
    most = max(error.quantile(0.98).item(), 1e-3)
    near.hist(error.numpy(), bins=torch.linspace(0, most, 41).numpy(), color=GREEN)
    for value, name, colour in ((found["circular_median"], "median", "black"), (found["circular_mean"], "mean", RED)):
        if value <= most:
            near.axvline(value, color=colour, linestyle="--", label=f"{name} {value:.3f} rad")
    near.set(
        xlabel="circular error (rad)", ylabel="samples", xlim=(0, most), title="The same near zero, 98 % of the samples"
    )
    near.legend()
    save_figure(figure, out / "angles.png")
    columns = [found[k].tolist() for k in ("theta", "guess", "raw", "circular")]
    save_table(
        out / "angles.csv", [["theta", "guess", "raw_error", "circular_error"], *map(list, zip(*columns, strict=True))]
    )


def _label(stage):
    return f"original network: {LABELS[stage]}" if stage == "open-features" else f"complex network, {LABELS[stage]}"


def _curve(results, stage, measure, scale=1):
    rows = [r for r in results["curves"] if r.stage == stage and r.measure == measure]
    return [r.epoch for r in rows], [scale * r.value for r in rows]


def save_figure(figure, path):
    from matplotlib import pyplot as plt

    with runs.replacing(path) as part:
        figure.savefig(part, format="png")
    plt.close(figure)


def save_table(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    runs.write_text(path, text.getvalue())
