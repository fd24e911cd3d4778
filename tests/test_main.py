"""`python -m cvkernels` prints its report on any machine: also without a compiled library, nvcc or compilers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cvkernels import backend

ROOT = Path(__file__).parent.parent


def report(cwd=ROOT, **environment) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("CVKERNELS_BACKEND", "PYTHONPATH")} | environment
    done = subprocess.run([sys.executable, "-m", "cvkernels"], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row, by its first; of two rows of one name (triton: backend, version) the first."""
    found = {}
    for line in text.splitlines():
        cells = re.split(r"  +", line.strip())
        found.setdefault(cells[0], cells[1:])
    return found


@pytest.fixture(scope="module")
def here() -> str:
    return report()


def test_each_backend_stands_there_or_the_reason_why_not(here):
    found = rows(here)
    for name in backend.BACKENDS:
        reason = backend.absent(name)
        assert found[name] == (["no", " ".join(reason.split())] if reason else ["yes"])


def test_each_operation_has_a_row_with_its_kernels_and_defaults(here):
    found = rows(here)
    for op in backend.OPS.values():
        *kernels, on_cpu, on_cuda = found[op.name]
        for cell, name in zip(kernels, backend.BACKENDS[1:], strict=True):
            assert ("f64" in cell) == (torch.float64 in getattr(op, name))
            assert (cell == "-") == (not getattr(op, name))
        torchs = op.name in ("conv2d", "linear") or not (op.cpu or op.cuda or op.triton)
        assert on_cpu == ("torch" if torchs else backend.choose(op, torch.empty(0)))
        assert (on_cuda == "no device") == (not torch.cuda.is_available())


def test_the_table_of_defaults_is_printed_with_its_reasons(here):
    for row in backend.DEFAULTS:
        cells = [" ".join(row.ops) or "any", row.where, ", ".join(row.order) or "torch", row.why]
        assert any(re.split(r"  +", line.strip()) == cells for line in here.splitlines()), cells


def test_versions_are_named(here):
    found = rows(here)
    assert found["torch"][0].startswith(torch.__version__)
    assert {"python", "driver", "nvcc", "GPU", "C compiler", "compiled library"} <= set(found)
    assert ("SIMD level" in found) == (backend.build_facts() is not None)
    assert ("autograd nodes" in found) == (backend.build_facts() is not None)


def test_a_forced_backend_is_named():
    assert "CVKERNELS_BACKEND forces reference" in report(CVKERNELS_BACKEND="reference")


def test_forcing_an_absent_backend_does_not_stop_the_report():
    text = report(CVKERNELS_BACKEND="nonsense")
    assert rows(text)["rotate"][3] == "refused"


def test_without_library_and_tools_it_says_what_to_type(tmp_path):
    shutil.copytree(ROOT / "cvkernels", tmp_path / "cvkernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    text = report(tmp_path, PATH=str(tmp_path), CUDA_HOME="")
    found = rows(text)
    assert "without compiled kernels" in found["cpu"][1]
    assert found["nvcc"] == found["C compiler"] == ["not found"]
    assert found["rotate"][3] == "reference"
    assert found["a C++ compiler"] == ["apt install g++"]
    assert "pip install --no-build-isolation" in text
