"""The Makefile's own logic: what it passes on, when it builds, and what it says where it cannot."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile and what it watches, beside an environment whose python writes down its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.py", "pyproject.toml", "csrc/cpu/rotate.cpp", "cvkernels/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9, 1e9))
    os.utime(tmp_path / "Makefile", (1e9, 1e9))
    for folder in ("csrc/cpu", "csrc"):
        os.utime(tmp_path / folder, (1e9, 1e9))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    recorder(tmp_path / ".venv" / "bin" / "python")
    for stamp in (".packages", ".installed"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def recorder(path: Path, version="3.11.0", exit_code=0):
    """A stand-in for a python: a version to be asked for, else its arguments go into calls.txt."""
    path.write_text(
        f'#!/bin/sh\ncase "$1" in -V) echo "Python {version}" ;; *) echo "$@" >> calls.txt ;; esac\nexit {exit_code}\n'
    )
    path.chmod(0o755)


def make(checkout, *arguments, python=sys.executable):
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", f"PYTHON={python}", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def calls(checkout) -> list[str]:
    log = checkout / "calls.txt"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["demo"], "-m experiments demo --data digits --seed 0 --device auto --out demo"),
        (
            [
                "demo",
                "DATA=cifar10",
                "DATA_ROOT=/some where",
                "ACCEPT_CHECKSUM_MISMATCH=1",
                "SEED=2",
                "DEVICE=cpu",
                "OUT=x",
            ],
            "-m experiments demo --data cifar10 --seed 2 --device cpu --out x --data-root /some where "
            "--accept-checksum-mismatch",
        ),
        (["demo", "ACCEPT_CHECKSUM_MISMATCH=0"], "-m experiments demo --data digits --seed 0 --device auto --out demo"),
        (["test", "ARGS=-k rotate"], "-m pytest -n 2 --dist loadfile --no-loadscope-reorder -k rotate"),
        (["gate"], "-m tests.gate"),
        (["bench", "ARGS=rotate --quick"], "-m benchmarks rotate --quick"),
    ],
    ids=["demo", "demo-everything", "demo-no", "test", "gate", "bench"],
)
def test_targets_pass_on_what_they_are_given(checkout, arguments, command):
    done = make(checkout, *arguments)
    assert done.returncode == 0, done.stderr
    assert calls(checkout) == [command]


def test_gpu_uses_the_python_that_is_there_and_hands_on_the_commit(checkout):
    python = checkout / "python"
    python.write_text('#!/bin/sh\necho "$@ commit=$COMMIT"\n')
    python.chmod(0o755)
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, "gpu", "COMMIT=0123abc", python=python)
    assert done.stdout.splitlines()[-1] == "-m tests.gpu commit=0123abc"
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("changed", ["csrc/cpu/rotate.cpp", "csrc/cpu/new.cpp", "setup.py", "pyproject.toml"])
def test_a_change_rebuilds_once(checkout, changed):
    os.utime(checkout / ".venv" / ".installed", (1.5e9, 1.5e9))
    os.utime(checkout / ".venv" / ".packages", (1.4e9, 1.4e9))
    assert make(checkout, "gate").returncode == 0
    assert calls(checkout) == ["-m tests.gate"]
    (checkout / changed).touch()
    for _ in range(2):
        done = make(checkout, "gate")
        assert done.returncode == 0, done.stderr
    assert [c.split()[2] for c in calls(checkout) if "pip" in c] == ["install"]


def test_a_failed_build_is_shown_and_tried_again(checkout):
    (checkout / ".venv" / ".installed").unlink()
    (checkout / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "error: the compiler\'s words"\nexit 1\n')
    for _ in range(2):
        done = make(checkout, "test")
        assert done.returncode != 0
        assert "the compiler's words" in done.stderr and "the build failed" in done.stderr


def test_an_old_python_is_named(checkout):
    python = checkout / "python"
    recorder(python, version="3.9.18", exit_code=1)
    done = make(checkout, "test", python=python)
    assert done.returncode != 0
    assert f"cvkernels needs Python 3.10 or later, {python} is Python 3.9.18" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_python_is_said(checkout):
    done = make(checkout, "demo", python="python3.99")
    assert done.returncode != 0 and "no python3.99 found; name one: make PYTHON=" in done.stderr


def test_python_without_venv_says_what_to_install(checkout):
    python = checkout / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, "test", python=python)
    assert done.returncode != 0 and "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv" / ".packages").exists()


def test_clean_leaves_an_environment_that_make_did_not_make(checkout):
    (checkout / ".venv" / ".packages").unlink()
    (checkout / "cvkernels" / "_C.so").touch()
    assert make(checkout, "clean").returncode == 0
    assert (checkout / ".venv" / "bin" / "python").exists() and not (checkout / "cvkernels" / "_C.so").exists()
    (checkout / ".venv" / ".packages").touch()
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()


def test_the_oldest_torch_has_an_environment_of_its_own(checkout):
    shutil.copytree(checkout / ".venv", checkout / ".venv-oldest")
    done = make(checkout, "oldest", "ARGS=-k rotate")
    assert done.returncode == 0, done.stderr
    assert calls(checkout) == ["-m pytest -n 2 --dist loadfile --no-loadscope-reorder -k rotate"]
    (checkout / ".venv-oldest" / ".packages").unlink()
    recorder(checkout / "python")
    make(checkout, "oldest", python=checkout / "python")
    assert any("pip install" in call and "torch==2.11.*" in call for call in calls(checkout))


def test_alone_it_lists_its_targets(checkout):
    said = make(checkout).stdout
    assert all(
        f"make {target}" in said for target in ("demo", "test", "oldest", "gate", "bench", "gpu", "lint", "clean")
    )
