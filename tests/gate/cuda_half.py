"""CUDA files compiled by nvcc for each architecture, and what ptxas reports of every kernel."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from . import ROOT

SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
FLAGS = [
    "-O3", "-std=c++20", "-cubin", "-Xptxas=-v", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000",
]  # fmt: skip
ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")

GREEDY = """
__global__ void greedy_kernel(float* x, int n) {
  float kept[256];
  for (int i = 0; i < 256; ++i) kept[i] = x[i * n + threadIdx.x];
  for (int i = 0; i < n; ++i) kept[i % 256] += kept[(i * 7) % 256];
  for (int i = 0; i < 256; ++i) x[i * n + threadIdx.x] = kept[i];
}
"""


@dataclass
class Kernel:
    """What ptxas says of one kernel."""

    name: str
    registers: int = 0
    stack: int = 0
    spills: int = 0

    def wrong(self) -> list[str]:
        texts = (f"stack {self.stack} bytes", self.stack), (f"{self.spills} bytes spilled", self.spills)
        return [text for text, much in texts if much]


def nvcc() -> str | None:
    """As setup.py looks for it."""
    home = os.environ.get("CUDA_HOME")
    at = Path(home, "bin", "nvcc") if home else None
    return str(at) if at and at.exists() else shutil.which("nvcc")


def parse(report: str) -> list[Kernel]:
    """The kernels of ptxas' verbose report, mangled names and all."""
    kernels: list[Kernel] = []
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            kernels.append(Kernel(entry[1]))
        elif not kernels:
            continue
        elif memory := MEMORY.search(line):
            # a called function reports after its kernel and counts towards it
            kernels[-1].stack = max(kernels[-1].stack, int(memory[1]))
            kernels[-1].spills += int(memory[2]) + int(memory[3])
        elif used := USED.search(line):
            kernels[-1].registers = int(used[1])
    return kernels


def knows(compiler: str, arch: int) -> bool:
    """Whether this nvcc can build for the architecture at all."""
    done = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True)
    return f"sm_{arch}" in done.stdout.split()


def compiled(compiler: str, source: Path, arch: int) -> list[Kernel]:
    includes = [f"-I{path}" for path in (ROOT / "csrc", Path(torch.__file__).parent / "include")]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "kernels.cubin")
        command = [compiler, *FLAGS, f"-arch=sm_{arch}", *includes, str(source), "-o", out]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return parse(done.stdout + done.stderr)


def row(compiler: str, source: Path, arch: int) -> tuple[str, list[str], int]:
    """One row of the table, what is wrong in it, and how many kernels it stands for."""
    try:
        kernels = compiled(compiler, source, arch)
    except RuntimeError as error:
        return f"{source.name:<42} sm_{arch:<11} does not compile  !", [f"{source.name}, sm_{arch}: {error}"], 1
    wrong = [f"{source.name}, sm_{arch}, {kernel.name}: {text}" for kernel in kernels for text in kernel.wrong()]
    if not kernels:
        wrong = [f"{source.name}, sm_{arch}: no kernel in ptxas' report"]
    registers = [kernel.registers for kernel in kernels] or [0]
    stack, spills = (sum(getattr(kernel, what) for kernel in kernels) for what in ("stack", "spills"))
    count = f"{len(kernels):>3} {min(registers):>4}-{max(registers):<4} {stack:>5} {spills:>6}"
    text = f"{source.name:<42} sm_{arch:<11} {count}"
    return text + ("  !" if wrong else ""), wrong, len(kernels)


HEADING = f"{'CUDA file':<42} {'architecture':<14} {'n':>3} {'registers':<9} {'stack':>5} {'spills':>6}"


def self_check(compiler: str) -> list[tuple[str, bool]]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "greedy.cu")
        source.write_text(GREEDY)
        kernels = compiled(compiler, source, 80)
    return [("a CUDA kernel with a stack", len(kernels) == 1 and kernels[0].wrong() != [])]
