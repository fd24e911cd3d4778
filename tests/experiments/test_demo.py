"""The main job end to end on a few images: what it writes, that it continues, and how it stops."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import runs
from experiments.__main__ import main
from experiments.reports import demo, demo_page

ROOT = Path(runs.__file__).parents[1]
TINY = ["epochs=1", "attack_epochs=1", "angle_epochs=1", "unet_width=2", "train_images=60", "test_images=30"]
WRITTEN = {
    "report.md", "numbers.md", "results.json", "results.csv", "reconstructions.png", "reconstructions.csv",
    "curves.png", "curves.csv", "angles.png", "angles.csv", "stages",
}  # fmt: skip


def command(out, *more):
    return ["demo", "--device", "cpu", "--out", str(out), *more, *(part for c in TINY for part in ("--set", c))]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny job, done: (its folder, its exit status)."""
    out = tmp_path_factory.mktemp("demo")
    return out, main(command(out))


def test_everything_is_written(finished):
    out, _ = finished
    assert {p.name for p in out.iterdir()} == WRITTEN
    assert len(list(out.glob("stages/*/*/summary.json"))) == 7
    assert not list(out.rglob(f"*{runs.PART}"))
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_is_a_pickle(finished):
    out, _ = finished
    kinds = {p.suffix for p in out.rglob("*") if p.is_file()}
    assert kinds == {".md", ".json", ".jsonl", ".csv", ".png", ".safetensors"}


def test_one_epoch_fails_the_bars_and_says_why(finished):
    out, status = finished
    assert status == 1
    page = (out / "report.md").read_text()
    assert "**Not all of it was shown: classification error, original LeNet: " in page
    assert "Attacker too weak: no conclusion." in page
    results = json.loads((out / "results.json").read_text())
    assert not results["control"]
    law = [bar for bar in results["bars"] if "law" in bar["what"]]
    assert [bar["passed"] for bar in law] == [True]
    assert sorted(results["law"]) == [
        "inference, batch 1",
        "inference, batch 7",
        "training, batch 1",
        "training, batch 7",
    ]


def test_the_table_is_what_the_report_must_show(finished):
    out, _ = finished
    page = (out / "report.md").read_text()
    assert page.splitlines()[0].startswith("# LeNet under attack on handwritten digits (subset) (preset `fast`")
    assert "[What the numbers mean](numbers.md)" in page
    with (out / "results.csv").open() as file:
        original, cmplx = list(csv.reader(file))[1:]
    assert original[0] == "original"
    assert original[2] == original[4] == original[5] == original[6] == "-"
    assert cmplx[0] == "complex"
    assert "-" not in cmplx
    assert original[-1] == "attacker too weak: no conclusion"
    with (out / "angles.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 30


def test_a_finished_job_is_not_redone_and_another_commits_stage_is_named(finished, capsys, monkeypatch):
    out, _ = finished
    before = contents(out / "stages")
    monkeypatch.setattr(runs, "commit", lambda: "another")
    assert main(command(out)) == 1
    assert capsys.readouterr().out.count(": finished earlier, under commit ") == 7
    assert contents(out / "stages") == before


def test_an_unfinished_stage_is_redone_to_the_same_numbers(finished, capsys):
    out, _ = finished
    summary = next(out.glob("stages/inversion2/*/summary.json"))
    before = json.loads(summary.read_text())
    summary.unlink()
    main(command(out))
    said = capsys.readouterr().out
    assert said.count(": finished earlier") == 6
    assert "[7/7] attack 2: U-Net on both parts  epoch 1/1" in said
    assert json.loads(summary.read_text()) | {"seconds": 0} == before | {"seconds": 0}


def test_other_attack_settings_keep_the_trained_networks(finished, capsys, tmp_path):
    out, _ = finished
    main([*command(out), "--set", "attack_lr=1e-4"])
    said = capsys.readouterr().out
    for stage in ("original LeNet", "complex LeNet with WGAN", "angle predictor"):
        assert f"{stage}: finished earlier" in said
    assert said.count(": finished earlier") == 3


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    words = [sys.executable, "-m", "experiments", *command(tmp_path), "--set", "epochs=2000"]
    # a handler here becomes the default in the child; Ctrl-C ignored, as in a background job, would stay ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    job = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with job:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("stages/lenet-original/*/metrics.jsonl")):
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=30)
    assert job.returncode == 130
    assert err.strip() == "demo: interrupted; the same command continues where it stopped"
    assert "device cpu" in out
    assert not list(tmp_path.rglob(f"*{runs.PART}"))
    assert not list(tmp_path.rglob("summary.json"))
    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text())
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    assert all(json.loads(line)["epoch"] for line in metrics.read_text().splitlines())


