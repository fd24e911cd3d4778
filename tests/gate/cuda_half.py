"""CUDA files compiled by nvcc for each architecture: what ptxas reports of every kernel, and the 16-byte loads and
stores in the machine code of those that stream features.
"""

import importlib.util
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

# 16-byte (loads, stores) of a kernel whose form reads packs: two a complex feature, one a real one.
STREAMS = {
    "batch_norm_relu_forward": (4, 2), "batch_norm_relu_sums": (8, 0), "batch_norm_relu_backward": (8, 4),
    "magnitude_batch_norm_forward": (2, 2), "magnitude_batch_norm_sums": (4, 0),
    "magnitude_batch_norm_backward": (4, 2),
    "magnitude_relu_forward": (2, 2), "magnitude_relu_sums": (4, 0), "magnitude_relu_backward": (4, 2),
    "magnitude_relu_planes_forward": (4, 2), "magnitude_relu_planes_backward": (8, 2),
    "power_partials": (2, 0),
    "real_batch_norm_moments": (1, 0), "real_batch_norm_relu_forward": (2, 1),
    "real_batch_norm_relu_sums": (3, 0), "real_batch_norm_relu_backward": (3, 2),
    "rotate_forward": (2, 2), "rotate_backward": (4, 2), "rotate_phase": (4, 2),
    "unrotate_forward": (2, 1), "unrotate_backward": (1, 2), "unrotate_sums": (3, 0),
}  # fmt: skip
FORM = re.compile(r"^I\w*?4FormI\w*?Li(\d+)E")  # the arguments of a mangled template: a type, elements at once
FUNCTION = re.compile(r"^\.text\.(\S+):$", re.M)

GREEDY = """
__global__ void greedy_kernel(float* x, int n) {
  float kept[256];
  for (int i = 0; i < 256; ++i) kept[i] = x[i * n + threadIdx.x];
  for (int i = 0; i < n; ++i) kept[i % 256] += kept[(i * 7) % 256];
  for (int i = 0; i < 256; ++i) x[i * n + threadIdx.x] = kept[i];
}
"""


# the loads and stores of one form, element by element
NARROW = """
namespace cvk {
template <class T, int V, bool PAIRS> struct Form {};
template <class F> __global__ void rotate_forward_kernel(const float* x, float* y) {
  for (int j = 0; j < 4; ++j) y[j * 32 + threadIdx.x] = x[j * 32 + threadIdx.x];
}
template __global__ void rotate_forward_kernel<Form<float, 4, false>>(const float*, float*);
}
"""


@dataclass
class Kernel:
    """What ptxas says of one kernel, and what its machine code shows (None: there was nothing to read it with)."""

    name: str
    registers: int = 0
    stack: int = 0
    spills: int = 0
    wide: tuple[int, int] | None = None  # 16-byte loads and stores

    def wrong(self) -> list[str]:
        texts = (f"stack {self.stack} bytes", self.stack), (f"{self.spills} bytes spilled", self.spills)
        return [text for text, much in texts if much] + self.narrow()

    def narrow(self) -> list[str]:
        name, arguments = template(self.name)
        form = FORM.match(arguments)
        if self.wide is None or not form or form[1] == "1":
            return []
        if name not in STREAMS:
            return [f"{name} reads packs and is not in STREAMS of tests/gate/cuda_half.py"]
        return [
            f"{have} wide {what} < {need}"
            for have, need, what in zip(self.wide, STREAMS[name], ("loads", "stores"), strict=True)
            if have < need
        ]


def nvcc() -> str | None:
    """As setup.py looks for it."""
    home = os.environ.get("CUDA_HOME")
    at = Path(home, "bin", "nvcc") if home else None
    return str(at) if at and at.exists() else shutil.which("nvcc")


def template(mangled: str) -> tuple[str, str]:
    """A kernel's name, without its ending, and its mangled arguments; a name stands behind its length."""
    end = mangled.find("_kernelI")
    for start in range(end, 0, -1):
        if mangled[:start].endswith(str(end + len("_kernel") - start)):
            return mangled[start:end], mangled[end + len("_kernel") :]
    return "", ""


def disassembler(compiler: str | None = None) -> str | None:
    """The toolkit's, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    brought = [Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"] if triton else []
    here = [Path(compiler).resolve().parent / "nvdisasm"] if compiler else []
    return shutil.which("nvdisasm") or next((str(p) for p in here + brought if p.is_file()), None)


def wide(sass: str) -> dict[str, tuple[int, int]]:
    """Of each kernel its 16-byte loads from and stores to global memory."""
    parts = FUNCTION.split(sass)[1:]
    counted = {}
    for name, code in zip(parts[::2], parts[1::2], strict=True):
        loads, stores = (len(re.findall(rf"\b{op}\S*\.128\b", code)) for op in ("LDG", "STG"))
        counted[name] = loads, stores
    return counted


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
        kernels, reader = parse(done.stdout + done.stderr), disassembler(compiler)
        if reader:
            found = wide(subprocess.run([reader, "-c", out], capture_output=True, text=True, check=True).stdout)
            for kernel in kernels:
                kernel.wide = found[kernel.name]
    return kernels


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
    loads, stores = (sum(kernel.wide[i] for kernel in kernels if kernel.wide) for i in (0, 1))
    count = f"{len(kernels):>3} {min(registers):>4}-{max(registers):<4} {stack:>5} {spills:>6} {loads:>5} {stores:>6}"
    text = f"{source.name:<42} sm_{arch:<11} {count}"
    return text + ("  !" if wrong else ""), wrong, len(kernels)


HEADING = (
    f"{'CUDA file':<42} {'architecture':<14} {'n':>3} {'registers':<9} {'stack':>5} {'spills':>6} wide loads, stores"
)


def self_check(compiler: str) -> list[tuple[str, bool]]:
    texts = [("a CUDA kernel with a stack", GREEDY)]
    if disassembler(compiler):
        texts.append(("a CUDA kernel that reads packs one by one", NARROW))
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        for what, text in texts:
            source = Path(folder, "bad.cu")
            source.write_text(text)
            kernels = compiled(compiler, source, 80)
            checks.append((what, len(kernels) == 1 and kernels[0].wrong() != []))
    return checks
