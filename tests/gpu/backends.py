"""What this machine has, as `python -m cvkernels` prints it; fails where Triton or, with nvcc, CUDA is not there, or
where one of them cannot run a kernel.
"""

import subprocess
import sys
import traceback

import torch

from cvkernels import backend

from . import plan, small_shapes


def launches(name: str) -> bool:
    """Whether one small kernel of it gives the right numbers: a compiler or a driver may be missing all the same."""
    try:
        small_shapes.check("magnitude_relu", name, torch.float32, "contiguous", "cpu" if name == "cpu" else "cuda")
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return False
    return True


def main() -> int:
    said = subprocess.run([sys.executable, "-m", "cvkernels"], capture_output=True, text=True)
    print(said.stdout + said.stderr)
    wanted = ["triton", *(["cuda"] if plan.nvcc() else [])]
    missing = {name: backend.absent(name) for name in wanted if backend.absent(name)}
    print(*(f"{name} is expected here and is not there: {reason}" for name, reason in missing.items()), sep="\n")
    broken = [n for n in backend.BACKENDS if n != "reference" and not backend.absent(n) and not launches(n)]
    print(*(f"{name} is there and its kernel did not run" for name in broken), sep="\n")
    if not missing and not broken:
        print(f"backends: {', '.join(wanted)} are there and run")
    return 1 if missing or broken or said.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
