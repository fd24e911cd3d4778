"""Compiles the extensions where they stand, for the card that is there: no pip, no environment, nothing installed.

Where the CUDA half does not compile the CPU's is built without it, so that Triton's kernels are tested all the same.
"""

import os
import subprocess
import sys
from pathlib import Path

from .plan import ROOT


def main() -> int:
    for wish in dict.fromkeys((os.environ.get("CVKERNELS_CUDA", "auto"), "auto", "0")):
        # ninja may be beside this Python alone; without it the files compile one after another
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path, "CVKERNELS_CUDA": wish})
        failed = done.returncode != 0
        print(f"build: with CVKERNELS_CUDA={wish} it {'failed' if failed else 'worked'}", flush=True)
        if not failed:
            return 0 if wish != "0" or os.environ.get("CVKERNELS_CUDA") == "0" else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
