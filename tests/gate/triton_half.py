"""Triton kernels compiled for each architecture, and what is read off the machine code."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import ARCHS
from .cases import CASES, DTYPES, ROUND, WARPS, Case

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# bytes of shared memory a block can have
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}


@dataclass(frozen=True)
class Code:
    """What one kernel became on one architecture."""

    registers: int
    stack: int
    spills: int
    wide: int  # 16-byte loads from global memory
    narrow: int  # other ones
    shared: int

    def wrong(self, arch: int, wide: int, narrow: int) -> list[str]:
        """The rules it breaks, with what it needs in wide loads and may have in narrow ones."""
        return [
            text
            for text, broken in (
                (f"stack {self.stack} bytes", self.stack > 0),
                (f"{self.spills} spills", self.spills > 0),
                (f"shared memory {self.shared} > {SHARED[arch]} bytes", self.shared > SHARED[arch]),
                (f"{self.wide} wide loads < {wide}", self.wide < wide),
                (f"{self.narrow} narrow loads > {narrow}", self.narrow > narrow),
            )
            if broken
        ]


def compiled(kernel, signature: dict, constexprs: dict, arch: int, warps: int = WARPS, aligned: bool = True) -> Code:
    """``aligned``: pointers and round sizes are multiples of 16, as a launcher would find them."""
    hints = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(signature.items())
        if aligned and (kind[0] == "*" or name in ROUND)
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=hints)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return read(triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options))


def read(kernel) -> Code:
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(kernel.asm["cubin"])
        use, sass = (_run(BIN / tool, flag, cubin) for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c")))
    found = re.search(r"REG:(\d+) STACK:(\d+)", use)
    if not found:
        raise RuntimeError(f"cuobjdump said nothing of registers: {use[:200]}")
    loads = re.findall(r"\bLDG\S*", sass)
    wide = sum(".128" in load for load in loads)
    spills = len(re.findall(r"\b(?:STL|LDL)\b", sass))
    return Code(int(found[1]), int(found[2]), spills, wide, len(loads) - wide, kernel.metadata.shared)


def _run(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def everything() -> list[tuple[int, str, str]]:
    """(number of the case, layout, dtype): one row of the table."""
    return [(i, layout, dtype) for i, case in enumerate(CASES) for layout in case.layouts for dtype in DTYPES]


def row(which: tuple[int, str, str]) -> tuple[str, list[str]]:
    """One row of the table, registers for each architecture, and what is wrong in it."""
    number, layout, dtype = which
    case: Case = CASES[number]
    wrong, cells = [], []
    for arch in ARCHS:
        try:
            code = compiled(case.kernel, case.signature(dtype), case.constexprs(layout), arch)
        except Exception as error:  # whatever the compiler raises, the other architectures are still checked
            wrong.append(f"{case.name}, {layout}, {dtype}, sm_{arch}: {type(error).__name__}: {str(error)[:500]}")
            cells.append("   -!")
            continue
        broken = code.wrong(arch, case.wide(dtype), case.narrow)
        wrong += [f"{case.name}, {layout}, {dtype}, sm_{arch}: {text}" for text in broken]
        cells.append(f"{code.registers:>4}{'!' if broken else ' '}")
    return f"{case.name:<42} {layout:<14} {dtype:<5} {''.join(cells)}", wrong


HEADING = f"{'registers a thread':<42} {'layout':<14} {'dtype':<5} " + "".join(f"{a:>4} " for a in ARCHS)


@triton.jit
def greedy_kernel(x, out, BLOCK: tl.constexpr):
    """512 floats a thread, all alive until their maximum is known: no card has the registers."""
    i = tl.arange(0, BLOCK)
    values = tl.load(x + i)
    tl.store(out + i, values - tl.max(values, 0))


def self_check() -> list[tuple[str, bool]]:
    """Faults made on purpose, and whether the rules see them."""
    greedy = compiled(
        greedy_kernel, {"x": "*fp32", "out": "*fp32", "BLOCK": "constexpr"}, {"BLOCK": 16384}, 80, warps=1
    )
    case, dtype = CASES[0], "fp32"
    unhinted = compiled(case.kernel, case.signature(dtype), case.constexprs("contiguous"), 80, aligned=False)
    crowded = Code(32, 0, 0, 0, 0, shared=SHARED[86] + 1)
    return [
        ("a kernel that spills", any("spills" in w for w in greedy.wrong(80, 0, 0))),
        ("a kernel with a stack", any("stack" in w for w in greedy.wrong(80, 0, 0))),
        ("feature loads of 4 bytes", len(unhinted.wrong(80, case.wide(dtype), case.narrow)) == 2),
        ("shared memory the card lacks", crowded.wrong(86, 0, 0) != [] and crowded.wrong(80, 0, 0) == []),
    ]
