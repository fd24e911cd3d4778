"""The demo's page: the table, what stands out in it and why, what the run had to show; and the same as json and csv."""

import shutil
from pathlib import Path

from experiments import metrics, runs
from experiments.attacks import LABELS
from experiments.progress import clock
from experiments.reports.demo_figures import save_table

COLUMNS = (
    "network",
    "classification error",
    "attack 1 (RMSE)",
    "attack 2 (RMSE)",
    "angle error, mean",
    "median",
    "raw mean",
    "mean image (RMSE)",
    "clean features (RMSE)",
    "positive control",
)


def write(out, results):
    """report.md, numbers.md, results.json and results.csv."""
    runs.write_text(out / "report.md", page(results))
    with runs.replacing(out / "numbers.md") as part:
        shutil.copyfile(Path(__file__).with_name("numbers.md"), part)
    left_out = ("redrawn", "curve", "theta", "guess", "raw", "circular")  # in the figures' csv files and in the stages
    plain = {k: v for k, v in results.items() if k not in ("curves", "shown")}
    plain["attacks"] = {n: {k: v for k, v in a.items() if k not in left_out} for n, a in results["attacks"].items()}
    plain["angle"] = {k: v for k, v in results["angle"].items() if k not in left_out}
    plain["explanations"] = explanations(results)
    runs.write_json(out / "results.json", plain)
    save_table(out / "results.csv", [COLUMNS, *rows(results)])


def rows(results):
    """The table's two rows, as text."""
    network, attack, angle = results["networks"], results["attacks"], results["angle"]
    score = {k: f"{v['victims']['rmse']:.3f}" for k, v in attack.items()}
    mean = f"{results['mean_image']['rmse']:.3f}"
    control = "passed" if results["control"] else "attacker too weak: no conclusion"
    dash = "-"
    return [
        ["original", _percent(network["original"]["test_error"]), dash, score["open-features"], dash, dash, dash, mean]
        + [score["open-features"], control],
        ["complex", _percent(network["complex"]["test_error"]), score["inversion1"], score["inversion2"]]
        + [f"{angle[k]:.3f} rad" for k in ("circular_mean", "circular_median", "raw_mean")]
        + [mean, score["clean-features"], control],
    ]


def explanations(results):
    """A sentence for each thing in the table that a reader would stumble over, and the conclusion it allows."""
    attack, angle = results["attacks"], results["angle"]
    rmse = {k: v["victims"]["rmse"] for k, v in attack.items()}
    mean = results["mean_image"]["rmse"]
    images = results["data"]["images"]["attacker"]["train"]
    said = [
        "The original network has no key: its features cross in the open, attack 2 is one U-Net on them, and there "
        "is no angle to find. That U-Net is the positive control of the other row."
    ]
    blind = 1 - 1 / results["data"]["classes"]
    for form, network in results["networks"].items():
        if network["test_error"] > metrics.LEARNED * blind:
            said.append(
                f"The {form} network did not learn: {_percent(network['test_error'])} of its classes are wrong, a "
                f"blind guess has {_percent(blind)}. What its features do not show to an attack they do not show to "
                "the network either; no number of its row says anything about privacy."
            )
    if results["control"]:
        said.append(
            f"Positive control passed: on the original's features this attacker reaches {rmse['open-features']:.3f}, "
            f"at most half of the mean image's {mean:.3f}. Its numbers on the complex network count."
        )
    else:
        said.append(
            f"Attacker too weak: no conclusion. On the original's features, where nothing is hidden, it reaches only "
            f"{rmse['open-features']:.3f}, more than half of the mean image's {mean:.3f}; a high number in the row "
            "below shows a weak attacker and not privacy."
        )
    if results["control"] and rmse["clean-features"] > metrics.CONTROL * mean:
        said.append(
            f"Even before the rotation the complex network's features yield only {rmse['clean-features']:.3f}: its "
            "encoder lets less through than the original's, and what its attacks miss is not the key's doing alone."
        )
    for name in ("inversion1", "inversion2"):
        said.append(_verdict(_begin(_called(name)), rmse[name], mean, results["control"]))
        if rmse[name] < rmse["clean-features"]:
            said.append(
                f"{_begin(_called(name))} ({rmse[name]:.3f}) is below the clean-feature anchor "
                f"({rmse['clean-features']:.3f}) although it knows less. The anchor's U-Net meets each of its "
                f"{images} images as one and the same feature in every epoch; the attack meets them under fresh keys "
                "and beside fresh partners, so what it reads differs a little each time, which works as augmentation "
                "where images are few. The anchor is what a decoder of clean features reaches at this budget, not a "
                "bound that no attack can pass."
            )
    if rmse["inversion1"] > rmse["inversion2"]:
        said.append(
            "Attack 1 does worse than attack 2 although its angle may be good: a* is all its U-Net sees, while "
            "attack 2 also reads the other part, and a wrong angle cannot mislead it."
        )
    late = [n for n, found in attack.items() if found["kept"]["epoch"] > 0.9 * found["epochs"] > 1]
    if late:
        named = [_called(n) for n in late]
        listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
        said.append(
            f"{_begin(listed)} {'was' if len(late) == 1 else 'were'} best in the last tenth of the epochs; a longer "
            "attack would probably see more. A demonstration's budget shows that an attack works, never that none does."
        )
    if angle["circular_mean"] > 2 * angle["circular_median"]:
        said.append(
            f"The mean angle error ({angle['circular_mean']:.3f} rad) is more than twice the median "
            f"({angle['circular_median']:.3f} rad): a few samples are far off, see the histogram."
        )
    if angle["wrapped"]:
        said.append(
            f"The raw angle error is larger than the circular one because {angle['wrapped']} of "
            f"{len(angle['raw'])} guesses fell just across the border between 2π and 0, where raw counts almost a "
            "whole turn."
        )
    return said


