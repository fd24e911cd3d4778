"""Runs side by side: what tells them apart, in the table and the picture; what a preset is not, said everywhere."""

import csv
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from experiments.__main__ import main
from experiments.departures import differing_text
from experiments.reports import compared
from experiments.settings import as_dict, from_dict, override, preset

CHANGES = (
    [], ["b=both"], ["b=bank"], ["b=noise", "swap=true"], ["form=original"], ["form=layers"],
    ["form=noisy", "gamma=0.2"], ["form=noisy"], ["form=noisy", "gamma=1"], ["adversary=clip"], ["milestones=1,2"],
    ["generator=linear"], ["k=4"],
)  # fmt: skip


class Made:
    """A finished run that never was."""

    def __init__(self, folder, settings, seed, data):
        self.settings, self.folder = as_dict(settings) | {"seed": seed, "data": data}, Path(folder)

    def summary(self):
        return {"law": {}, "test_error": 0.1, "kept": {"epoch": 1, "val_error": 0.2}, "seconds": 3.0}

    def metrics(self):
        return [{"epoch": epoch, "val_error": 0.3 / epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]

    def environment(self):
        return {"commit": "abc", "before": []}


def made(*changes, name="fast", seed=0, data="cifar10", network="lenet"):
    settings = override(preset(name, data, network), [f"network={network}", *changes])
    return Made(f"none/{name}-{'-'.join(changes)}-{seed}-{data}", settings, seed, data), settings


@pytest.fixture(scope="module")
def many():
    return [made(*changes) for changes in CHANGES] + [made(seed=1), made(data="digits"), made(name="report")]


def test_every_run_has_a_row_of_its_own(many):
    header, *rows = compared.rows(many)
    named = [dict(zip(header, row, strict=True)) for row in rows]
    told = [tuple(row[k] for k in ("network", "data", "preset", "seed", "differs in")) for row in named]
    assert len(set(told)) == len(many)
    assert [row["differs in"] for row in named[:4]] == ["-", "b=both", "b=bank", "b=noise, swap=true"]
    assert [row["network"] for row in named[6:9]] == [f"noisy LeNet, γ {gamma}" for gamma in ("0.2", "0.5", "1")]
    assert named[10]["differs in"] == "milestones=1,2"
    assert [row["seed"] for row in named[-3:]] == ["1", "0", "0"] and named[-1]["preset"] == "report"


def test_every_run_has_a_line_and_a_name_of_its_own(many):
    assert len(set(compared.styles(many))) == len(set(compared.labels(many))) == len(many)
    forms = compared.styles([made(f"form={form}") for form in ("complex", "original", "layers")])
    assert len({colour for _, colour, _ in forms}) == 1  # a network's forms share its colour and differ in their dash
    assert compared.labels([made(), made("b=both")]) == ["complex LeNet with WGAN", "complex LeNet with WGAN, b=both"]


def test_the_picture_has_them_all(many, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(compared, "save_figure", lambda figure, path: drawn.append(figure))
    compared.write(tmp_path, many)
    (figure,) = drawn
    lines = [(x.get_linestyle(), x.get_color(), x.get_marker()) for x in figure.axes[0].get_lines()]
    assert len(set(lines)) == len(many)
    assert len(figure.legends[0].get_texts()) == len(many)
    plt.close(figure)
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# Trained networks side by side (presets `fast`, `report`)\n")
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["differs in"] for row in csv.DictReader(file)][:2] == ["-", "b=both"]


def test_settings_of_a_file_are_the_presets_but_for_what_it_holds():
    settings = override(preset("authors", "cifar100", "resnet20-alpha"), ["network=resnet20-alpha", "epochs=3"])
    kept = as_dict(settings) | {"data": "cifar100", "seed": 1, "milestones": [100, 150]}
    assert from_dict(kept) == settings
    assert from_dict({k: v for k, v in kept.items() if k != "attack_lr"}) == settings
    assert differing_text(settings, "cifar100") == "epochs=3"


def test_what_the_authors_preset_is_not_is_said_with_every_result(tmp_path, capsys):
    small = ("epochs=1", "batch=10", "train_images=20", "test_images=10")
    sets = [part for change in small for part in ("--set", change)]
    common = ["--preset", "authors", "--data", "digits", "--device", "cpu", "--runs", str(tmp_path)]
    assert main(["train", "lenet", "original", *common, *sets]) == 0
    said = "- pixels at mean .5 and deviation .5: their code has no such data set"
    assert said in capsys.readouterr().out
    (run,) = (tmp_path / "lenet-original").iterdir()
    assert main(["show", str(run)]) == 0
    assert said in capsys.readouterr().out
    assert main(["compare", str(run), "--runs", str(tmp_path), "--out", str(tmp_path / "beside")]) == 0
    assert said in (tmp_path / "beside" / "report.md").read_text()
