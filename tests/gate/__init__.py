"""What is compiled and not run: every Triton and CUDA kernel for every architecture of the release list."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def release() -> tuple[int, ...]:
    """setup.py's release list: 7.5 is 75."""
    listed = re.search(r'^RELEASE_ARCHS = "([^"]+)"', (ROOT / "setup.py").read_text(), re.M)[1]
    return tuple(int(arch.removesuffix("+PTX").replace(".", "")) for arch in listed.split(";"))


# GATE_ARCHS="75 90" checks some of them: in the environment, since the gate's processes are started anew
ARCHS = tuple(int(arch) for arch in os.environ.get("GATE_ARCHS", "").split()) or release()
