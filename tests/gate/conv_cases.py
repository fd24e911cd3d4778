"""The convolution's Triton kernels as the launchers launch them, read off the machine code of each architecture.

Its tiles come from a table by architecture, dtype and size, and its shapes are compile-time constants, so what is
compiled here is bound by the launchers themselves, at the sizes of the networks (KERNELS of CIFAR at a batch of 128).
"""

import contextlib
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from cvkernels import to_channels_last
from cvkernels.ops.conv2d import triton_gemm, triton_kernels, triton_weight

from . import ARCHS
from .triton_half import BIN, _run, read

ROOM = "conv2d"
KERNELS = {name for module in (triton_gemm, triton_weight) for name in vars(module) if name.endswith("_kernel")}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX = re.compile(r"\b(?:HMMA|HGMMA|UTC\w*MMA)\b")


@dataclass(frozen=True)
class ConvCase:
    """One launch: ``form`` is what is called, ``size`` ``[N, C, H, W]`` of the features."""

    form: str
    dtype: str
    size: tuple
    layout: str = "contiguous"
    channels: int = 0  # of the output; 0: as many as go in
    kernel: int = 3
    stride: int = 1
    real: bool = False

    @property
    def name(self) -> str:
        what = f"{self.form}{' real' if self.real else ''} {self.kernel}x{self.kernel}/{self.stride}"
        return f"{what} {'x'.join(map(str, self.size))}>{self.channels or self.size[1]}"


SIZES = ((128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8))
VGG = (32, 256, 56, 56)
CASES = [
    *(
        ConvCase(form, dtype, size, layout)
        for form in ("forward", "weight")
        for dtype in DTYPES
        for size in (SIZES[0], SIZES[2])
        for layout in ("contiguous", "channels-last")
    ),
    *(ConvCase("data", dtype, SIZES[2], "channels-last") for dtype in ("fp32", "tf32", "fp16")),
    ConvCase("data", "fp32", SIZES[0]),
    ConvCase("data", "tf32", (128, 16, 32, 32), channels=32, stride=2),
    ConvCase("forward", "fp16", (128, 16, 32, 32), "channels-last", channels=32, stride=2),
    ConvCase("data", "fp16", (128, 16, 32, 32), "channels-last", channels=32, kernel=1, stride=2),
    ConvCase("weight", "fp16", (128, 16, 32, 32), "channels-last", channels=32, stride=2),
    ConvCase("forward", "fp32", (128, 3, 32, 32), channels=6, kernel=5),
    ConvCase("forward", "fp16", (128, 3, 32, 32), channels=6, kernel=5),
    ConvCase("weight", "fp32", (128, 3, 32, 32), channels=6, kernel=5),
    *(ConvCase(form, "fp16", VGG, "channels-last") for form in ("forward", "data", "weight")),
    *(ConvCase(form, "tf32", VGG) for form in ("forward", "data", "weight")),
    *(ConvCase(form, "fp16", SIZES[1], real=True) for form in ("forward", "data", "weight")),
    ConvCase("power", "fp16", SIZES[0], "channels-last"),
    ConvCase("power", "fp32", SIZES[1]),
    ConvCase("norm_relu", "bf16", SIZES[2], "channels-last"),
    ConvCase("norm_relu", "tf32", SIZES[0]),
    ConvCase("norm_relu", "fp32", SIZES[1]),
]


