"""The command line on a few images: train, attack, list, show."""

import csv
import json
import os
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from experiments import runs, train, verbs, victim
from experiments.__main__ import main

TINY = ["epochs=2", "train_images=60", "test_images=30", "attack_epochs=1", "angle_epochs=1", "unet_width=2"]


def sets(*changes):
    return [part for change in (*TINY, *changes) for part in ("--set", change)]


def training(root, form="complex", *changes, network="lenet"):
    common = ["--preset", "fast", "--data", "digits", "--device", "cpu", "--runs", str(root)]
    return ["train", network, form, *common, *sets(*changes)]


def attacking(root, run, *more):
    tiny = [part for change in TINY[3:] for part in ("--set", change)]  # a network's run does not hold its attackers'
    return ["attack", str(run), "--device", "cpu", "--runs", str(root), *tiny, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(where runs lie, the complex run's folder, the original's)."""
    root = tmp_path_factory.mktemp("runs")
    for form in ("complex", "original"):
        assert main(training(root, form)) == 0
    return root, *(next((root / f"lenet-{form}").iterdir()) for form in ("complex", "original"))


def test_a_run_holds_what_it_must(trained):
    _, run, _ = trained
    assert sorted(p.name for p in run.iterdir() if p.is_file()) == [
        "environment.json", "metrics.jsonl", "settings.json", "summary.json", "weights.safetensors",
    ]  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["test_error"] <= 1
    assert max(summary["law"].values()) < 1e-5
    assert len(summary["law"]) == 4


def test_a_finished_run_is_skipped_and_forced(trained, capsys):
    root, run, _ = trained
    before = (run / "weights.safetensors").stat().st_mtime_ns
    assert main(training(root)) == 0
    assert "finished earlier" in capsys.readouterr().out
    assert (run / "weights.safetensors").stat().st_mtime_ns == before
    weights = []
    for _ in range(2):
        assert main([*training(root), "--force", "--deterministic"]) == 0
        weights.append(load_file(run / "weights.safetensors"))
    assert (run / "weights.safetensors").stat().st_mtime_ns > before
    # a seed repeats a run; the file itself may name its metadata in another order
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_what_a_form_does_not_depend_on_is_not_in_its_id(trained, capsys):
    root, _, _ = trained
    assert main(training(root, "original", "k=4", "c=2", "unet_width=4")) == 0
    out = capsys.readouterr().out
    assert "finished earlier" in out
    assert "no part of this run: attack_epochs, angle_epochs, unet_width, k, c, unet_width; an adversary's" in out
    assert re.search(r"a step's tensors take about 0\.0\d GiB of memory \(counted, not measured\)", out)
    assert len(list((root / "lenet-original").iterdir())) == 1


@pytest.fixture(scope="module")
def attacked(trained):
    """The complex run's folder, attacked. Once a module: bilinear resizing has a slow deterministic gradient, which the
    tests' own mode would choose."""
    root, run, original = trained
    assert main(attacking(root, run.name[:6], "--control", str(original))) == 0
    return run


def test_attacks_on_a_trained_run(attacked):
    page = (attacked / "attacks" / "report.md").read_text()
    assert page.startswith("# lenet, complex, under attack on digits (preset `fast`)")
    assert "attack 1: angle, then U-Net on a*, RMSE" in page
    assert "attacker too weak: no conclusion" in page  # one epoch
    assert "query access to the device's encoder" in page
    assert (attacked / "attacks" / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    with (attacked / "attacks" / "results.csv").open() as file:
        rows = dict(csv.reader(file))
    assert float(rows["mean image, RMSE"]) > 0


def test_attacks_are_skipped_once_they_are_done(attacked, trained, capsys):
    root, run, original = trained
    assert main(attacking(root, run, "--control", str(original))) == 0
    assert capsys.readouterr().out.count("finished earlier") == 5


def test_attack_on_a_network_in_the_open(trained):
    root, _, original = trained
    assert main(attacking(root, original)) == 0
    assert "which cross in the open" in (original / "attacks" / "report.md").read_text()


def test_an_attack_changes_only_the_adversary(trained, capsys):
    root, run, _ = trained
    assert main(attacking(root, run, "--set", "lr=1")) == 2
    assert "`--set` of an attack changes attack_epochs, " in capsys.readouterr().err
    assert main(attacking(root, run, "--set", "atack_lr=1")) == 2
    assert "the nearest is 'attack_lr'" in capsys.readouterr().err


def test_list_and_show(trained, capsys):
    root, run, _ = trained
    assert main(["list", "--runs", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:5] == ["lenet-complex", run.name, "fast", "digits", "0"]
    assert "finished, test error" in lines[1]
    assert main(["show", run.name[:5], "--runs", str(root)]) == 0
    out = capsys.readouterr().out
    for part in ("threat model", "inversion attack 2 also knows", "epochs             2", "commit"):
        assert part in out
    assert main(["list", "--runs", str(root / "nothing")]) == 0
    assert "no runs under" in capsys.readouterr().out


def test_attacks_are_listed_and_shown_but_not_attacked(attacked, capsys):
    """Where a demo keeps its stages they lie beside the networks."""
    stages = attacked / "attacks"
    assert main(["list", "--runs", str(stages)]) == 0
    lines = capsys.readouterr().out.splitlines()
    angle = next(line.split() for line in lines if line.startswith("angle "))
    assert angle[2:] == ["-", "-", "0", "finished"]
    assert main(["show", angle[1], "--runs", str(stages)]) == 0
    shown = capsys.readouterr().out
    assert "angle_epochs" in shown and "finished" in shown and "threat model" not in shown
    assert main(attacking(stages, angle[1])) == 2
    assert "must be a trained network" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [None, ":16:8"])
def test_deterministic_products_need_no_variable(asked, tmp_path, monkeypatch):
    """cuBLAS refuses them without its own; one that is set already stays."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if asked:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", asked)

    def look(job, how):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (asked or ":4096:8")
        raise KeyboardInterrupt

    monkeypatch.setattr(victim, "trained", look)
    assert main([*training(tmp_path), "--deterministic"]) == 130


@pytest.mark.parametrize(
    ("changes", "message"),
    [(["b=both"], "`b`=both pairs the halves of a batch"), (["batch=3"], "`batch` must be at least 2 for each of 2")],
)
def test_what_several_processes_cannot_do(changes, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verbs.processes, "world", lambda: 2)
    assert main(training(tmp_path, "complex", *changes)) == 2
    assert message in capsys.readouterr().err


def test_compare_sets_runs_side_by_side(attacked, trained, tmp_path, capsys):
    root, run, control = trained
    assert main(["compare", str(run), control.name[:8], "--runs", str(root), "--out", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "both" / "results.csv").open(newline="") as file:
        hidden, plain = csv.DictReader(file)
    summary = json.loads((run / "summary.json").read_text())
    assert hidden["network"] == "complex LeNet with WGAN" and plain["network"] == "original LeNet"
    assert hidden["test error"] == f"{summary['test_error']:.1%}" and hidden["test error"] in printed
    assert hidden["epochs (kept)"] == f"2 ({summary['kept']['epoch']})"
    assert float(hidden["attack 2"]) > 0 and "rad" in hidden["angle error"] and plain["attack 1"] == "-"
    report = (tmp_path / "both" / "report.md").read_text()
    assert all(f"`{one.name}`" in report for one in (run, control)) and "learning.png" in report
    assert (tmp_path / "both" / "learning.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "both" / "learning.csv").open(newline="") as file:
        points = [(row["form"], row["epoch"]) for row in csv.DictReader(file) if row["measure"] == "val_error"]
    assert sorted(points) == [(form, epoch) for form in ("complex", "original") for epoch in "12"]


def test_an_interrupted_and_a_diverged_run_are_listed(trained, capsys, monkeypatch):
    root, _, _ = trained

    def diverge(*args):
        raise train.Diverged("loss is nan in epoch 1, by step 4")

    with monkeypatch.context() as m:
        m.setattr(victim, "train", diverge)
        assert main(training(root, "complex", "lr=1")) == 1
    assert "train: diverged: loss is nan in epoch 1, by step 4; its last good state is kept" in capsys.readouterr().err

    def interrupt(model, side, settings, seed, log, run, *rest):
        run.log(epoch=1)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(victim, "train", interrupt)
        assert main(training(root, "noisy")) == 130
    assert "the same command continues where it stopped" in capsys.readouterr().err
    main(["list", "--runs", str(root)])
    out = capsys.readouterr().out
    assert "diverged: loss is nan in epoch 1, by step 4" in out
    assert "interrupted after 1 of 2 epochs" in out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (training("r", network="resnet20"), 2, "train: `network` must be one of lenet, resnet20-alpha"),
        (
            training("r", "original", network="alexnet"),
            2,
            "train: `data` must have pictures that alexnet takes, got digits",
        ),
        (
            [*training("r"), "--data", "celeba"],
            2,
            "train: `data` must have pictures that lenet takes, got celeba with 224",
        ),
        (
            training("r", "complex", "network=vgg16"),
            2,
            "train: `--set network` is not for train, which takes both as words",
        ),
        (training("r", "complex", "b=both", "detach_b=true"), 2, "train: `detach_b` must be False where `both`"),
        (
            training("r", "complex", "train_images=10"),
            2,
            "train: `train_images` must be at least 15, or 0 for all, got 10",
        ),
        (training("r", "complex", "test_images=1"), 2, "train: `test_images` must be at least 2"),
        (["demo", "--set", "form=original"], 2, "demo: `--set form` is not for demo, which trains both forms of LeNet"),
        (["demo", "--set", "network=vgg16"], 2, "demo: `--set network` is not for demo"),
        (training("r", "complex", "epoch=1"), 2, "train: `--set` knows no setting 'epoch'; the nearest is 'epochs'"),
        (["show", "abc", "--runs", "r"], 2, "show: `run` must be a run's folder or the first digits of its id; no run"),
        (["attack", "abc", "--runs", "r"], 2, "attack: `run` must be a run's folder"),
        ([*training("r"), "--data", "cifar10", "--data-root", "nowhere"], 1, "train: no file data_batch_1 in nowhere"),
    ],
    ids=[
        *(
            "network",
            "digits",
            "celeba",
            "both-words",
            "pairs",
            "no-validation",
            "no-test",
            "demo-form",
            "demo-network",
        ),
        *("setting", "show", "attack", "data"),
    ],
)
def test_a_mistake_is_one_line(words, status, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_of_ones_own(tmp_path, capsys):
    for part in ("train", "test"):
        for kind in ("cats", "dogs"):
            folder = tmp_path / "pictures" / part / kind
            folder.mkdir(parents=True)
            for n in range(4):
                Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    words = ["train", "resnet20-alpha", "complex", "--data", "folder", "--data-root", str(tmp_path / "pictures")]
    assert main([*words, "--device", "cpu", "--set", "side=32", "--runs", str(tmp_path / "runs")]) == 1
    assert "folder has too few images: a part of them has 0" in capsys.readouterr().err


def test_a_run_of_an_older_format_is_not_attacked(trained, capsys, monkeypatch):
    root, run, _ = trained
    monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
    assert main(attacking(root, run)) == 2
    assert "train it anew" in capsys.readouterr().err


def test_other_data_than_the_run_was_trained_on(trained, capsys, monkeypatch):
    root, run, _ = trained
    monkeypatch.setattr("experiments.data.sets.content", lambda *images: "another")
    assert main(attacking(root, run)) == 2
    assert "holds other data than" in capsys.readouterr().err


def test_tensorboard_is_an_extra(trained, capsys, monkeypatch):
    root, _, _ = trained
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert main([*training(root, "layers"), "--tensorboard"]) == 1
    assert "is missing; type: pip install '.[tensorboard]'" in capsys.readouterr().err