def _verdict(name, value, mean, control):
    if value <= metrics.CONTROL * mean:
        return (
            f"{name} reads the images: {value:.3f} is {100 * value / mean:.0f} % of the mean image's RMSE. "
            "Nothing is protected against it."
        )
    if value < mean:
        told = (
            f"{name} reads a part: {value:.3f} is {100 * value / mean:.0f} % of the mean image's RMSE, which "
            "takes no features at all."
        )
    else:
        told = (
            f"{name} is no better than the mean image ({value:.3f} against {mean:.3f}), which takes no features at all."
        )
    return told if control else told + " No conclusion follows, see the positive control."


def page(results):
    """report.md."""
    data, images = results["data"], results["data"]["images"]
    passed = all(bar["passed"] for bar in results["bars"])
    lines = [
        f"# LeNet under attack on {_data_name(data)} (preset `{results['preset']}`: a demonstration, not a "
        "reproduction)",
        "",
        _table([COLUMNS, *rows(results)]),
        "",
        "RMSE of pixels 0..1 between the users' images and those redrawn; lower means that the attack sees more. "
        "Angle errors are circular, but for the column that says raw. [What the numbers mean](numbers.md)",
        "",
        *(f"- {sentence}" for sentence in explanations(results)),
        "",
        "![the users' images and what each attack redraws](reconstructions.png)",
        "",
        "![training and attack curves](curves.png)",
        "",
        "![histogram of angle errors](angles.png)",
        "",
        "## What this run had to show",
        "",
        _table([("", "value", "at most", "")] + [_bar_row(bar) for bar in results["bars"]]),
        "",
        "All of it was shown." if passed else "**Not all of it was shown: " + "; ".join(_failures(results)) + ".**",
        "",
        "## How it was made",
        "",
        f"- Data: {_data_name(data)}; " + "; ".join(
            f"{party} {s['train']} images to learn from, {s['val']} to choose checkpoints by, {s['test']} to be "
            "scored on"
            for party, s in images.items()
        )
        + ". Attacks are scored on the defender's test images, which neither party learned from.",
        *(f"- Data, note: {note}." for note in data["notes"]),
        "- The adversary has the transcript, query access to the encoder, and images of its own; each attack's file "
        "declares it.",
        "- Rotation law on the trained processor, relative error: "
        + ", ".join(f"{value:.1e} ({case})" for case, value in results["law"].items()) + ".",
        f"- Seed {results['seed']}; device {results['device']}; torch {results['environment']['torch']}; "
        f"commit {results['environment']['commit']}; {clock(results['worked'])} of work.",
        "- Settings: " + ", ".join(f"{k} {v}" for k, v in results["settings"].items() if k != "preset") + ".",
        "- More measures (MAE, PSNR, SSIM, the units of the published tables, the attacker's own test half): "
        "[results.json](results.json); the table as [csv](results.csv); the figures' data: "
        "[reconstructions](reconstructions.csv), [curves](curves.csv), [angles](angles.csv).",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def summary_lines(results):
    """What the terminal shows at the end."""
    lines = []
    for row in rows(results):
        named = dict(zip(COLUMNS, row, strict=True))
        lines.append(
            f"{named['network']:>8}: error {named['classification error']}, attack 1 {named['attack 1 (RMSE)']}, "
            f"attack 2 {named['attack 2 (RMSE)']}, angle {named['angle error, mean']}, mean image "
            f"{named['mean image (RMSE)']}, clean features {named['clean features (RMSE)']}, control: "
            f"{named['positive control']}"
        )
    lines.append(f"     law: {max(results['law'].values()):.1e}")
    return lines + [f"FAILED: {failure}" for failure in _failures(results)]


def _failures(results):
    return [f"{b['what']}: {_number(b)} is above {_number(b, 'most')}" for b in results["bars"] if not b["passed"]]


def _bar_row(bar):
    return (bar["what"], _number(bar), _number(bar, "most"), "shown" if bar["passed"] else "**failed**")


def _number(bar, key="value"):
    if "classification" in bar["what"]:
        return _percent(bar[key])
    return f"{bar[key]:.3f}" if "RMSE" in bar["what"] else f"{bar[key]:.1e}"


def _data_name(data):
    return {"digits": "handwritten digits", "cifar10": "CIFAR-10"}[data["name"]] + (
        " (subset)" if data["notes"] else ""
    )


def _called(name):
    """An attack in a sentence."""
    short = LABELS[name].partition(":")[0]
    return short if short.startswith("attack") else f"the {short}"


def _begin(text):
    return text[0].upper() + text[1:]


def _percent(share):
    return f"{100 * share:.1f} %"


def _table(lines):
    head, *body = lines
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
