"""A run on disk: found again by what its numbers depend on, and never half written."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import runs
from experiments.runs import Run, run_id


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, "lenet", {"epochs": 2, "milestones": (1,)}, "data")


def test_id_depends_on_settings_data_and_format(monkeypatch):
    base = run_id({"lr": 0.1, "epochs": 2}, "d")
    assert base == run_id({"epochs": 2, "lr": 0.1}, "d")
    assert base != run_id({"epochs": 3, "lr": 0.1}, "d")
    assert base != run_id({"epochs": 2, "lr": 0.1}, "e")
    monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
    assert base != run_id({"epochs": 2, "lr": 0.1}, "d")


def test_a_finished_run_is_found_again(run, tmp_path):
    assert not run.finished
    run.start()
    run.log(epoch=1, loss=0.5)
    run.log(epoch=2, loss=0.25)
    weights = {"w": torch.randn(3, 4), "n": torch.tensor(7)}
    run.save(weights)
    assert not run.finished
    run.finish(error=0.1)
    again = Run(tmp_path, "lenet", {"milestones": [1], "epochs": 2}, "data")
    assert again.finished
    assert again.summary()["error"] == 0.1
    assert again.summary()["seconds"] >= 0
    assert again.metrics() == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    loaded = again.load()
    assert all(torch.equal(loaded[k], v) for k, v in weights.items())
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "environment.json", "metrics.jsonl", "settings.json", "summary.json", "weights.safetensors",
    ]  # fmt: skip
    assert json.loads((run.folder / "settings.json").read_text())["settings"] == {"epochs": 2, "milestones": [1]}
    assert {"torch", "commit", "threads"} <= json.loads((run.folder / "environment.json").read_text()).keys()


def test_an_interrupted_run_starts_clean(run):
    run.start()
    run.log(epoch=1)
    run.save({"w": torch.zeros(1)})
    (run.folder / f".weights.safetensors.1{runs.PART}").write_bytes(b"half")
    run.start()
    assert sorted(p.name for p in run.folder.iterdir()) == ["environment.json", "settings.json"]
    assert run.metrics() == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_interrupted_writing_leaves_the_old_file(tmp_path, interruption):
    path = tmp_path / "summary.json"
    runs.write_text(path, "old")
    with pytest.raises(interruption), runs.replacing(path) as part:
        part.write_text("ne")
        raise interruption
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_killed_while_writing_leaves_the_old_file(run, when):
    """SIGKILL, which no handler sees, with the new content on its way to the disk and just before the renaming."""
    run.start()
    path = run.folder / "weights.safetensors"
    runs.write_bytes(path, b"old")
    program = f"""
import os, signal
from experiments import runs
os.{when} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
runs.write_bytes({str(path)!r}, b"new" * 1000000)
"""
    root = Path(runs.__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(run.folder.glob(f"*{runs.PART}"))) == 1
    run.start()
    assert not list(run.folder.glob(f"*{runs.PART}"))


def test_commit_without_git(monkeypatch):
    monkeypatch.setenv("CVKERNELS_COMMIT", "abc")
    assert runs.commit() == "abc"
    monkeypatch.delenv("CVKERNELS_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert runs.commit() == "unknown"