def test_help_needs_no_torch():
    program = "import sys, experiments.__main__ as m; m.parser().format_help(); sys.exit('torch' in sys.modules)"
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--set", "epoch=1"], 2, "demo: `--set` knows no setting 'epoch'; the nearest is 'epochs'"),
        (["--set", "lr=0"], 2, "demo: `lr` must be above 0 and finite, got 0.0"),
        (["--data", "cifar10", "--data-root", "nowhere"], 1, "demo: no file data_batch_1 in nowhere"),
        (["--set", "train_images=100000"], 1, "demo: `train_images` must be at most 719"),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_writes_nothing(words, status, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path / "out"), *words]) == status
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo.torch.cuda, "is_available", lambda: False)
    assert main(["demo", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "`--device cuda` needs a GPU that torch can use" in capsys.readouterr().err
    assert demo.choose_device("auto").type == "cpu"


def results(original=0.04, clean=0.05, one=0.06, two=0.1, mean=0.2, circular=(0.02, 0.02), wrapped=0, error=0.04):
    """As much of a job's results as the explanations read."""
    names = ("open-features", "clean-features", "inversion1", "inversion2")
    return {
        "attacks": {
            name: {"victims": {"rmse": value}, "kept": {"epoch": 5}, "epochs": 10}
            for name, value in zip(names, (original, clean, one, two), strict=True)
        },
        "mean_image": {"rmse": mean},
        "control": original <= mean / 2,
        "angle": {
            "circular_mean": circular[0],
            "circular_median": circular[1],
            "raw_mean": 0.1,
            "wrapped": wrapped,
            "raw": [0] * 30,
        },
        "networks": {"original": {"test_error": 0.03}, "complex": {"test_error": error}},
        "data": {"classes": 10, "images": {"attacker": {"train": 647}}},
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"one": 0.03}, "Attack 1 (0.030) is below the clean-feature anchor (0.050) although it knows less."),
        ({"two": 0.04}, "Attack 2 (0.040) is below the clean-feature anchor"),
        ({"original": 0.15}, "Attacker too weak: no conclusion."),
        ({"two": 0.15}, "Attack 2 reads a part: 0.150 is 75 % of the mean image's RMSE"),
        ({"two": 0.25}, "Attack 2 is no better than the mean image (0.250 against 0.200)"),
        ({"clean": 0.15}, "Even before the rotation the complex network's features yield only 0.150"),
        ({"one": 0.12}, "Attack 1 does worse than attack 2 although its angle may be good"),
        ({"circular": (0.2, 0.02)}, "a few samples are far off"),
        (
            {"error": 0.89},
            "The complex network did not learn: 89.0 % of its classes are wrong, a blind guess has 90.0 %.",
        ),
        ({"wrapped": 3}, "because 3 of 30 guesses fell just across"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_an_odd_row_is_explained(changes, said):
    assert any(said in sentence for sentence in demo_page.explanations(results(**changes)))
    assert not any(said in sentence for sentence in demo_page.explanations(results()))


def test_cifar10s_bars_are_to_have_learned_and_the_law():
    def passed(law, **changes):
        return [bar["passed"] for bar in demo.bars("cifar10", results(**changes) | {"law": {"a": 2e-7, "b": law}})]

    assert passed(3e-7, error=0.7) == [True, True, True]
    assert passed(1e-3, error=0.89) == [True, False, False]


def test_a_missing_extra_is_one_line():
    hide = "import sys; sys.modules['sklearn.datasets'] = None;"
    program = f"{hide} import experiments.__main__ as m; sys.exit(m.main(['demo']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "demo: sklearn.datasets is missing; type: pip install '.[experiments]'\n"