class Named:
    """As much of a driver as compiling asks for; the device's number is the architecture, so each has its own cache."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.arch

    def get_current_stream(self, device=None):
        return 0


@contextlib.contextmanager
def collecting(arch: int):
    """What is launched inside is compiled for ``arch`` and not run; yields the list of (name, compiled kernel)."""
    run, architecture, found = JITFunction.run, triton_kernels.architecture, []

    def warm_up(self, *args, grid, warmup, **kwargs):
        found.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))
        return found[-1][1]

    driver.set_active(Named(arch))
    JITFunction.run, triton_kernels.architecture = warm_up, lambda z: arch
    try:
        yield found
    finally:
        JITFunction.run, triton_kernels.architecture = run, architecture


def launch(case: ConvCase) -> None:
    """The launcher on tensors of the case's size; their memory is never touched."""
    n, c, h, w = case.size
    dtype = DTYPES[case.dtype]
    torch.backends.cudnn.conv.fp32_precision = "tf32" if case.dtype == "tf32" else "ieee"
    o, pad = case.channels or c, case.kernel // 2
    how = ((case.stride,) * 2, (pad,) * 2, (1, 1))
    a = torch.empty(o, c, case.kernel, case.kernel, dtype=dtype)
    weights = (a, None if case.real else torch.empty_like(a))
    z = _laid_out(torch.empty(n, 2, c, h, w, dtype=dtype), case.layout)
    y = triton_kernels._fake_forward(z, *weights, *how)
    if case.form == "forward":
        triton_kernels.conv2d_forward(z, *weights, *how)
    elif case.form == "power":
        triton_kernels.conv2d_power_forward(z, *weights, *how)
    elif case.form == "norm_relu":
        triton_kernels.conv2d_norm_relu_forward(z, *weights, torch.empty(o), y, *how, 1.0)
    elif case.form == "data":
        triton_kernels.conv2d_backward_data(y, *weights, (h, w), *how)
    else:
        triton_kernels.conv2d_backward_weight(y, z, a.shape[2:], not case.real, *how)


def _laid_out(z, layout):
    n, _, c, h, w = z.shape
    return z if layout == "contiguous" else z.new_empty(n, h, w, 2, c).permute(0, 3, 4, 1, 2)


def matrix(kernel) -> int:
    """Instructions for tensor cores."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        return len(MATRIX.findall(_run(BIN / "nvdisasm", "-c", str(cubin))))


def rules(case: ConvCase, arch: int, name: str, kernel) -> tuple[int, list[str]]:
    """Registers of one kernel, and what is wrong with it."""
    code = read(kernel)
    wrong = code.wrong(arch, 0, code.narrow)
    if name != "conv2d_sum_kernel":
        meant = arch >= 80 and case.dtype != "fp32"
        found = matrix(kernel)
        if bool(found) != meant:
            wrong.append(f"{found} tensor-core instructions, {'some' if meant else 'none'} meant")
        if case.layout == "channels-last" and not code.wide:
            wrong.append("channels-last features are not loaded 16 bytes at a time")
    return code.registers, [f"{name}: {text}" for text in wrong]


def row(number: int) -> tuple[str, list[str], int]:
    """One row of the table, most registers for each architecture; what is wrong in it; how many kernels it stands for."""
    case, wrong, cells, count = CASES[number], [], [], 0
    for arch in ARCHS:
        if case.dtype == "tf32" and arch < 80:
            cells.append("   - ")
            continue
        try:
            with collecting(arch) as found:
                launch(case)
            read_off = [rules(case, arch, *one) for one in found]
        except Exception as error:  # whatever the compiler raises, the other architectures are still checked
            wrong.append(f"{case.name}, {case.layout}, {case.dtype}, sm_{arch}: {type(error).__name__}: {error}"[:500])
            cells.append("   -!")
            continue
        count += len(found)
        broken = [text for _, texts in read_off for text in texts]
        wrong += [f"{case.name}, {case.layout}, {case.dtype}, sm_{arch}: {text}" for text in broken]
        cells.append(f"{max(registers for registers, _ in read_off):>4}{'!' if broken else ' '}")
    return f"{'conv2d ' + case.name:<42} {case.layout:<14} {case.dtype:<5} {''.join(cells)}", wrong, count


def missing() -> set[str]:
    """Kernels that no case launches; for a process of its own, since it changes Triton's driver."""
    launched = set()
    with collecting(ARCHS[-1]) as found:
        for form in ("forward", "power", "norm_relu", "data", "weight"):
            launch(next(case for case in CASES if case.form == form))
        launched |= {name for name, _ in found}
    return KERNELS - launched


def self_check() -> list[tuple[str, bool]]:
    """A fault made on purpose, and whether the rules see it."""
    case = next(c for c in CASES if c.form == "forward" and c.dtype == "fp32" and c.layout == "channels-last")
    with collecting(80) as found:
        launch(case)
    pretends = ConvCase("forward", "fp16", case.size, case.layout)
    return [("a convolution without tensor cores", any("tensor-core" in w for w in rules(pretends, 80, *found[0])[1]))]
