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
from .case import WARPS, Case
from .cases import CASES
from .launches import compiling_only

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
    tensor: int = 0  # instructions of the tensor cores

    def wrong(self, arch: int, wide: int = 0, narrow: int | None = None, tensor_cores: bool = False) -> list[str]:
        """The rules it breaks, with what it needs in wide loads and may have in narrow ones."""
        return [
            text
            for text, broken in (
                (f"stack {self.stack} bytes", self.stack > 0),
                (f"{self.spills} spills", self.spills > 0),
                (f"shared memory {self.shared} > {SHARED[arch]} bytes", self.shared > SHARED[arch]),
                (f"{self.wide} wide loads < {wide}", self.wide < wide),
                (f"{self.narrow} narrow loads > {narrow}", narrow is not None and self.narrow > narrow),
                ("no tensor core", tensor_cores and arch >= 80 and not self.tensor),
            )
            if broken
        ]


def compiled(case: Case, arch: int) -> Code:
    if case.launch:
        with compiling_only(arch) as found:
            case.launch()
        return read(dict(found)[case.kernel.__name__])
    hints = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(case.signature.items())
        if kind[0] == "*" and case.aligned or name in case.aligned
    }
    source = ASTSource(fn=case.kernel, signature=case.signature, constexprs=case.constexprs, attrs=hints)
    options = {"num_warps": WARPS, "enable_fp_fusion": True} | case.options
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
    # HFMA2.MMA, a multiplication in half precision, is none
    tensor = len(re.findall(r"(?<![\w.])(?:[HIDQ]MMA|HGMMA|UTC\w*MMA)\b", sass))
    return Code(int(found[1]), int(found[2]), spills, wide, len(loads) - wide, kernel.metadata.shared, tensor)


def _run(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def row(number: int) -> tuple[str, list[str]]:
    """One row of the table, registers for each architecture, and what is wrong in it. ``number``: which of CASES."""
    case = CASES[number]
    wrong, cells = [], []
    for arch in ARCHS:
        try:
            code = compiled(case, arch)
        except Exception as error:  # whatever the compiler raises, the other architectures are still checked
            wrong.append(f"{case.name}, sm_{arch}: {type(error).__name__}: {str(error)[:500]}")
            cells.append("   -!")
            continue
        broken = code.wrong(arch, case.wide, case.narrow, case.tensor_cores)
        wrong += [f"{case.name}, sm_{arch}: {text}" for text in broken]
        cells.append(f"{code.registers:>4}{'!' if broken else ' '}")
    return f"{case.name:<72} {''.join(cells)}", wrong


HEADING = f"{'registers a thread':<72} " + "".join(f"{a:>4} " for a in ARCHS)


@triton.jit
def greedy_kernel(x, out, BLOCK: tl.constexpr):
    """512 floats a thread, all alive until their maximum is known: no card has the registers."""
    i = tl.arange(0, BLOCK)
    values = tl.load(x + i)
    tl.store(out + i, values - tl.max(values, 0))


@triton.jit
def narrow_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i))


def self_check() -> list[tuple[str, bool]]:
    """Faults made on purpose, and whether the rules see them."""
    types = {"x": "*fp32", "out": "*fp32", "BLOCK": "constexpr"}
    greedy = compiled(Case(greedy_kernel, "", types, {"BLOCK": 16384}, options={"num_warps": 1}), 80)
    narrow = Case(narrow_kernel, "", types, {"BLOCK": 1024}, (), wide=2, narrow=0)
    unhinted = compiled(narrow, 80)
    crowded = Code(32, 0, 0, 0, 0, shared=SHARED[86] + 1)
    return [
        ("a kernel that spills", any("spills" in w for w in greedy.wrong(80))),
        ("a kernel with a stack", any("stack" in w for w in greedy.wrong(80))),
        ("feature loads of 4 bytes", len(unhinted.wrong(80, narrow.wide, narrow.narrow)) == 2),
        ("a product without tensor cores", greedy.wrong(80, tensor_cores=True)[-1] == "no tensor core"),
        ("shared memory the card lacks", crowded.wrong(86) != [] and crowded.wrong(80) == []),
    ]
