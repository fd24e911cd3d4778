"""`attack` on the command line: which control counts, whose budget it has, and whose seed `--seed` is."""

import csv
import json

import pytest
import torch

from experiments import settings as presets
from experiments import victim
from experiments.__main__ import main
from experiments.data import load
from experiments.job import Job
from experiments.networks import build
from experiments.progress import Progress

TINY = ["train_images=60", "test_images=30", "attack_epochs=1", "unet_width=2"]


def untrained(root, form, *changes, seed=0, preset="fast"):
    """The folder of a run that counts as finished, its weights as they were drawn."""
    settings = presets.override(presets.preset(preset), [f"form={form}", *TINY, *changes])
    data = load("digits", settings)
    run = victim.open_run(Job(settings, data, seed, torch.device("cpu"), root, Progress([("", 1.0)], quiet=True)))
    run.start()
    run.save(build(settings, data, seed).state_dict())
    run.finish(test_error=0.5, test_loss=1.0, kept={"epoch": 1, "val_error": 0.5}, law={}, device="cpu")
    return run.folder


def attacking(root, run, *more):
    tiny = [part for change in TINY[2:] for part in ("--set", change)]
    return ["attack", str(run), "--device", "cpu", "--runs", str(root), *tiny, *more]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ({"form": "layers"}, "has form layers and not original"),
        ({"changes": ["network=resnet20-alpha"]}, "has network resnet20-alpha and not lenet"),
        ({"changes": ["cut=authors"]}, "has cut authors and not report"),
        ({"seed": 1}, "has seed 1 and not 0"),
        ({"changes": ["train_images=50"], "seed": 2}, "has seed 2 and not 0, data "),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_control_of_another_kind_is_refused(control, said, tmp_path, capsys):
    run = untrained(tmp_path, "layers")
    control = {"form": "original"} | control
    other = untrained(tmp_path, control["form"], *control.get("changes", ()), seed=control.get("seed", 0))
    assert main(attacking(tmp_path, run, "--control", str(other))) == 2
    error = capsys.readouterr().err
    assert error.startswith("attack: `--control` must be a run of the original network")
    assert said in error and error.count("\n") == 1
    assert not (run / "attacks").exists()


def test_an_original_network_is_its_own_control(tmp_path, capsys):
    run = untrained(tmp_path, "original")
    assert main(attacking(tmp_path, run, "--control", str(run))) == 2
    assert "an original network is its own control" in capsys.readouterr().err


def test_the_control_has_the_victims_attacker_and_its_own_number_stands_beside(tmp_path):
    run = untrained(tmp_path, "layers", preset="fast")
    control = untrained(tmp_path, "original", preset="report")
    assert main(attacking(tmp_path, run, "--control", str(control), "--seed", "7")) == 0
    kept = []
    for folder in (run, control):
        (found,) = (folder / "attacks" / "open-features").iterdir()
        kept.append((found, json.loads((found / "settings.json").read_text())["settings"]))
    (attack, one), (check, other) = kept
    assert one | {"on": 0} == other | {"on": 0}  # the same budget, whatever the control's preset
    assert one["attack_lr"] == 2e-3 and one["seed"] == 7 and one["on"] == run.name
    with (run / "attacks" / "results.csv").open(newline="") as file:
        table = dict(csv.reader(file))
    rmse = [json.loads((folder / "summary.json").read_text())["victims"]["rmse"] for folder in (attack, check)]
    assert rmse[0] != rmse[1]
    assert table["positive control: the same U-Net on the original network"].startswith(f"{rmse[1]:.3f}, ")


def test_without_a_control_only_an_original_network_has_one(tmp_path):
    for form, said in (("original", "attacker too weak"), ("noisy", "not run (--control)")):
        run = untrained(tmp_path, form)
        assert main(attacking(tmp_path, run)) == 0
        page = (run / "attacks" / "report.md").read_text()
        line = next(line for line in page.splitlines() if "positive control" in line)
        assert said in line


@pytest.mark.parametrize("halves", [True, False])
def test_the_page_says_whose_images_the_attacks_learned_from(halves, tmp_path):
    run = untrained(tmp_path, "original", f"halves={halves}")
    assert main(attacking(tmp_path, run)) == 0
    page = (run / "attacks" / "report.md").read_text()
    assert ("learned from the attacker's half" in page) is halves
    assert ("the very images that the network learned from" in page) is not halves
    (found,) = (run / "attacks").glob("open-features/*/summary.json")
    assert json.loads(found.read_text())["published_units"].keys() == {"paper", "report"}  # romech has no digits
