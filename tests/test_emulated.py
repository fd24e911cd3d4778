"""The CUDA kernels without a GPU: their files compiled as C++ and run on CPU tensors (tests/emulated/README.md)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulated import library

ROOT = Path(__file__).parent.parent
# what a GPU's kernel decides: transforms, tracing and strides of incoming gradients are Python's, vectors a CPU's; and
# sizes, layouts and dtypes are tests/emulated/test_kernels.py's own
ELSEWHERE = (
    "test_sizes", "test_layouts", "incoming_gradients", "vmap", "func_grad", "double_backward", "gradcheck",
    "operator", "compile", "forward_mode", "refus", "half_precision_is_rounded_once",
    "each_width_of_vector",
)  # fmt: skip
OPS = (
    "batch_norm_relu", "magnitude_batch_norm", "magnitude_max_pool2d", "magnitude_power", "magnitude_relu",
    "not_finite", "pack_weights", "real_batch_norm_relu", "rotate", "rotate_phase", "unrotate",
)  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def built():
    return library.build()


def emulated(*arguments: str) -> str:
    """The last line of a pytest that runs emulated kernels, in a process of its own: an address error ends it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.emulated.plugin",
        *arguments,
    ]
    environment = {k: v for k, v in os.environ.items() if k != "CVKERNELS_BACKEND"}
    environment |= library.environment(library.compiler())
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.skipif(library.compiler() is None, reason="no g++ to compile the CUDA files with")
class TestEmulated:
    def test_every_kernel_in_every_dtype_and_layout(self, built):
        assert re.search(r"[1-9]\d* passed", emulated("tests/emulated"))

    def test_what_a_gpu_is_held_to(self, built):
        files = [f"tests/ops/test_{op}.py" for op in OPS]
        chosen = " and ".join(f"not {word}" for word in ELSEWHERE)
        assert re.search(r"[1-9]\d* passed", emulated(*files, "-k", chosen))
