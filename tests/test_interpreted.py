"""Runs tests/interpreted, one file at a time, in processes where Triton interprets: this one's Triton compiles."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))
NO_TRITON = importlib.util.find_spec("triton") is None
pytestmark = pytest.mark.slow


@pytest.mark.skipif(NO_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem.removeprefix("test_"))
def test_in_the_interpreter(path):
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets already: tests/interpreted runs in it")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path.relative_to(ROOT))]
    # a backend forced from outside must not reach in: these tests force their own
    env = {k: v for k, v in os.environ.items() if k != "CVKERNELS_BACKEND"} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    last = done.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", last) and "skipped" not in last, last
