"""Runs tests/interpreted and some of what a GPU is held to in ones where Triton interprets: this one's compiles."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_TRITON = importlib.util.find_spec("triton") is None
pytestmark = pytest.mark.slow


@pytest.mark.skipif(NO_TRITON, reason="triton is not installed")
def test_in_the_interpreter():
    last = interpreted("tests/interpreted")
    assert re.search(r"[1-9]\d\d passed", last) and "skipped" not in last, last


# Of the tests that a GPU's kernels are held to, those whose dtypes and devices no file of tests/interpreted asks for:
# of one operation each, since they are the same for all. The rest takes half an hour: by hand, with these variables.
HELD_TO = ("tests/ops/test_rotate.py", "tests/ops/test_magnitude_power.py", "tests/ops/test_pack_weights.py")
WORDS = (
    "double_backward", "func_grad", "vmap", "gradcheck", "differentiable_twice", "one_tensor", "layouts and channels",
    "ZeroImaginary and magnitude", "phase_rotation",
)  # fmt: skip


@pytest.mark.skipif(NO_TRITON, reason="triton is not installed")
def test_what_a_gpu_is_held_to():
    chosen = f"triton and ({' or '.join(WORDS)})"
    last = interpreted(*HELD_TO, "tests/test_rotation.py", "-k", chosen, CVKERNELS_EXPECT="triton")
    assert re.search(r"\b2\d passed, 1 skipped", last), last  # gradcheck alone: it needs float64


def interpreted(*arguments: str, **variables) -> str:
    """The last line of a pytest whose Triton interprets."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets already: tests/interpreted runs in it")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    # a backend forced from outside must not reach in: these tests force their own
    env = {k: v for k, v in os.environ.items() if k not in ("CVKERNELS_BACKEND", "CVKERNELS_EXPECT")}
    env |= {"TRITON_INTERPRET": "1"} | variables
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    return done.stdout.strip().splitlines()[-1]
