"""What this machine has, as `python -m cvkernels` prints it; fails where Triton or, with nvcc, CUDA is not there."""

import shutil
import subprocess
import sys

from cvkernels import backend


def main() -> int:
    said = subprocess.run([sys.executable, "-m", "cvkernels"], capture_output=True, text=True)
    print(said.stdout + said.stderr)
    wanted = ["triton", *(["cuda"] if shutil.which("nvcc") else [])]
    missing = {name: backend.absent(name) for name in wanted if backend.absent(name)}
    print(*(f"{name} is expected here and is not there: {reason}" for name, reason in missing.items()), sep="\n")
    if not missing:
        print(f"backends: {', '.join(wanted)} are there")
    return 1 if missing or said.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
